"""The views of a drawing that are encoded: as it is, in other places on its paper, and their mirror images."""

import numpy as np
import pytest
import torch
from conftest import PROCESSED, ROOT, call, copy_project, preprocessed, set_value
from PIL import Image, ImageOps
from safetensors.torch import load_file

from stages import encode
from stages.encode import SMALLEST, encode_moments, place, to_pixel_values
from tattoo_lora.diffusion.models import load_vae
from tattoo_lora.params import Model

PAPER = (240, 230, 200)


def drawing(size=(20, 40), page=64, paper=PAPER):
    """A black block of that size in the middle of the page, 12 px from its upper and lower edges."""
    image = Image.new("RGB", (page, page), paper)
    image.paste((0, 0, 0), ((page - size[0]) // 2, (page - size[1]) // 2, (page + size[0]) // 2, (page + size[1]) // 2))
    return image


def box(image):
    """left, top, right, bottom of what is darker than the paper."""
    return ImageOps.invert(image.convert("L").point(lambda level: 255 if level > 128 else 0)).getbbox()


def test_placement_0_is_the_drawing_and_each_number_has_a_place_of_its_own_every_time():
    image = drawing()
    assert place(image, 0) is image
    placed = [place(image, number).tobytes() for number in range(5)]
    assert len(set(placed)) == 5
    assert placed == [place(drawing(), number).tobytes() for number in range(5)]
    assert box(place(drawing((22, 40)), 1)) != box(place(image, 1))  # two drawings are not placed alike


def test_a_placed_drawing_is_whole_on_its_own_paper_and_no_nearer_to_the_edge():
    boxes = np.array([box(place(drawing(), number)) for number in range(1, 60)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert widths.min() >= SMALLEST * 20 - 1 and widths.max() <= 20 and heights.max() == 40
    assert heights.min() == pytest.approx(SMALLEST * 40, abs=2)
    assert np.abs(heights - 2 * widths).max() <= 2  # nothing is squeezed
    assert boxes[:, :2].min() == 12 and boxes[:, 2:].max() == 52  # both edges of the room are reached, none is crossed
    placed = np.asarray(place(drawing(), 1))
    assert (placed[0] == PAPER).all() and (placed[:, -1] == PAPER).all()


def test_an_empty_page_stays_as_it_is():
    page = Image.new("RGB", (64, 64), PAPER)
    assert place(page, 3) is page


def test_the_ink_of_a_real_drawing_is_all_there():
    image = preprocessed(ROOT / "data/raw/flash/owl.png").convert("RGB")
    for number in range(1, 6):
        placed = place(image, number)
        left, top, right, bottom = box(image)
        scale = (box(placed)[2] - box(placed)[0]) / (right - left)
        ink, placed_ink = (255.0 - np.asarray(picture.convert("L"), float).mean() for picture in (image, placed))
        assert placed_ink / ink == pytest.approx(scale**2, rel=0.1)


@pytest.fixture(scope="module")
def written(processed, tmp_path_factory):
    """Moments by file, with one placement and with three."""
    copy = copy_project(processed, tmp_path_factory.mktemp("placed") / "p")
    set_value(copy / "params.yaml", "placements", 3)
    call(encode, copy, PROCESSED, "--out", "placed.safetensors")
    return copy, load_file(copy / PROCESSED / "latents.safetensors"), load_file(copy / "placed.safetensors")


def test_the_first_views_are_those_that_there_would_be_without_placements(written):
    _, plain, placed = written
    assert {len(moments) for moments in plain.values()} == {2} and {len(moments) for moments in placed.values()} == {6}
    assert all(torch.equal(placed[file][:2], plain[file]) for file in plain)


def test_each_placement_is_encoded_and_after_it_its_mirror_image(written):
    copy, _, placed = written
    vae = load_vae(Model(str(ROOT / "models/embedded/base"), None))
    image = Image.open(copy / PROCESSED / "images/owl.png").convert("RGB")
    for number in range(3):
        view = to_pixel_values([place(image, number), ImageOps.mirror(place(image, number))])
        assert torch.allclose(placed["owl.png"][2 * number : 2 * number + 2], encode_moments(vae, view), atol=1e-4)
