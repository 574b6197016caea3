"""Lines drawn anew: at another width, across breaks, and as paths; what is apart stays apart."""

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt
from skimage.measure import euler_number, label

from app.stencil.ink import make_stencil
from app.stencil.lines import find_joins
from app.stencil.options import Options
from app.stencil.skeleton import trace_centre_lines
from app.stencil.topology import grow
from app.stencil.widths import measure

WIDTH_MM = 80


def paper(side=800):
    """Ten pixels are a millimetre of the print."""
    image = Image.new("L", (side, side), "white")
    return image, ImageDraw.Draw(image)


def sketch():
    image, pen = paper()
    pen.ellipse((60, 60, 360, 300), outline="black", width=14)
    pen.rectangle((420, 60, 700, 300), outline="black", width=30)
    pen.line((60, 400, 400, 460, 740, 380), "black", 8, joint="curve")
    pen.line((200, 420, 260, 700), "black", 22)
    pen.arc((380, 480, 720, 760), 20, 330, "black", 18)
    return image


PICTURES = {"sketch": sketch} | {
    name: lambda name=name: Image.open(ROOT / f"data/raw/flash/{name}.png") for name in ("owl", "robot", "tornado")
}


@pytest.mark.parametrize("line_mm", [0.6, 1, 2])
@pytest.mark.parametrize("name", PICTURES)
def test_all_lines_get_the_width_that_is_asked_for_and_shapes_stay_closed(name, line_mm):
    image = PICTURES[name]()
    drawn, options = make_stencil(image, Options(width_mm=WIDTH_MM)), Options(width_mm=WIDTH_MM, line_mm=line_mm)
    stencil = make_stencil(image, options)
    widths = measure(stencil.level, 2 * line_mm * options.px_per_mm).widths / options.px_per_mm
    assert np.percentile(widths, [1, 50, 99]) == pytest.approx([line_mm] * 3, abs=0.1)
    # The same of the black and white pixels, which are 0.085 mm wide.
    centres = trace_centre_lines(stencil.level).skeleton
    in_pixels = 2 * np.median(distance_transform_edt(stencil.ink)[centres]) - 0.5
    assert in_pixels / options.px_per_mm == pytest.approx(line_mm, abs=0.1)
    assert euler_number(stencil.ink, 2) == euler_number(drawn.ink, 2)
    assert label(stencil.ink, connectivity=2).max() == label(drawn.ink, connectivity=2).max()


def test_lines_that_become_too_wide_for_their_place_stay_apart():
    image, pen = paper()
    for y in (200, 215, 230):
        pen.rectangle((100, y, 700, y + 4), "black")
    pen.ellipse((300, 400, 330, 430), outline="black", width=4)  # its hole would be filled
    for options in (Options(WIDTH_MM, line_mm=2.5), Options(WIDTH_MM, min_stroke_mm=2.5)):
        ink = make_stencil(image, options).ink
        assert (label(ink, connectivity=2).max(), label(~ink, connectivity=1).max()) == (4, 2)


def test_areas_keep_their_size():
    image, pen = paper()
    pen.ellipse((200, 200, 400, 400), "black")
    for y in range(450, 700, 50):
        pen.line((100, y, 700, y), "black", 8)
    options = Options(WIDTH_MM, line_mm=1.2)
    ink = make_stencil(image, options).ink
    assert 2 * distance_transform_edt(ink).max() / options.px_per_mm == pytest.approx(20, abs=0.2)


def test_growing_joins_nothing_and_fills_no_hole():
    generator = np.random.default_rng(0)
    seed = generator.random((60, 60)) < 0.05
    target = np.ones_like(seed)
    order = np.floor(distance_transform_edt(~seed)).astype(np.int32)
    grown = grow(seed, target, order)
    assert (grown & seed).sum() == seed.sum() and grown.mean() > 0.5
    assert euler_number(grown, 2) == euler_number(seed, 2)
    assert label(grown, connectivity=2).max() == label(seed, connectivity=2).max()


def broken():
    """Three breaks to join, as (y, x) of their middles in px, beside ends that must stay apart."""
    image, pen = paper()
    pen.line((60, 100, 300, 100), "black", 12)
    pen.line((312, 100, 600, 100), "black", 12)  # straight on: 1.2 mm
    pen.arc((100, 200, 300, 400), 5, 355, "black", 12)  # a ring that is almost closed: 1.7 mm
    pen.line((400, 300, 600, 300), "black", 12)
    pen.line((612, 312, 612, 420), "black", 12)  # around a corner
    pen.line((60, 500, 300, 500), "black", 12)  # two lines beside each other, both ending here
    pen.line((60, 522, 300, 522), "black", 12)
    pen.line((400, 500, 600, 500), "black", 12)  # two that end at a third, which runs between
    pen.line((612, 460, 612, 560), "black", 8)
    pen.line((624, 500, 740, 500), "black", 12)
    pen.line((60, 600, 300, 600), "black", 12)  # too far away: 3 mm
    pen.line((330, 600, 600, 600), "black", 12)
    pen.ellipse((100, 700, 114, 714), "black")  # dots
    pen.ellipse((122, 700, 136, 714), "black")
    return image, [(100, 306), (300, 300), (304, 606)]


@pytest.mark.parametrize("mirror", [False, True])
def test_exactly_the_breaks_are_joined(mirror):
    image, middles = broken()
    before = make_stencil(image, Options(WIDTH_MM, mirror=mirror))
    options = Options(WIDTH_MM, close_gaps_mm=2, mirror=mirror)
    stencil = make_stencil(image, options)
    assert before.joins == [] and len(stencil.joins) == 3
    scale = stencil.level.shape[1] / 800
    expected = [(y, 799 - x if mirror else x) for y, x in middles]
    joined = sorted(tuple((join.start + join.end) / 2 / scale) for join in stencil.joins)
    assert np.array(joined) == pytest.approx(np.array(sorted(expected)), abs=9)
    pieces = [label(ink, connectivity=2).max() for ink in (before.ink, stencil.ink)]
    holes = [label(~ink, connectivity=1).max() for ink in (before.ink, stencil.ink)]
    assert pieces == [14, 12] and holes == [1, 2]  # the ring is one piece before and after
    assert not (before.ink & ~stencil.ink).any()


@pytest.mark.parametrize("tolerance", [0.3, 5])
def test_the_tolerance_says_how_far_ends_may_be_apart(tolerance):
    level = make_stencil(broken()[0], Options(WIDTH_MM)).level
    joins = find_joins(level, trace_centre_lines(level), tolerance * Options(WIDTH_MM).px_per_mm)
    assert len(joins) == {0.3: 0, 5: 5}[tolerance]
