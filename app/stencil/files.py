"""A stencil's files beside each other: PNG, and SVG of its outlines."""

import sys
from pathlib import Path

import numpy as np
import vtracer
from PIL import Image

from app.stencil.ink import trace
from app.stencil.options import Options
from app.stencil.widths import narrow_gaps
from tattoo_lora.files import replace_file

OUT = Path("runs/samples/adhoc")


def to_png(ink: np.ndarray, path: Path, options: Options) -> None:
    picture = Image.fromarray(np.where(ink, 0, 255).astype(np.uint8))
    if options.transparent:
        black = Image.new("L", picture.size, 0)
        picture = Image.merge("LA", (black, Image.fromarray(np.where(ink, 255, 0).astype(np.uint8))))
    else:
        picture = picture.convert("1", dither=Image.Dither.NONE)
    with replace_file(path) as partial:
        picture.save(partial, "PNG", dpi=(options.dpi, options.dpi))


def to_svg(ink: np.ndarray, options: Options) -> str:
    """The outlines as one SVG, its width and height in mm."""
    height, width = ink.shape
    pixels = [(0, 0, 0, 255) if black else (255, 255, 255, 255) for black in ink.ravel()]
    traced = vtracer.convert_pixels_to_svg(
        pixels, size=(width, height), colormode="binary", mode="spline", filter_speckle=0, path_precision=2
    )
    body = traced[traced.index("<path") if "<path" in traced else traced.index("</svg>") :]
    height_mm = options.width_mm * height / width
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{options.width_mm:g}mm" height="{height_mm:g}mm" '
        f'viewBox="0 0 {width} {height}">\n{body}'
    )


def names_of(pictures: list[Path]) -> list[str]:
    """A name for each picture's files: its own, with a number if an earlier picture has that name."""
    names: list[str] = []
    for path in pictures:
        numbered = (f"{path.stem}-{number}" for number in range(2, len(pictures) + 2))
        names.append(path.stem if path.stem not in names else next(n for n in numbered if n not in names))
    return names


def write_files(name: str, ink: np.ndarray, options: Options, folder: Path) -> list[Path]:
    """<name>.stencil.png and .svg in the folder; warns if lines are too close."""
    files = [folder / f"{name}.stencil.{kind}" for kind in ("png", "svg")]
    to_png(ink, files[0], options)
    with replace_file(files[1]) as partial:
        partial.write_text(to_svg(ink, options), encoding="utf-8")
    if gaps := narrow_gaps(ink, options):
        where = "place" if gaps == 1 else "places"
        print(f"{name}: lines closer than {options.min_gap_mm:g} mm in {gaps} {where}; print larger", file=sys.stderr)
    return files


def write_stencil(path: Path, options: Options, folder: Path) -> tuple[np.ndarray, list[Path]]:
    """The picture's stencil, and its PNG and SVG in the folder."""
    ink = trace(path, options)
    return ink, write_files(path.stem, ink, options, folder)
