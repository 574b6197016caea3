"""From any file to a clean square drawing: read the file as it was meant, then clean the line art.

Only pictures that Pillow decodes by itself are read: no SVG, and no format that Pillow hands to another program.
"""

import io
import warnings
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps

from stages.preprocess.unread_formats import EXPORT, HEAD, camera_raw, unread_format
from tattoo_lora.params import PreprocessParams

NO_FORMATS = {"EPS", "WMF", "PDF", "MPEG", "BUFR", "GRIB", "HDF5"}  # handed to other programs, or write-only
INK_CONTRAST = 24  # levels of 255 from the background: more than JPEG's noise
DARK_PAPER = 128  # levels of 255: turned around, it is the lighter
BORDER_SIDE = 96  # px of the picture in which its border is looked at
SAMPLES = 64  # pixels along each side that are looked at to tell a photo
LIGHT_SHARE = 0.2  # if less of a picture is light, the light is ink
ONE_TONE = 0.3  # share of a clean file's paper with exactly the same colour
PEEL = 10  # px of BORDER_SIDE that a frame or a dark edge may be wide
FAINT = 64  # levels of 255 from the background: ink that is hardly seen
STRONG = 96  # levels of 255 from the background: ink that is seen in any copy
NOISE = 4  # levels of 255 from the background: no ink
HASH_SIDE = 16  # the perceptual hash has HASH_SIDE^2 bits
INK_SIDE = 192  # px of the square in which duplicates are compared
THUMBNAIL = 96  # px
MOST_OBLONG = 2  # a bucket's longer side, as a multiple of the square's: its shorter side is half of that
STRIP = 64  # px
PHOTO = "taken as a photo"  # how a note begins

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, upper, right, lower, px


class Rejected(Exception):
    """Why a file is no drawing to learn from, in a few words."""


@dataclass(frozen=True)
class Prepared:
    """One drawing: what it becomes, and what is known about the file."""

    png: bytes  # RGB, resolution x resolution, or with `bucket` of no more than that area
    thumbnail: bytes  # PNG of the file as it came, upright
    ink: bytes  # PNG of `ink_levels`
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
    with path.open("rb") as file:
        head = file.read(HEAD)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow repairs by itself
            # Pillow would map a named, uncompressed TIFF that is to be turned at the wrong size.
            with path.open("rb") as file, Image.open(file, formats=_read_formats()) as image:
                if raw := camera_raw(image, head, path.suffix):
                    raise Rejected(f"{raw} {EXPORT}")
                if (frames := _count_frames(path, image.format)) > 1:
                    notes.append(f"first of {frames} frames")
                return _to_rgb(image, turn_white_ink, notes), notes
    except Rejected:
        raise
    except Image.DecompressionBombError:
        raise Rejected(f"too many pixels: over {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million") from None
    except Exception as error:  # decoders raise whatever a broken file leads them to
        if not head:
            raise Rejected("empty file") from None
        if name := unread_format(head, path.suffix):
            raise Rejected(f"{name} {EXPORT}") from None
        if isinstance(error, Image.UnidentifiedImageError):
            raise Rejected("no picture in a format that is read") from None
        raise Rejected(f"unreadable: {' '.join(str(error).split())[:80] or type(error).__name__}") from None


def _read_formats() -> list[str]:
    return [name for name in Image.ID if name not in NO_FORMATS]


def _count_frames(path: Path, kind: str | None) -> int:
    """How many pictures the file holds, opened a second time: counting moves Pillow to another picture, and back.

    The frames of a PSD are its layers; what is read is all of them together.
    """
    if kind == "PSD":
        return 1
    try:
        with path.open("rb") as file, Image.open(file, formats=[kind]) as image:
            return getattr(image, "n_frames", 1)
    except Exception:  # a picture after the first is broken; the first may be whole
        return 1


