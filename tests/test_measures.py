"""Line art, copies and intervals, on pictures and numbers whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, preprocessed
from PIL import Image, ImageDraw, ImageOps

from tattoo_lora.bootstrap import Difference, paired_difference
from tattoo_lora.copies import nearest, pixel_embeds, with_mirrored
from tattoo_lora.line_art import LineArt, mean_line_art, measure


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


@pytest.mark.parametrize(
    ("change", "is_like"),
    [
        ({}, True),
        ({"saturation": 0.14}, True),
        ({"saturation": 0.16}, False),
        ({"grey": 0.29}, True),
        ({"grey": 0.31}, False),
        ({"ink": 0.051}, True),
        ({"ink": 0.049}, False),
        ({"ink": 0.199}, True),
        ({"ink": 0.201}, False),
    ],
)
def test_line_art_is_near_the_target_in_ink_grey_and_saturation(change, is_like):
    target = LineArt(ink=0.1, saturation=0.1, grey=0.2, stroke=3, spread=0.5, pieces=2, specks=0)
    assert replace(target, **change).is_like(target) == is_like


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


def test_coloured_drawings_are_not_line_art_and_line_drawings_are():
    line = [preprocessed(path) for path in sorted((ROOT / "data/raw/flash").glob("*.png"))[:60]]
    target = mean_line_art([measure(image) for image in line[::2]])
    others = line[1::2]
    assert mean_line_art([measure(image) for image in others]).is_like(target)

    def fill(image):
        painted = image.copy()
        ImageDraw.floodfill(painted, (32, 32), (230, 120, 20), thresh=60)
        return painted

    assert not mean_line_art([measure(fill(image)) for image in others]).is_like(target)
    shaded = [ImageOps.colorize(image.convert("L"), "black", (170, 170, 170)) for image in others]
    assert not mean_line_art([measure(image) for image in shaded]).is_like(target)


def test_a_copy_and_a_mirrored_copy_are_found_and_another_drawing_is_not():
    names = ("owl", "skull", "key", "anchor")
    drawings = [preprocessed(ROOT / f"data/raw/flash/{name}.png") for name in names]
    embeds = pixel_embeds(with_mirrored(drawings[:3]))
    for picture in (drawings[1], ImageOps.mirror(drawings[1])):
        found = nearest(pixel_embeds([picture]), embeds)
        assert found.rows.tolist() == [1] and found.similarity.item() == pytest.approx(1, abs=1e-5)
    assert nearest(pixel_embeds([drawings[3]]), embeds).similarity.item() < 0.7


def test_an_empty_picture_is_like_nothing():
    embeds = pixel_embeds([Image.new("RGB", (64, 64), "white")])
    assert torch.equal(embeds, torch.zeros_like(embeds))


def test_a_difference_is_real_where_its_interval_leaves_out_zero():
    random = np.random.default_rng(1)
    one = random.normal(size=40)
    same, better = paired_difference(one, one + random.normal(0, 0.1, 40)), paired_difference(one - 0.1, one)
    assert not same.is_real()
    assert better.is_real() and better.mean == pytest.approx(-0.1)
    assert not better.is_real(smallest=0.2)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    random = np.random.default_rng(2)
    held = 0
    for _ in range(60):
        found = paired_difference(random.normal(0.3, 1, 40), np.zeros(40))
        held += found.low <= 0.3 <= found.high
    assert held >= 52


def test_one_pair_says_nothing_and_equal_differences_leave_no_doubt():
    assert not paired_difference(np.array([2.0]), np.array([1.0])).is_real()
    assert paired_difference(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == Difference(1.0, 1.0, 1.0)
    assert not paired_difference(np.ones(3), np.ones(3)).is_real()
