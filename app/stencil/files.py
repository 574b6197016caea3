"""A stencil's files beside each other: PNG, SVG of its outlines, and a heat map of what will not work."""

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import vtracer
from PIL import Image, ImageOps

from app.stencil.centre_svg import document, to_centre_svg
from app.stencil.findings import examine, sentence
from app.stencil.heat_map import draw_heat_map
from app.stencil.ink import Stencil, on_white, to_image, trace
from app.stencil.options import Options
from app.stencil.shading import shade
from tattoo_lora.files import replace_file

INKSCAPE = ' xmlns:inkscape="http://www.inkscape.org/namespaces/inkscape"'


@dataclass(frozen=True)
class Made:
    """A stencil that was written: its ink (H, W), its files by kind, and what was found about it."""

    ink: np.ndarray
    files: dict[str, Path]
    said: str
    is_well: bool


def to_png(ink: np.ndarray, path: Path, options: Options) -> None:
    picture = to_image(ink)
    if options.transparent:
        picture = Image.merge("LA", (Image.new("L", picture.size, 0), to_image(~ink)))
    else:
        picture = picture.convert("1", dither=Image.Dither.NONE)
    with replace_file(path) as partial:
        picture.save(partial, "PNG", dpi=(options.dpi, options.dpi))


def to_svg(ink: np.ndarray, options: Options, shading: str = "") -> str:
    """The outlines as one SVG, its width and height in mm; with shading, each is a layer of its own."""
    png = BytesIO()  # a list of pixels would take three times as long
    to_image(ink).save(png, "PNG", compress_level=1)
    traced = vtracer.convert_raw_image_to_svg(
        png.getvalue(), img_format="png", colormode="binary", mode="spline", filter_speckle=0, path_precision=2
    )
    body = traced[traced.index("<path") if "<path" in traced else traced.index("</svg>") : traced.index("</svg>")]
    if shading:
        return document(layer("shading", shading) + layer("outlines", body), ink.shape, options, INKSCAPE)
    return document(body, ink.shape, options)


def layer(name: str, body: str) -> str:
    """A group that Inkscape shows as a layer; other programs as a group."""
    return f'<g id="{name}" inkscape:groupmode="layer" inkscape:label="{name}">\n{body}\n</g>\n'


def unique_names(pictures: list[Path]) -> list[str]:
    """A name for each picture's files: its own, with a number if an earlier picture has that name."""
    names: list[str] = []
    for path in pictures:
        numbered = (f"{path.stem}-{number}" for number in range(2, len(pictures) + 2))
        names.append(path.stem if path.stem not in names else next(n for n in numbered if n not in names))
    return names


def make_shading(stencil: Stencil, options: Options) -> str:
    """The shading as SVG's elements; "" if none is wanted."""
    if options.shading is None:
        return ""
    grey = on_white(stencil.picture)
    return shade(ImageOps.mirror(grey) if options.mirror else grey, stencil.ink, options)


def write_files(name: str, stencil: Stencil, options: Options, folder: Path) -> Made:
    """<name>.stencil.png and .svg in the folder, and <name>.stencil.check.png where there is something to see on it."""
    findings = examine(stencil, options)
    said = f"{name}: {sentence(findings, len(stencil.joins), options)}"
    print(said, file=sys.stderr)
    files = {kind: folder / f"{name}.stencil.{kind}" for kind in ("png", "svg")}
    to_png(stencil.ink, files["png"], options)
    with replace_file(files["svg"]) as partial:
        partial.write_text(to_svg(stencil.ink, options, make_shading(stencil, options)), encoding="utf-8", newline="\n")
    if options.centre_lines:
        files["lines"] = folder / f"{name}.stencil.lines.svg"
        with replace_file(files["lines"]) as partial:
            partial.write_text(to_centre_svg(stencil.level, options), encoding="utf-8", newline="\n")
    check = folder / f"{name}.stencil.check.png"
    if findings.thin or findings.close or stencil.joins:
        with replace_file(check) as partial:
            draw_heat_map(stencil, findings, options).save(partial, "PNG", dpi=(options.dpi, options.dpi))
        files["check"] = check
    else:
        check.unlink(missing_ok=True)  # of an earlier stencil
    return Made(stencil.ink, files, said, is_well=not (findings.thin or findings.close))


def write_stencil(path: Path, options: Options, folder: Path) -> Made:
    """The picture's stencil, and its files in the folder."""
    return write_files(path.stem, trace(path, options), options, folder)
