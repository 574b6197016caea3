"""Try a drawing on: on a photo of skin, at its real size, bent around the limb, in the photo's light.

    python -m app.tryon owl.png arm.jpg --width-mm 80 --scale-px 412,880,538,884 --coin 1-euro
    python -m app.tryon owl.png arm.jpg --width-mm 80 --scale-px 100,900,700,900 --scale-mm 100 --at 900,640 \\
        --rotate 15 --bend cylinder --girth-mm 260 --axis 80

Lay a coin, a bank card or a ruler on the skin, as far from the camera as the skin is, and give the two ends of its
width on the photo in --scale-px. Writes <picture>.on.<photo>.jpg: the photo with the drawing, without what the camera
noted beside it (place, time, owner). The photo is read where it lies; it goes nowhere, and no copy of it is kept.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates

from app import OUT
from app.checks import check_limits, writable
from app.stencil.options import LIMITS as STENCIL_LIMITS
from stages.preprocess.raw_images import Rejected, open_rgb
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import Range

SCALES = {  # mm across, as the mints and ISO/IEC 7810 say
    "1-euro": 23.25,
    "2-euro": 25.75,
    "50-cent": 24.25,
    "10-cent": 19.75,
    "us-quarter": 24.26,
    "us-nickel": 21.21,
    "us-penny": 19.05,
    "us-dime": 17.91,
    "1-pound": 23.43,
    "1-franc": 23.2,
    "bank-card": 85.6,
}
# The share of red, green and blue light that full ink leaves; once healed, the skin above it scatters some back.
INKS = {"fresh": (0.05, 0.05, 0.06), "healed": (0.13, 0.15, 0.17)}
HIDDEN = 1e9  # mm: where the limb's other side would be
# Millimetres along the skin for millimetres that the camera sees across a limb of this radius, from its middle line.
BENDS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "flat": lambda across, radius: across,
    "cylinder": lambda across, radius: np.where(
        abs(across) < radius, radius * np.arcsin(np.clip(across / radius, -1, 1)), HIDDEN
    ),
}
SOFT_MM = 0.15  # ink spreads in the skin: the standard deviation of an edge
PAPER = 0.9  # of the light that the paper gives back: what is as light is paper too, with JPEG's noise on it
LEAST_CONTRAST = 0.1  # of white
SHORTEST_SCALE = 20  # px: with fewer, one that is a pixel off makes 80 mm four too long
JPEG_QUALITY = 95
STRIP = 256  # rows at once: photos have twelve million pixels and more
LIMITS = {
    "width_mm": STENCIL_LIMITS["width_mm"],
    "scale_mm": Range(5, 1000),
    "rotate": Range(-360, 360),
    "girth_mm": Range(30, 2000),
    "axis": Range(-360, 360),
}


@dataclass(frozen=True)
class Placement:
    """How the drawing lies on the photo: lengths in mm on the skin, angles in degrees, points in px of the photo."""

    width_mm: float  # of the picture with its margins, as in a stencil
    at: tuple[float, float]  # x, y of its middle
    rotate: float = 0.0  # clockwise
    bend: str = "flat"
    girth_mm: float = 250.0  # around the limb
    axis: float = 90.0  # which way the limb goes: 0 is level, 90 upright
    ink: str = "healed"


def px_per_mm(ends: tuple[float, float, float, float], mm: float) -> float:
    """The photo's pixels a millimetre, from the ends x0, y0, x1, y1 in px of a thing that is `mm` long."""
    distance = float(np.hypot(ends[2] - ends[0], ends[3] - ends[1]))
    if not distance >= SHORTEST_SCALE:
        raise UserError(f"the scale's ends are {distance:.0f} px apart, allowed is at least {SHORTEST_SCALE}")
    return distance / mm


@dataclass(frozen=True)
class Upload:
    """A file that a browser sent, with what `open_rgb` asks of a path: it is read in memory and lies nowhere."""

    name: str
    content: bytes = field(repr=False)

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def open(self, mode: str) -> BytesIO:
        return BytesIO(self.content)

    def __str__(self) -> str:
        return self.name


