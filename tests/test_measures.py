"""Line art and copies, on pictures and numbers whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, preprocessed
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter

from stages.evaluate.copies import nearest, pixel_embeds, with_mirrored
from stages.evaluate.style import style_distances, vendi_score
from tattoo_lora.data.split import file_sha256, split_contents
from tattoo_lora.diffusion.line_art import LineArt, are_line_art, count_line_art, mean_line_art, measure
from tattoo_lora.params import load_params


def paper(size=100):
    image = Image.new("RGB", (size, size), "white")
    return image, ImageDraw.Draw(image)


def test_strokes_are_as_wide_as_they_were_drawn():
    for width in (1, 3, 5, 9):
        image, pen = paper()
        pen.rectangle((10, 50, 89, 50 + width - 1), "black")
        measured = measure(image)
        assert measured.stroke == pytest.approx(width)  # the picture is 100 px wide: pixels are percents
        assert measured.ink == pytest.approx(80 * width / 100**2)
        assert (measured.pieces, measured.specks, measured.saturation, measured.grey) == (1, 0, 0, 0)


def test_the_same_drawing_twice_as_large_measures_the_same():
    image, pen = paper(200)
    pen.line((20, 20, 180, 90), "black", 8)
    small, large = measure(image), measure(image.resize((400, 400), Image.Resampling.NEAREST))
    assert large.ink == small.ink
    assert large.stroke == pytest.approx(small.stroke, rel=0.1)


def test_strokes_of_two_widths_spread():
    image, pen = paper()
    pen.rectangle((10, 20, 89, 22), "black")
    assert measure(image).spread == 0
    pen.rectangle((10, 60, 89, 68), "black")
    assert measure(image).spread > 0.5


def test_pieces_and_specks_are_counted_apart():
    image, pen = paper()
    pen.rectangle((10, 10, 30, 12), "black")
    pen.rectangle((50, 50, 70, 52), "black")
    pen.line((71, 53, 80, 62), "black")  # touches by a corner: the same piece
    for x in (5, 25, 45):
        pen.point((x, 90), "black")
    assert (measure(image).pieces, measure(image).specks) == (2, 3)


def test_shading_is_grey_and_colour_is_saturation():
    image, pen = paper()
    pen.rectangle((0, 0, 99, 24), (128, 128, 128))
    assert (measure(image).grey, measure(image).saturation) == (0.25, 0)
    pen.rectangle((0, 0, 99, 24), (255, 0, 0))
    assert measure(image).saturation == 0.25


@pytest.mark.parametrize(
    ("color", "is_ink", "is_skin"),
    [
        ((101, 101, 101), True, False),  # Y 0.396, the limit is 0.4
        ((103, 103, 103), False, False),
        ((216, 216, 216), False, False),  # Y 0.847, the limit is 0.85
        ((217, 217, 217), False, True),
        ((230, 255, 255), False, True),  # chroma 0.098, the limit is 0.1
        ((229, 255, 255), False, False),
        ((255, 0, 0), True, False),  # Y 0.2126
        ((0, 255, 0), False, False),  # 0.7152
        ((0, 0, 255), True, False),  # 0.0722
        ((255, 111, 0), False, False),  # 0.524: red and green add up
        ((0, 141, 0), True, False),  # 0.395
    ],
)
def test_ink_is_dark_and_skin_is_light_and_without_colour(color, is_ink, is_skin):
    measured = measure(Image.new("RGB", (20, 20), color))
    assert measured.ink == is_ink
    assert measured.grey == (not is_ink and not is_skin)


def test_a_speck_is_smaller_than_a_twothousandth_of_the_picture():
    image, pen = paper()
    pen.rectangle((10, 10, 13, 10), "black")  # 4 of 10,000
    pen.rectangle((50, 50, 54, 50), "black")  # 5
    assert (measure(image).pieces, measure(image).specks) == (1, 1)


STROKES = LineArt(ink=0.1, saturation=0.0, grey=0.05, stroke=3.0, spread=0.5, pieces=2, specks=0)


@pytest.mark.parametrize(
    ("change", "is_line_art"),
    [
        ({}, True),
        ({"saturation": 0.0119}, True),  # the limit is 0.08 of what is drawn, 0.15
        ({"saturation": 0.0121}, False),
        ({"grey": 0.1}, True),
        ({"grey": 0.11}, False),
        ({"stroke": 6.0}, True),
        ({"stroke": 6.1}, False),
        ({"ink": 0.5}, True),
        ({"ink": 0.51}, False),
        ({"ink": 0.0, "grey": 0.0, "stroke": np.nan}, False),
    ],
)
def test_line_art_has_its_limits(change, is_line_art):
    assert replace(STROKES, **change).is_line_art == is_line_art


@pytest.mark.parametrize(("ink", "are"), [(0.051, True), (0.049, False), (0.199, True), (0.201, False)])
def test_pictures_have_half_to_twice_the_targets_ink(ink, are):
    assert are_line_art([replace(STROKES, ink=ink, grey=0.01)], STROKES) == are


def test_at_least_half_of_the_pictures_are_line_art():
    other = replace(STROKES, stroke=9)
    assert are_line_art([STROKES, other], STROKES) and not are_line_art([STROKES, other, other], STROKES)


@pytest.mark.parametrize("color", ["white", "black"])
def test_a_picture_of_one_colour_is_measured(color):
    measured = measure(Image.new("RGB", (64, 64), color))
    assert measured.ink == (color == "black")
    assert np.isnan(measured.stroke) == (color == "white")
    assert mean_line_art([measured, measured]).ink == measured.ink


def test_pictures_without_ink_do_not_count_for_the_stroke():
    image, pen = paper()
    pen.rectangle((10, 50, 89, 52), "black")
    assert mean_line_art([measure(image), measure(paper()[0])]).stroke == 3
    assert np.isnan(mean_line_art([measure(paper()[0])]).stroke)


@pytest.fixture(scope="module")
def line():
    return [preprocessed(path) for path in sorted((ROOT / "data/raw/flash").glob("*.png"))[:60]]


def fill(image, color, thresh=60):
    """The drawing with what its middle is in filled, as an emoji's is."""
    painted = image.convert("RGB")
    ImageDraw.floodfill(painted, (32, 32), color, thresh=thresh)
    return painted


