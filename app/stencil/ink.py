"""From a picture to ink: a level at each pixel of the print, which is above 0 where the stencil is black."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from app.stencil.lines import Join, at_least, find_joins, join, with_line_width
from app.stencil.options import INCH_MM, Options
from app.stencil.shading import split_greys
from app.stencil.skeleton import trace_centre_lines
from tattoo_lora.errors import UserError

MOST_PIXELS = 40e6  # 300 mm square at 500 dpi: a minute and two gigabytes


@dataclass(frozen=True)
class Stencil:
    """A stencil at the size and dpi of its print."""

    picture: Image.Image  # what it was made of
    level: np.ndarray  # (H, W), float32; an edge is where it crosses 0, between two pixels
    joins: list[Join] = field(default_factory=list)  # what was drawn across breaks

    @property
    def ink(self) -> np.ndarray:
        """True where the stencil is black, (H, W)."""
        return self.level > 0


def read_picture(path: Path) -> Image.Image:
    """The picture as it is meant to be seen; UserError if Pillow cannot read it."""
    try:
        # If Pillow gets a name, it maps an uncompressed TIFF that is to be turned at the wrong size.
        with path.open("rb") as file, Image.open(file) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise UserError(f"{path}: no picture ({error or type(error).__name__})") from None


def print_size(picture: Image.Image, options: Options) -> tuple[int, int]:
    """Width and height of the stencil in pixels; UserError if that is more than can be processed."""
    width = round(options.width_mm / INCH_MM * options.dpi)
    height = max(1, round(width * picture.height / picture.width))
    if width * height > MOST_PIXELS:
        raise UserError(f"{width} x {height} pixels are too many; lower --dpi or the width")
    return width, height


def on_white(picture: Image.Image) -> Image.Image:
    """The picture in greys, transparency as paper."""
    flat = Image.new("RGB", picture.size, "white")
    rgba = picture.convert("RGBA")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat.convert("L")


def halfway(grey: np.ndarray) -> float:
    """The grey halfway between the usual ink and the usual paper, at which an edge keeps its place when it is blurred.

    Otsu's threshold tells the two apart, but lies anywhere between them.
    """
    dark = grey <= threshold_otsu(grey)
    return float(np.median(grey[dark]) + np.median(grey[~dark])) / 2


def make_stencil(picture: Image.Image, options: Options) -> Stencil:
    """The picture's stencil; UserError for a picture without ink.

    Enlarged smoothly, softened, cut at the threshold; pieces and holes below speck_mm2 are dropped, breaks up to
    close_gaps_mm joined, lines drawn at line_mm or widened to min_stroke_mm.
    """
    grey = on_white(picture)
    greys = np.asarray(grey.resize(print_size(picture, options), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    softness = options.smooth_mm * options.px_per_mm
    greys = gaussian_filter(greys, softness, mode="nearest")
    if np.ptp(greys) < 0.1:
        raise UserError("nothing to trace: the picture is all of one grey")
    threshold = options.threshold
    if threshold is None and options.shading:
        darkest, shade, _ = split_greys(np.asarray(grey) / 255)
        threshold = (darkest + shade) / 2
    elif threshold is None:
        threshold = halfway(np.asarray(grey) / 255)
    # In pixels from the edge, about: a blurred edge rises by 1 / (softness * sqrt(2 pi)) a pixel.
    level = (np.float32(threshold + 1e-6) - greys) * np.float32(max(softness, 0.5) * np.sqrt(2 * np.pi))
    level = without_specks(level, options)
    joins: list[Join] = []
    if options.close_gaps_mm > 0:
        joins = find_joins(level, trace_centre_lines(level), options.close_gaps_mm * options.px_per_mm)
        level = join(level, joins)
    if options.line_mm is not None:
        level = with_line_width(level, trace_centre_lines(level), options.line_mm * options.px_per_mm)
    if options.min_stroke_mm > 0:
        level = at_least(level, trace_centre_lines(level), options.min_stroke_mm * options.px_per_mm)
    if options.mirror:
        level = np.ascontiguousarray(level[:, ::-1])
        last = level.shape[1] - 1
        joins = [Join(*(np.array([y, last - x]) for y, x in (one.start, one.end)), one.radius) for one in joins]
    return Stencil(picture, level, joins)


def without_specks(level: np.ndarray, options: Options) -> np.ndarray:
    """The level without pieces and holes that are smaller than specks; UserError if it is then all white or black."""
    speck = max(1, round(options.speck_mm2 * options.px_per_mm**2))
    ink = remove_small_objects(level > 0, max_size=speck, connectivity=2)
    ink = remove_small_holes(ink, max_size=speck)
    if not ink.any():
        raise UserError(
            "nothing is left: all pieces are smaller than the specks to remove, or the threshold is too low"
        )
    if ink.all():
        raise UserError("all of it is ink: the threshold is too high")
    away = np.maximum(np.abs(level), np.float32(1e-6))
    return np.where(ink, away, -away)


def to_image(ink: np.ndarray) -> Image.Image:
    """The ink (H, W) in black on white, L."""
    return Image.fromarray(np.where(ink, 0, 255).astype(np.uint8))


def trace(path: Path, options: Options) -> Stencil:
    """The stencil of the picture in the file."""
    picture = read_picture(path)
    try:
        return make_stencil(picture, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
