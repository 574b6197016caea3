"""From any file to a clean square drawing: reading it as it was meant, then line art's own care.

Only pictures that Pillow decodes by itself are read: no SVG, and no format that Pillow hands to another program.
"""

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageCms, ImageFilter, ImageOps

from tattoo_lora.params import PreprocessParams

NO_FORMATS = {"EPS", "WMF", "PDF", "MPEG", "BUFR", "GRIB", "HDF5"}  # handed to other programs, or write-only
INK_CONTRAST = 24  # levels of 255 from the background: more than JPEG's noise
DARK_PAPER = 100  # levels of 255
HASH_SIDE = 16  # the perceptual hash has HASH_SIDE^2 bits
THUMBNAIL = 96  # px


class Rejected(Exception):
    """Why a file is no drawing to learn from, in a few words."""


@dataclass(frozen=True)
class Prepared:
    """One drawing: what it becomes, and what is known about the file."""

    png: bytes  # RGB, resolution x resolution
    thumbnail: bytes  # PNG of the file as it came, upright
    width: int  # px of the file, upright
    height: int
    hash: str  # hex of the perceptual hash; near in Hamming distance for pictures that look alike
    mirrored_hash: str  # that of the mirror image
    notes: list[str] = field(default_factory=list)  # what was done


def open_rgb(path: Path, turn_white_ink: bool = True) -> tuple[Image.Image, list[str]]:
    """The first frame as sRGB, upright as its EXIF says, transparency on white; and what was done.

    White ink on transparency would be white on white: with `turn_white_ink` it becomes black. Raises Rejected.
    """
    Image.init()
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow repairs by itself
            with Image.open(path, formats=[name for name in Image.ID if name not in NO_FORMATS]) as image:
                image.load()
                if getattr(image, "n_frames", 1) > 1:
                    notes.append(f"first of {image.n_frames} frames")
                    image.seek(0)
                return _to_rgb(image, turn_white_ink, notes), notes
    except Image.DecompressionBombError:
        raise Rejected(f"too many pixels: over {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million") from None
    except Image.UnidentifiedImageError:
        raise Rejected("empty file" if path.stat().st_size == 0 else "no picture in a format that is read") from None
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise Rejected(f"unreadable: {' '.join(str(error).split())[:80] or type(error).__name__}") from None


def _to_rgb(image: Image.Image, turn_white_ink: bool, notes: list[str]) -> Image.Image:
    profile = image.info.get("icc_profile")
    try:
        if image.getexif().get(0x0112, 1) != 1:
            image = ImageOps.exif_transpose(image)
            notes.append("turned as its EXIF says")
    except Exception:  # the picture is whole; only what stands beside it is not
        notes.append("EXIF unreadable")
    if image.mode.startswith("I") or image.mode == "F":
        # Deep greyscale: Pillow would clip at 255 instead of scaling.
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if values.max() > 255 else 255
        image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
        profile = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
        image = image.convert("RGB")
        if turn_white_ink and ink_box(image) is None and ink_box(rgba.getchannel("A").convert("RGB")) is not None:
            notes.append("white on transparent: turned to black on white")
            return ImageOps.invert(rgba.getchannel("A")).convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                notes.append("colours converted to sRGB")
        except (ImageCms.PyCMSError, OSError):
            notes.append("colour profile unreadable")
    return image if image.mode == "RGB" else image.convert("RGB")


def background(image: Image.Image) -> tuple[int, int, int]:
    """The median colour of the picture's border: the paper that the drawing stands on."""
    right, bottom = image.width - 1, image.height - 1
    edges = (
        (0, 0, right + 1, 1),
        (0, bottom, right + 1, bottom + 1),
        (0, 0, 1, bottom + 1),
        (right, 0, right + 1, bottom + 1),
    )
    border = np.concatenate([np.asarray(image.crop(edge)).reshape(-1, 3) for edge in edges])
    red, green, blue = np.median(border, axis=0)
    return int(red), int(green), int(blue)