def _to_rgb(image: Image.Image, turn_white_ink: bool, notes: list[str]) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.format == "TIFF":
        _mend_tiff(image)
    image.load()
    try:
        if image.getexif().get(0x0112, 1) != 1:
            image = ImageOps.exif_transpose(image)
            notes.append("turned as its EXIF says")
    except Exception:  # the picture is whole; only what stands beside it is not
        notes.append("EXIF unreadable")
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    # Colour profiles know no palette, no transparency and no single bits.
    without = "L" if image.mode in ("1", "L", "LA") else image.mode if image.mode in ("CMYK", "LAB") else "RGB"
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image = image.convert(without)  # a picture of its own: nothing is read from the file later
    if profile:
        image = _to_srgb(image, profile, notes)
    image = image.convert("RGB")
    if alpha is None:
        return image
    flat = Image.new("RGBA", image.size, "white")
    image.putalpha(alpha)
    flat.alpha_composite(image)
    flat, alpha = flat.convert("RGB"), alpha.convert("RGB")
    if turn_white_ink and not _has_ink(flat) and _has_ink(alpha):
        notes.append("white on transparent: turned to black on white")
        return ImageOps.invert(alpha)
    return flat


def _mend_tiff(image: Image.Image) -> None:
    """Mend a palette of 8 bits, which is black to Pillow; Rejected for what Pillow reads as noise."""
    tags = image.tag_v2
    if (
        max(tags.get(0x102, (1,))) > 8
        and tags.get(0x11C) == 2
        and tags.get(0x103) == 1
        and image.mode in ("RGB", "CMYK")
    ):
        raise Rejected("channels of 16 bits that lie apart are not read: save it with 8 bits, or as PNG")
    levels = tags.get(0x140, ())
    if image.mode == "P" and 0 < max(levels, default=0) < 256:
        size = len(levels) // 3  # all reds, all greens, all blues
        image.putpalette([levels[color * size + i] for i in range(size) for color in range(3)])


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Deep greys as L: 10, 12 or 14 bits in 16, and floats of 0 to 1, are known by their brightest; that is paper."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0)
    # Sharpened floats go a little beyond white.
    tops, beyond = ((1, 255, 65535), 2) if image.mode == "F" else ([2**bits - 1 for bits in (8, 10, 12, 14, 16, 31)], 1)
    brightest = values.max()
    top = next((top for top in tops if brightest <= beyond * top), brightest)
    return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        details = source.profile
        if image.mode == "L" and details.xcolor_space == "RGB ":
            image = image.convert("RGB")
        image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        notes.append("colours converted to sRGB")
    except (ImageCms.PyCMSError, OSError):
        notes.append("colour profile unreadable")
    return image


def _has_ink(image: Image.Image) -> bool:
    return ink_box(image, background(image)) is not None


def background(image: Image.Image) -> Color:
    """The median colour of the picture's border: the paper that the drawing stands on.

    Frames and dark edges are peeled off first. Of a picture whose border stays dark below them, the paper is dark.
    """
    small = np.asarray(image.resize([min(side, BORDER_SIDE) for side in image.size], Image.Resampling.NEAREST))
    tones = small.sum(axis=2, dtype=int)
    dark = tones * 2 < tones.min() + tones.max()
    height, width = dark.shape
    peeled = [_peel(dark), _peel(dark[::-1]), _peel(dark.T), _peel(dark.T[::-1])]
    top, bottom, left, right = peeled
    inner = small[top : height - bottom, left : width - right]
    border = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    red, green, blue = np.median(border, axis=0)
    return int(red), int(green), int(blue)