def tint(image, paper):
    return ImageOps.colorize(image.convert("L"), "black", paper)


def coloured_lines(image):
    return ImageOps.colorize(image.convert("L"), (20, 40, 160), "white")


def blobs(image):
    """As much ink as the drawing has, in smooth blobs."""
    noise = gaussian_filter(np.random.default_rng(int(np.asarray(image).sum())).normal(size=(64, 64)), 5)
    ink = (np.asarray(image.convert("L")) < 102).mean()
    return Image.fromarray(np.where(noise > np.quantile(noise, 1 - ink), 0, 255).astype(np.uint8))


OTHERS = {
    "filled with orange": lambda image: fill(image, (230, 120, 20)),
    "filled with pale pink": lambda image: fill(image, (250, 200, 210)),
    "filled with grey": lambda image: fill(image, (150, 150, 150)),
    "on pale yellow paper": lambda image: tint(image, (255, 250, 225)),
    "on grey paper": lambda image: tint(image, (170, 170, 170)),
    "in light blue lines": lambda image: ImageOps.colorize(image.convert("L"), (120, 160, 250), "white"),
    "in dark blue lines": coloured_lines,
    "blobs": blobs,
    "blank": lambda image: Image.new("RGB", image.size, "white"),
    "black": lambda image: Image.new("RGB", image.size, "black"),
    "a photo of noise": lambda image: Image.effect_noise(image.size, 60).convert("RGB"),
    "white on black": lambda image: ImageOps.invert(image.convert("RGB")),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_pictures_are_not_line_art_even_if_the_held_out_drawings_are_the_same(line, kind):
    others = [measure(OTHERS[kind](image)) for image in line[1::2]]
    target = mean_line_art([measure(image) for image in line[::2]])
    assert not are_line_art(others, target)
    assert not are_line_art(others, mean_line_art(others))


def test_line_drawings_are_line_art_at_any_size_and_bolder_too(line):
    measured = [measure(image) for image in line]
    target = mean_line_art(measured)
    assert are_line_art(measured, target) and count_line_art(measured) == 59  # not the filled pawn
    large = [measure(image.resize((256, 256), Image.Resampling.LANCZOS)) for image in line[:20]]
    assert are_line_art(large, target) and count_line_art(large) == 20
    bold = [measure(image.filter(ImageFilter.MinFilter(3))) for image in line[:20]]
    assert are_line_art(bold, mean_line_art(bold))


def test_half_of_the_pictures_in_colour_do_not_vanish_in_a_mean(line):
    plain, blue = ([measure(draw(image)) for image in line] for draw in (lambda image: image, coloured_lines))
    target, mixed = mean_line_art(plain), blue[:31] + plain[31:]
    assert mean_line_art(mixed).saturation < 0.05 and mean_line_art(mixed).grey < target.grey + 0.1
    assert not are_line_art(mixed, target) and are_line_art(blue[:28] + plain[28:], target)


def test_pictures_of_line_art_with_a_fraction_of_the_ink_are_not_what_was_asked_for(line):
    image, pen = paper(64)
    pen.line((20, 30, 36, 30), "black", 2)
    target = mean_line_art([measure(image) for image in line])
    assert measure(image).is_line_art and not are_line_art([measure(image)] * 4, target)


def test_a_copy_and_a_mirrored_copy_are_found_and_another_drawing_is_not():
    names = ("owl", "skull", "key", "anchor")
    drawings = [preprocessed(ROOT / f"data/raw/flash/{name}.png") for name in names]
    embeds = pixel_embeds(with_mirrored(drawings[:3])).unflatten(0, (2, 3)).transpose(0, 1)
    for picture in (drawings[1], ImageOps.mirror(drawings[1])):
        found = nearest(pixel_embeds([picture]), embeds)
        assert found.rows.tolist() == [1] and found.similarity.item() == pytest.approx(1, abs=1e-5)
    assert nearest(pixel_embeds([drawings[3]]), embeds).similarity.item() < 0.7


def test_an_empty_picture_is_like_nothing():
    embeds = pixel_embeds([Image.new("RGB", (64, 64), "white")])
    assert torch.equal(embeds, torch.zeros_like(embeds))


def unit(*shape, seed):
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_mean_style_distance_is_cmmd():
    """By CMMD's own formula, over all pairs of different ones."""
    pictures, drawings = unit(7, 16, seed=0).double(), unit(5, 16, seed=1).double()

    def mean(one, other):
        pairs = [(a, b) for a in one for b in other if a is not b]
        return np.mean([np.exp(-(a - b).square().sum().item() / 200) for a, b in pairs])

    sets = [list(pictures), list(drawings)]
    expected = 1000 * (mean(sets[0], sets[0]) + mean(sets[1], sets[1]) - 2 * mean(*sets))
    assert style_distances(pictures, drawings).mean().item() == pytest.approx(expected)
    same = [style_distances(unit(5, 16, seed=2 * i), unit(5, 16, seed=2 * i + 1)).mean().item() for i in range(200)]
    assert abs(np.mean(same)) < 0.15 < np.std(same)  # 0 for the same kind, however few, and 2 / 5 * 10 were it biased
    assert style_distances(pictures[:1], drawings[:1]).isfinite().all()


def test_a_pictures_share_in_the_style_distance_is_its_influence():
    """With a little more weight on one picture CMMD changes as its share says."""
    pictures, drawings = unit(6, 16, seed=0), unit(5, 16, seed=1)
    many = pictures.repeat(1000, 1)
    before, after = (style_distances(one, drawings).mean() for one in (many, torch.cat([many, many[:1]])))
    share = style_distances(many, drawings)[0]
    assert (after - before).item() * 6001 == pytest.approx((share - before).item(), rel=0.03)


def test_one_picture_for_all_seeds_has_a_vendi_score_of_1_and_pictures_without_likeness_their_number():
    assert vendi_score(unit(1, 16, seed=0).expand(4, -1)) == pytest.approx(1)
    assert vendi_score(torch.eye(4, 16)) == pytest.approx(4)
    assert vendi_score(torch.eye(4, 16)[[0, 0, 1, 1]]) == pytest.approx(2)


def test_the_prompts_name_drawings_that_are_reported_on_and_that_no_other_drawing_equals():
    params = load_params(ROOT)
    files = {file_sha256(path): path for path in (ROOT / "data/raw/flash").glob("*.png")}
    splits = {
        files[content]: split
        for content, split in split_contents(files, params.preprocess.val_share, params.preprocess.test_share).items()
    }
    learned = [preprocessed(path) for path in splits if splits[path] == "train"]
    drawings = torch.stack(pixel_embeds(with_mirrored(learned)).chunk(2), dim=1)
    for prompt in params.evaluate.prompts:
        name = prompt.split(",")[0].split(" ", 1)[1].replace(" ", "-")
        [path] = [path for path in splits if path.stem == name]
        assert splits[path] == "test", path
        near = nearest(pixel_embeds([preprocessed(path)]), drawings).similarity.item()
        assert near < params.evaluate.copy_correlation, path
