"""Greys as dots or hatching in a layer of their own, and lines as strokes: rendered back to pixels."""

import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import resvg_py
from conftest import ROOT
from PIL import Image, ImageDraw

from app.stencil.centre_svg import to_centre_svg
from app.stencil.files import make_shading, to_svg
from app.stencil.ink import make_stencil
from app.stencil.options import Options
from app.stencil.shading import SHADINGS
from tattoo_lora.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"
INKSCAPE = "{http://www.inkscape.org/namespaces/inkscape}"


def shaded():
    image = Image.new("L", (400, 400), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 20, 190, 380), fill=190, outline=0, width=8)  # a quarter dark
    pen.rectangle((210, 20, 380, 380), fill=110, outline=0, width=8)
    return image


def rendered(svg, shape):
    svg = re.sub(r'width="[\d.]+mm"\s+height="[\d.]+mm"', f'width="{shape[1]}" height="{shape[0]}"', svg, count=1)
    return np.asarray(
        Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white")))).convert("L")
    )


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("kind", SHADINGS)
def test_greys_become_a_layer_that_is_as_dark_and_leaves_the_lines_free(kind, mirror):
    image, options = shaded(), Options(width_mm=60, shading=kind, mirror=mirror)
    stencil = make_stencil(image, options)
    assert stencil.ink.mean() == pytest.approx(2 * (171 * 361 - 155 * 345) / 400**2, rel=0.2)  # the frames alone
    shading = make_shading(stencil, options)
    svg = to_svg(stencil.ink, options, shading)
    layers = {g.get(f"{INKSCAPE}label"): g for g in ElementTree.fromstring(svg.encode()).iter(f"{SVG}g")}
    assert list(layers) == ["shading", "outlines"]
    assert all(g.get(f"{INKSCAPE}groupmode") == "layer" for g in layers.values())
    alone = to_svg(np.zeros_like(stencil.ink), options, shading)
    dark = rendered(alone, stencil.ink.shape) < 128
    light_side, dark_side = (dark[90:600, 60:250].mean(), dark[90:600, 380:600].mean())
    light_side, dark_side = (dark_side, light_side) if mirror else (light_side, dark_side)
    assert 0.1 < light_side < dark_side < 0.6
    assert (dark & stencil.ink).mean() < 0.001


@pytest.mark.parametrize("name", ["owl", "robot", "tornado"])
def test_the_strokes_along_the_centre_lines_are_the_stencil_again(name):
    options = Options(width_mm=80, line_mm=1)
    stencil = make_stencil(Image.open(ROOT / f"data/raw/flash/{name}.png"), options)
    svg = to_centre_svg(stencil.level, options)
    drawn = rendered(svg, stencil.ink.shape) < 128
    assert (drawn & stencil.ink).sum() / (drawn | stencil.ink).sum() > 0.93
    widths = [float(width) / options.px_per_mm for width in re.findall(r'stroke-width="([\d.]+)"', svg)]
    assert np.median(widths) == pytest.approx(1, abs=0.1)
    assert svg.count("C") < stencil.ink.shape[1] / 2  # few nodes: a skeleton has thousands of pixels


def test_a_picture_without_greys_cannot_be_shaded():
    for image in (Image.open(ROOT / "data/raw/flash/owl.png"), shaded().convert("1", dither=Image.Dither.NONE)):
        with pytest.raises(UserError, match="nothing to shade: the picture has no greys"):
            make_stencil(image, Options(width_mm=60, shading="dots"))
