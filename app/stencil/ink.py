"""From a picture to ink: an array that is True where the stencil is black."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects, skeletonize

from app.stencil.options import INCH_MM, Options
from tattoo_lora.errors import UserError

MOST_PIXELS = 40e6  # 300 mm square at 500 dpi: a minute and two gigabytes


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


def ink_of(picture: Image.Image, options: Options) -> np.ndarray:
    """True where the stencil is black, (H, W) at the size and dpi of the print.

    Enlarged smoothly, softened, cut at the threshold; pieces and holes below speck_mm2 are dropped, strokes widened to
    min_stroke_mm. UserError for a picture without ink.
    """
    flat = Image.new("RGB", picture.size, "white")
    rgba = picture.convert("RGBA")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    width, height = print_size(picture, options)
    grey = np.asarray(flat.convert("L").resize((width, height), Image.Resampling.BICUBIC), dtype=float) / 255
    px_per_mm = options.dpi / INCH_MM
    grey = gaussian_filter(grey, options.smooth_mm * px_per_mm, mode="nearest")
    if np.ptp(grey) < 0.1:
        raise UserError("nothing to trace: the picture is all of one grey")
    ink = grey <= (threshold_otsu(grey) if options.threshold is None else options.threshold)
    speck = max(1, round(options.speck_mm2 * px_per_mm**2))
    ink = remove_small_objects(ink, max_size=speck, connectivity=2)
    ink = remove_small_holes(ink, max_size=speck)
    if not ink.any():
        raise UserError(
            "nothing is left: all pieces are smaller than the specks to remove, or the threshold is too low"
        )
    if ink.all():
        raise UserError("all of it is ink: the threshold is too high")
    if options.min_stroke_mm > 0:
        ink |= distance_transform_edt(~skeletonize(ink)) <= options.min_stroke_mm * px_per_mm / 2
    return ink[:, ::-1] if options.mirror else ink


def trace(path: Path, options: Options) -> np.ndarray:
    """The picture's stencil, as `ink_of` gives it."""
    picture = read_picture(path)
    try:
        return ink_of(picture, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