def read_upright(path: Path | Upload, what: str, turn_white_ink: bool = False) -> Image.Image:
    """The picture or photo as it is seen, in sRGB, transparency on white; UserError if it is none."""
    try:
        return open_rgb(path, turn_white_ink)[0]
    except Rejected as reason:
        raise UserError(f"{path}: no {what} ({reason})") from None
    except OSError as error:
        raise UserError(f"{path}: no {what} ({error.strerror})") from None


def check_points(option: str, points: tuple[float, ...], photo: Image.Image) -> None:
    """UserError if one of the points (x, y, x, y, ...) is not on the photo."""
    for x, y in zip(points[::2], points[1::2], strict=True):
        if not (0 <= x < photo.width and 0 <= y < photo.height):
            raise UserError(f"{option}: {x:g},{y:g} is outside of the photo of {photo.width} x {photo.height} px")


def transmission(picture: Image.Image, ink: tuple[float, float, float]) -> np.ndarray:
    """The share of light that the drawing leaves, (H, W, 3): 1 on its paper, `ink` where it is black.

    UserError for a picture that is all of one grey.
    """
    if np.ptp(np.asarray(picture.convert("L"))) < LEAST_CONTRAST * 255:
        raise UserError("nothing to try on: the picture is all of one grey")
    light = to_linear(np.asarray(picture))
    paper = np.maximum(PAPER * np.percentile(light, 95, axis=(0, 1)), 1e-3)
    return np.float32(ink) + (1 - np.float32(ink)) * np.clip(light / paper, 0, 1)


def try_on(picture: Image.Image, photo: Image.Image, placement: Placement, scale: float) -> Image.Image:
    """The photo with the drawing multiplied into its light, at `scale` px a mm; both are RGB.

    UserError if the picture shows nothing or goes around the limb and over itself.
    """
    ink, scale_down = transmission(picture, INKS[placement.ink]), picture.width / placement.width_mm / scale
    along_axis, across_axis = axes(placement.axis)
    to_right, to_bottom = axes(placement.rotate)
    size_mm = np.array(picture.size) * placement.width_mm / picture.width
    around = size_mm @ abs(np.array([to_right @ across_axis, to_bottom @ across_axis]))
    if placement.bend != "flat" and around > placement.girth_mm:
        raise UserError(
            f"{around:.0f} mm do not go around a limb of {placement.girth_mm:g} mm; make it smaller or turn it"
        )
    # The ink's own blur, and as much as keeps a picture that is made smaller from aliasing.
    blur = scale_down * np.hypot(SOFT_MM * scale, 0.4)
    ink = gaussian_filter(ink, (blur, blur, 0), mode="nearest")

    x, y = placement.at
    reach = np.hypot(*size_mm) / 2 * scale  # no bend makes it larger
    left, right = max(0, int(x - reach)), min(photo.width, int(x + reach) + 2)
    done = photo.copy()
    for top in range(max(0, int(y - reach)), min(photo.height, int(y + reach) + 2), STRIP):
        strip = (left, top, right, min(top + STRIP, photo.height))
        rows, columns = np.mgrid[top : strip[3], left:right].astype(np.float32) + 0.5
        seen = np.stack([columns - np.float32(x), rows - np.float32(y)], axis=-1) / np.float32(scale)
        across = BENDS[placement.bend](seen @ across_axis, placement.girth_mm / (2 * np.pi))
        skin = (seen @ along_axis)[..., None] * along_axis + across[..., None] * across_axis
        # In px of the picture: from its middle, whose pixels' middles are at whole numbers.
        points = [
            skin @ axis * picture.width / placement.width_mm + (side - 1) / 2
            for axis, side in ((to_bottom, picture.height), (to_right, picture.width))
        ]
        kept = [map_coordinates(channel, points, order=1, cval=1) for channel in np.moveaxis(ink, 2, 0)]
        lit = to_linear(np.asarray(photo.crop(strip))) * np.stack(kept, axis=-1)
        done.paste(Image.fromarray(to_srgb(lit)), strip)
    return done