def ink_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The box around all that differs from the background; None where nothing does."""
    differs = [255 * (abs(level - paper) > INK_CONTRAST) for paper in background(image) for level in range(256)]
    return image.point(differs).getbbox()


def with_margin(image: Image.Image, box: tuple[int, int, int, int], margin: int) -> Image.Image:
    """What is in the box with `margin` px of paper around it: the picture's own as far as there is some."""
    left, upper, right, lower = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    if min(left, upper) >= 0 and right <= image.width and lower <= image.height:
        return image.crop((left, upper, right, lower))
    return ImageOps.expand(image.crop(box), margin, background(image))


def flatten(image: Image.Image) -> Image.Image:
    """Paper tone and uneven light to white: each channel divided by the paper's own, taken from around it.

    The paper is the brightest within a twelfth of the picture, smoothed: lines are thinner, shadows wider.
    """
    small = image.resize([max(side // 8, 1) for side in image.size], Image.Resampling.BOX)
    reach = max(max(small.size) // 12, 1)
    paper = small.filter(ImageFilter.MaxFilter(2 * (reach // 2) + 1)).filter(ImageFilter.GaussianBlur(reach))
    paper = np.asarray(paper.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float32)
    flat = np.asarray(image, dtype=np.float32) / paper.clip(1) * 255
    return Image.fromarray(flat.clip(0, 255).astype(np.uint8))


def fit_square(image: Image.Image, resolution: int, fit: str) -> Image.Image:
    """RGB (resolution, resolution): `pad` keeps the whole drawing on its own background, `crop` its middle."""
    size = (resolution, resolution)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=background(image))
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def perceptual_hashes(image: Image.Image) -> tuple[str, str]:
    """Hex of the DCT hash of what is drawn, HASH_SIDE^2 bits, and of its mirror image."""
    # Four pixels a bit, as phash itself would take; BOX is quick, and does to the mirror image what it does to this.
    side = 4 * HASH_SIDE
    scale = side / max(image.size)
    small = image.convert("L").resize([max(round(of * scale), 1) for of in image.size], Image.Resampling.BOX)
    paper = round(np.dot(background(image), (0.299, 0.587, 0.114)))
    squares = [ImageOps.pad(of, (side, side), color=paper) for of in (small, ImageOps.mirror(small))]
    one, other = (str(imagehash.phash(of, hash_size=HASH_SIDE)) for of in squares)
    return one, other


def prepare(path: Path, params: PreprocessParams, resolution: int) -> Prepared:
    """The file as a square drawing of `resolution` px; raises Rejected where it cannot be one."""
    image, notes = open_rgb(path, params.invert)
    came = image
    if params.flatten:
        image = flatten(image)
    if params.invert and np.mean(background(image)) < DARK_PAPER:
        image = ImageOps.invert(image)
        notes.append("light on dark: turned around")
    if params.threshold is not None:
        image = image.convert("L").point(lambda level: 255 * (level > params.threshold)).convert("RGB")
    box = ink_box(image)
    if box is None:
        raise Rejected("empty: nothing is drawn on it")
    drawn = image.crop(box)
    if max(drawn.size) < params.min_size:
        raise Rejected(f"too small: {drawn.width} x {drawn.height} px are drawn, min_size is {params.min_size}")
    if params.trim:
        image = with_margin(image, box, round(params.margin * max(drawn.size)))
    factor = resolution / (max if params.fit == "pad" else min)(image.size)
    if factor > params.max_upscale:
        notes.append(f"enlarged {factor:.1f} times")
    hash, mirrored_hash = perceptual_hashes(drawn)
    scale = THUMBNAIL / max(came.size)
    thumbnail = came.resize([max(round(side * scale), 1) for side in came.size], reducing_gap=2.0)
    return Prepared(
        png=to_png(fit_square(image, resolution, params.fit)),
        thumbnail=to_png(thumbnail),
        width=came.width,
        height=came.height,
        hash=hash,
        mirrored_hash=mirrored_hash,
        notes=notes,
    )


def to_png(image: Image.Image) -> bytes:
    """The image as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
