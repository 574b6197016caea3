"""Lines and gaps of known widths, measured; and the size that a drawing needs."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

from app.stencil.findings import examine, narrow, sentence, smallest_width
from app.stencil.heat_map import CLOSE, JOINED, THIN, draw_heat_map
from app.stencil.ink import make_stencil
from app.stencil.options import STYLES, Options, with_style
from app.stencil.widths import measure, narrow_places

SIDE = 1600  # px of the planted pictures, so many mm wide as is said
PLANTED = (12, 20, 32, 48)  # px
BAR = 60


def paper(side=SIDE):
    image = Image.new("L", (side, side), "white")
    return image, ImageDraw.Draw(image)


def lines(turned=0):
    image, pen = paper()
    for number, width in enumerate(PLANTED):
        pen.rectangle((300, 400 + 200 * number, 1300, 399 + 200 * number + width), "black")
    return image.rotate(turned, Image.Resampling.BICUBIC, fillcolor="white")


def gaps(turned=0):
    image, pen = paper()
    for number, width in enumerate(PLANTED):
        left = 350 + 250 * number
        pen.rectangle((left - BAR, 400, left - 1, 1200), "black")
        pen.rectangle((left + width, 400, left + width + BAR - 1, 1200), "black")
    return image.rotate(turned, Image.Resampling.BICUBIC, fillcolor="white")


def find(image, options):
    return examine(make_stencil(image, options), options)


@pytest.mark.parametrize("width_mm", [40, 80, 160])
@pytest.mark.parametrize("turned", [0, 17])
@pytest.mark.parametrize(("planted", "sign"), [(lines, 1), (gaps, -1)])
def test_planted_widths_are_measured_to_a_tenth_of_a_millimetre(planted, sign, turned, width_mm):
    options = Options(width_mm=width_mm)
    level = sign * make_stencil(planted(turned), options).level
    true = [width * width_mm / SIDE for width in PLANTED]
    limit = (true[-1] + 0.2) * options.px_per_mm
    places = narrow_places(level, measure(level, limit), limit)
    assert len(places) == len(PLANTED)
    measured = sorted(np.median(place.widths) / options.px_per_mm for place in places)
    assert measured == pytest.approx(true, abs=0.1)
    assert sorted(place.width / options.px_per_mm for place in places) == pytest.approx(true, abs=0.1)


def comb():
    """Lines of 1.5% of the width, 1.8% apart, with a narrow hole and a neck between two discs."""
    image, pen = paper(800)
    for x in range(100, 500, 26):
        pen.rectangle((x, 100, x + 11, 400), "black")
    pen.ellipse((500, 500, 600, 600), "black")
    pen.ellipse((611, 500, 711, 600), "black")  # 10 px apart
    pen.ellipse((150, 500, 250, 600), "black")
    pen.ellipse((190, 540, 209, 559), "white")
    return image


SKETCHES = {
    "comb": (comb, {"min_gap_mm": 0.9}),
    "lines": (lines, {"thin_mm": 0.5}),
    "gaps": (gaps, {"min_gap_mm": 1.5}),
    "comb, its lines drawn at 0.5 mm": (comb, {"line_mm": 0.5, "min_gap_mm": 1.5}),
    "bison": (lambda: Image.open(ROOT / "data/raw/flash/bison.png"), {"min_gap_mm": 0.6}),
    "owl, fine lines": (lambda: Image.open(ROOT / "data/raw/flash/owl.png"), {"line_mm": 0.5, "min_gap_mm": 1.5}),
}


@pytest.mark.parametrize("name", SKETCHES)
@pytest.mark.parametrize("width_mm", [40, 90])
def test_the_width_that_is_advised_is_enough_and_five_percent_less_is_not(name, width_mm):
    draw, limits = SKETCHES[name]
    image = draw()
    options = Options(width_mm=width_mm, **limits)
    needs_mm = find(image, options).needs_mm
    # Lines that are drawn anew end a little differently at each size: there the answer is not as sharp.
    enough, less = (replace(options, width_mm=needs_mm * share) for share in (1, 0.8 if options.line_mm else 0.95))
    assert narrow(make_stencil(image, enough), enough)[:2] == ([], [])
    thin, close, _ = narrow(make_stencil(image, less), less)
    assert thin or close


def test_points_and_corners_always_run_out_and_a_hair_or_a_slit_does_not():
    image, pen = paper(3600)
    pen.polygon([(400, 400), (560, 400), (480, 2000)], "black")  # a thorn
    pen.line((1200, 400, 1600, 2000), "black", 80)  # a narrow V
    pen.line((2000, 400, 1600, 2000), "black", 80)
    image = image.resize((900, 900), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(image)
    options = Options(width_mm=90, min_gap_mm=1.0)
    assert (find(image, options).thin, find(image, options).close) == ([], [])
    pen.rectangle((600, 100, 700, 200), "black")
    pen.rectangle((648, 200, 651, 400), "black")  # 0.4 mm, at an area
    pen.rectangle((600, 500, 700, 800), "black")
    pen.rectangle((647, 500, 653, 700), "white")  # 0.7 mm, closed below
    found = find(image, options)
    assert [len(found.thin), len(found.close)] == [1, 1]
    y, x = found.thin[0].narrowest / options.px_per_mm
    assert 20 < y < 40 and x == pytest.approx(65, abs=0.2)


def test_a_line_that_is_thin_at_every_size_needs_no_size_but_another_width():
    image = comb()
    options = Options(width_mm=60, line_mm=0.3, min_gap_mm=0.1)
    found = find(image, options)
    assert found.thin and found.needs_mm is None
    assert sentence(found, 0, options).startswith("no print up to 1000 mm is large enough; at 60 mm ")


def test_what_is_found_is_said_in_one_sentence():
    image = gaps()
    small, large = Options(width_mm=40, min_gap_mm=0.7), Options(width_mm=160, min_gap_mm=0.7)
    said = sentence(find(image, small), 0, small)
    needs = re.fullmatch(r"this needs ([\d.]+) mm; at 40 mm 2 gaps of less than 0.7 mm may close", said)
    assert float(needs[1]) == pytest.approx(0.7 / 12 * SIDE, rel=0.1)
    assert re.fullmatch(
        r"all lines and gaps are wide enough at 160 mm, and from 9\d(\.\d)? mm on; 2 breaks were joined",
        sentence(find(image, large), 2, large),
    )


def color_share(picture, colour):
    return (np.asarray(picture) == colour).all(axis=2).mean()


def test_the_heat_map_has_the_stencils_size_and_colours_what_is_found():
    image = comb()
    pen = ImageDraw.Draw(image)
    pen.rectangle((100, 700, 300, 702), "black")
    pen.rectangle((315, 700, 500, 702), "black")
    options = Options(width_mm=100, min_gap_mm=1.5, close_gaps_mm=3)
    stencil = make_stencil(image, options)
    picture = draw_heat_map(stencil, examine(stencil, options), options)
    height, width = stencil.level.shape
    assert picture.width == width and picture.height > height
    assert all(color_share(picture.crop((0, 0, width, height)), colour) > 1e-4 for colour in (THIN, CLOSE, JOINED))
    assert color_share(picture.crop((0, height, width, picture.height)), THIN) > 1e-3  # the legend
    well = Options(width_mm=100, thin_mm=0, min_gap_mm=0)
    stencil = make_stencil(image, well)
    picture = draw_heat_map(stencil, examine(stencil, well), well)
    assert [color_share(picture, colour) for colour in (THIN, CLOSE, JOINED)] == [0, 0, 0]


@pytest.mark.parametrize("style", STYLES)
def test_a_style_says_what_is_not_given(style):
    given = {"width_mm": 90, "style": style, "line_mm": None, "thin_mm": None, "min_gap_mm": 1.25}
    options = with_style(given)
    assert (options.line_mm, options.thin_mm) == (STYLES[style].line_mm, STYLES[style].thin_mm)
    assert options.min_gap_mm == 1.25
    assert with_style({**given, "style": None, "min_gap_mm": None}) == Options(width_mm=90)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_a_styles_gap_is_one_and_a_half_lines_and_at_least_one_and_a_half_millimetres(style):
    assert style.min_gap_mm == pytest.approx(max(1.5, 1.5 * style.line_mm), abs=0.05)
    assert style.thin_mm <= style.line_mm


def test_a_print_that_is_too_small_for_any_ink_is_no_answer():
    image, pen = paper(400)
    pen.rectangle((190, 190, 209, 209), "black")
    options = Options(width_mm=60, thin_mm=0.5)
    assert smallest_width(image, options, True, 0.01) > 5