def _peel(dark: np.ndarray) -> int:
    """How many of the first rows are mostly dark; 0 if there are more than a frame would have."""
    most = min(PEEL, (len(dark) - 1) // 3)
    light = np.flatnonzero(dark[: most + 1].mean(axis=1) < 0.5)
    return int(light[0]) if len(light) else 0


def looks_like_photo(image: Image.Image) -> bool:
    """Whether the paper has many tones: in a clean file it has one, in a photo it has noise and shadows.

    The paper is what is light, unless there is so little of it that it is ink.
    """
    size = [min(side, SAMPLES) for side in image.size]
    colors = image.resize(size, Image.Resampling.NEAREST).getcolors(SAMPLES**2)
    counts, tones = np.array([(count, sum(color)) for count, color in colors]).T
    light = tones * 2 > tones.min() + tones.max()
    paper = counts[light if counts[light].sum() > LIGHT_SHARE * counts.sum() else ~light]
    return paper.max() < ONE_TONE * paper.sum()


def _is_sheet_on_dark(image: Image.Image) -> bool:
    """Whether a dark border belongs to what lies below a light sheet, as with black scanner lids and scanning apps."""
    if np.mean(background(image)) >= DARK_PAPER:
        return False
    from stages.preprocess.photos import lies_aslant

    return lies_aslant(image)


def ink_is_lighter(image: Image.Image, paper: Color) -> bool:
    """Whether more of the ink is lighter than the paper than darker."""
    away = np.arange(256) - np.array(paper)[:, None]
    counts = np.array(image.histogram()).reshape(3, 256)
    return (away * counts)[np.abs(away) > INK_CONTRAST].sum() > 0


def ink_box(image: Image.Image, paper: Color, contrast: int = INK_CONTRAST) -> Box | None:
    """The box around everything that differs from the paper by more than the contrast; None if nothing does."""
    differs = [255 * (abs(level - channel) > contrast) for channel in paper for level in range(256)]
    width, height = image.size
    columns = [(x, 0, min(x + STRIP, width), height) for x in range(0, width, STRIP)]
    rows = [(0, y, width, min(y + STRIP, height)) for y in range(0, height, STRIP)]
    box = []
    # From each side to the first strip with ink: the middle of a large picture need not be looked at.
    for side, strips in enumerate((columns, rows, columns[::-1], rows[::-1])):
        for strip in strips:
            inner = image.crop(strip).point(differs).getbbox()
            if inner is not None:
                box.append(strip[side % 2] + inner[side])
                break
        else:
            return None
    left, upper, right, lower = box
    return left, upper, right, lower


def page_size(width: float, height: float, resolution: int, fit: str) -> tuple[int, int]:
    """Width and height of the page for a box of that size: a square, or with `bucket` no more than its area.

    Of the buckets, whose sides are multiples of 16 px (a VAE may make one latent of 16) or of a sixteenth of the
    resolution, it is the one that shows the box largest, and of those the smallest.
    """
    if fit != "bucket":
        return resolution, resolution
    if width < height:
        return page_size(height, width, resolution, fit)[::-1]
    step = max(resolution // 256 * 16, 16)
    longer = range(resolution // step * step + step, MOST_OBLONG * resolution + 1, step)
    sizes = [(resolution, resolution), *((side, resolution**2 // side // step * step) for side in longer)]
    return max(sizes, key=lambda size: (min(size[0] / width, size[1] / height), -size[0] * size[1]))


def fit_page(image: Image.Image, box: Box, paper: Color, page_size: tuple[int, int], fit: str) -> Image.Image:
    """RGB of that size: the whole box and what is around it, or with `crop` as much of its middle as fills the page.

    The box may reach beyond the picture: there is paper.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    # Fractions: a page of the picture's own shape has exactly its sides, and no pixel is resampled for rounding's sake.
    unit = (min if fit == "crop" else max)(Fraction(width, page_size[0]), Fraction(height, page_size[1]))
    scale, sides = float(1 / unit), [float(unit * side) for side in page_size]
    left, upper = box[0] + (width - sides[0]) / 2, box[1] + (height - sides[1]) / 2
    inside = (max(left, 0), max(upper, 0), min(left + sides[0], image.width), min(upper + sides[1], image.height))
    size = [max(round((inside[i + 2] - inside[i]) * scale), 1) for i in (0, 1)]
    part = image.resize(size, Image.Resampling.LANCZOS, box=inside)
    page = Image.new("RGB", page_size, paper)
    page.paste(part, (round((inside[0] - left) * scale), round((inside[1] - upper) * scale)))
    return page


def perceptual_hashes(image: Image.Image, box: Box, paper: Color) -> tuple[str, str]:
    """Hex of the DCT hash of what is in the box, HASH_SIDE^2 bits, and of its mirror image."""
    # Four pixels for a bit, as phash takes; BOX is quick and treats the mirror image alike.
    side = 4 * HASH_SIDE
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / max(width, height)
    size = [max(round(length * scale), 1) for length in (width, height)]
    small = image.resize(size, Image.Resampling.BOX, box=box)
    squares = [ImageOps.pad(picture, (side, side), color=paper) for picture in (small, ImageOps.mirror(small))]
    one, other = (str(imagehash.phash(square, hash_size=HASH_SIDE)) for square in squares)
    return one, other


def ink_levels(image: Image.Image, box: Box, paper: Color) -> Image.Image:
    """L (INK_SIDE, INK_SIDE) of what is in the box: 0 is no ink, 1 faint ink, 2 strong ink.

    The edge of the strong ink stays where it is in a smaller copy or a JPEG; that of all ink moves a pixel or two.
    """
    box = ink_box(image, paper, STRONG) or box
    scale = INK_SIDE / max(box[2] - box[0], box[3] - box[1])
    size = [max(round((box[i + 2] - box[i]) * scale), 1) for i in (0, 1)]
    square = ImageOps.pad(image.resize(size, Image.Resampling.BOX, box=box), (INK_SIDE, INK_SIDE), color=paper)
    return _contrast(square, paper).point(lambda level: (level >= FAINT / 2) + (level >= STRONG))


def faint_share(image: Image.Image, paper: Color) -> float:
    """The share of the ink, 0 to 1, that differs so little from the paper that one hardly sees it."""
    ink = np.array(_contrast(image, paper).histogram()) * np.arange(256)
    ink[:NOISE] = 0
    return float(ink[:FAINT].sum() / ink.sum()) if ink.any() else 1.0


def _contrast(image: Image.Image, paper: Color) -> Image.Image:
    """L: how much each pixel differs from the paper in the channel where it does so most."""
    red, green, blue = ImageChops.difference(image, Image.new("RGB", image.size, paper)).split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def prepare(path: Path, params: PreprocessParams, resolution: int) -> Prepared:
    """The file as a drawing on a page for `resolution` px; raises Rejected if it cannot become one."""
    image, notes = open_rgb(path, params.invert)
    came = image
    if params.flatten == "true" or (params.flatten == "auto" and (looks_like_photo(image) or _is_sheet_on_dark(image))):
        from stages.preprocess.photos import clean_photo  # slow to import, and clean files need none of it

        image, done = clean_photo(image, params.invert)
        notes.append(f"{PHOTO}: {done}")
    paper = background(image)
    if params.invert and np.mean(paper) < DARK_PAPER and ink_is_lighter(image, paper):
        image, paper = ImageOps.invert(image), tuple(255 - level for level in paper)
        notes.append("light on dark: turned around")
    if params.threshold is not None:
        image = image.convert("L").point(lambda level: 255 * (level > params.threshold)).convert("RGB")
        paper = background(image)
    box = ink_box(image, paper)
    if box is None:
        raise Rejected("empty: nothing is drawn on it")
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) < params.min_size:
        raise Rejected(f"too small: {width} x {height} px are drawn, min_size is {params.min_size}")
    taken = (0, 0, *image.size)
    if params.trim:
        margin = round(params.margin * max(width, height))
        taken = (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
    sides = taken[2] - taken[0], taken[3] - taken[1]
    size = page_size(*sides, resolution, params.fit)
    factor = (max if params.fit == "crop" else min)(size[0] / sides[0], size[1] / sides[1])
    if factor > params.max_upscale:
        notes.append(f"enlarged {factor:.1f} times")
    page = fit_page(image, taken, paper, size, params.fit)
    faint = faint_share(page, paper)
    if faint - faint_share(image, paper) > 0.5:
        notes.append(f"too fine for {resolution} px: {faint:.0%} of the ink is hardly seen")
    hash, mirrored_hash = perceptual_hashes(image, box, paper)
    scale = THUMBNAIL / max(came.size)
    thumbnail = came.resize([max(round(side * scale), 1) for side in came.size], reducing_gap=2.0)
    return Prepared(
        png=to_png(page),
        thumbnail=to_png(thumbnail),
        ink=to_png(ink_levels(image, box, paper)),
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