def small(photo: Image.Image, placement: Placement, scale: float, side: int) -> tuple[Image.Image, Placement, float]:
    """What `try_on` takes for a view of the photo whose longer side is at most `side` px."""
    view = photo.copy()
    view.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    share = view.width / photo.width
    x, y = placement.at
    return view, replace(placement, at=(x * share, y * share)), scale * share


def mark_ends(view: Image.Image, ends: list[tuple[float, float]]) -> None:
    """Draw a ring around each end of the scale and a line between them, seen on any skin."""
    pen, radius = ImageDraw.Draw(view), max(view.size) / 150
    for color, width in (("white", 5), ("black", 2)):
        if len(ends) == 2:
            pen.line(ends, color, width)
        for x, y in ends:
            pen.circle((x, y), radius + width / 2, outline=color, width=width)


def axes(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The unit vectors (2,) of a pair of axes that was turned clockwise, as y goes down on a picture."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([cosine, sine], np.float32), np.array([-sine, cosine], np.float32)


def to_linear(levels: np.ndarray) -> np.ndarray:
    """sRGB's levels of 0 to 255 as light of 0 to 1 (IEC 61966-2-1)."""
    table = np.arange(256, dtype=np.float32) / 255
    return np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)[levels]


def to_srgb(light: np.ndarray) -> np.ndarray:
    """The inverse of `to_linear`, rounded."""
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * levels.clip(0, 1)).round().astype(np.uint8)


def jpeg(picture: Image.Image) -> bytes:
    """The picture as a JPEG without EXIF, which would say where and when the photo was taken."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=b"")
    return file.getvalue()


def point(text: str) -> tuple[float, float]:
    x, y = map(float, text.split(","))
    return x, y


def ends(text: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(float, text.split(","))
    return x0, y0, x1, y1


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.tryon", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="the drawing, dark on white")
    parser.add_argument("photo", type=Path, help="skin, with something of a size that is known")
    parser.add_argument("--width-mm", type=float, required=True, help="width of the picture on the skin")
    parser.add_argument("--scale-px", type=ends, required=True, metavar="X0,Y0,X1,Y1", help="its two ends on the photo")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--scale-mm", type=float, help="how far these ends are apart")
    length.add_argument("--coin", choices=SCALES, help="what lies there, measured across")
    parser.add_argument(
        "--at", type=point, metavar="X,Y", help="the drawing's middle in px; default: the photo's middle"
    )
    parser.add_argument("--rotate", type=float, default=Placement.rotate, help="degrees clockwise")
    parser.add_argument("--bend", choices=BENDS, default=Placement.bend)
    parser.add_argument("--girth-mm", type=float, default=Placement.girth_mm, help="around the limb, for the cylinder")
    parser.add_argument("--axis", type=float, default=Placement.axis, help="the limb's way: 0 is level, 90 upright")
    parser.add_argument("--ink", choices=INKS, default=Placement.ink)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder; default: {OUT}")
    args = parser.parse_args()
    with one_line_errors():
        check_limits(args, LIMITS)
        picture = read_upright(args.picture, "picture", turn_white_ink=True)
        photo = read_upright(args.photo, "photo")
        at = args.at or (photo.width / 2, photo.height / 2)
        check_points("--at", at, photo)
        check_points("--scale-px", args.scale_px, photo)
        scale = px_per_mm(args.scale_px, args.scale_mm or SCALES[args.coin])
        writable(args.out)
        placement = Placement(args.width_mm, at, args.rotate, args.bend, args.girth_mm, args.axis, args.ink)
        path = args.out / f"{args.picture.stem}.on.{args.photo.stem}.jpg"
        try:
            tried = try_on(picture, photo, placement, scale)
        except UserError as error:
            raise UserError(f"{args.picture}: {error}") from None
        with replace_file(path) as partial:
            partial.write_bytes(jpeg(tried))
        print(path)


if __name__ == "__main__":
    main()
