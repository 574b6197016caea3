"""Make a stencil to print: black on white at a real size, cleaned, as PNG, SVG and PDF.

    python -m app.stencil owl.png --width-mm 90
    python -m app.stencil runs/samples/adhoc/*.png --width-mm 60 --mirror --min-stroke-mm 0.4 --page Letter

Writes <name>.stencil.png (at --dpi, 1 bit) and <name>.stencil.svg (outlines, in mm) for each picture, and
stencils.pdf with all of them, with cut marks and a scale bar: print it at 100%, not "fit to page", and hold a ruler to
the bar. --mirror is for transfer paper that is laid face down.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import vtracer
from PIL import Image, ImageOps
from reportlab.lib.pagesizes import A4, LETTER
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import remove_small_holes, remove_small_objects, skeletonize

from app.checks import check, writable
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import Range

OUT = Path("runs/samples/adhoc")
PAGES = {"A4": A4, "Letter": LETTER}
MARGIN_MM, GAP_MM = 12, 10  # of the page; between stencils
SCALE_BAR_MM = 50
INCH_MM = 25.4
LIMITS = {  # of Options; nothing wider than a page is printed, and larger pictures take minutes and gigabytes
    "width_mm": Range(5, 300),
    "dpi": Range(72, 1200),
    "threshold": Range(0, 1),
    "smooth_mm": Range(0, 10),
    "speck_mm2": Range(0, 1000),
    "min_stroke_mm": Range(0, 20),
    "min_gap_mm": Range(0, 20),
}
MOST_PIXELS = 40e6  # 300 mm square at 500 dpi: a minute and two gigabytes


@dataclass(frozen=True)
class Options:
    """The options of a stencil: lengths in mm and areas in mm2 of the print."""

    width_mm: float
    dpi: int = 300
    threshold: float | None = None  # grey below which is ink, 0 to 1; None: Otsu's
    smooth_mm: float = 0.15
    speck_mm2: float = 0.4
    min_stroke_mm: float = 0.0
    min_gap_mm: float = 0.5
    mirror: bool = False
    transparent: bool = False


def check_options(options: Options, width: str = "--width-mm") -> None:
    """UserError if a number is out of bounds; `width` is the option that gives the width."""
    for name, allowed in LIMITS.items():
        if (value := getattr(options, name)) is not None:
            check(width if name == "width_mm" else "--" + name.replace("_", "-"), value, allowed)


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


def narrow_gaps(ink: np.ndarray, options: Options) -> int:
    """How many places between lines are narrower than min_gap_mm: the ink will not keep them apart."""
    half = options.min_gap_mm * options.dpi / INCH_MM / 2
    open_skin = distance_transform_edt(~ink) > half  # where a disc of that width has its centre
    if not open_skin.any():
        return 1
    reached = distance_transform_edt(~open_skin) <= half  # and what such discs cover
    closed = ~ink & ~reached
    # Corners between strokes are always a little closed, so only places that are longer than the gap is wide count.
    areas = np.bincount(label(closed, connectivity=2).ravel())[1:]
    return int((areas > (2 * half) ** 2).sum())


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


def to_pdf(stencils: list[tuple[str, np.ndarray]], path: Path, options: Options, page: str) -> None:
    """All stencils (name, ink) at their size, several on a sheet, with cut marks and a scale bar on each sheet.

    UserError where one is larger than the page.
    """
    page_width, page_height = PAGES[page]
    canvas = Canvas(str(path), pagesize=PAGES[page], invariant=True)
    canvas.setTitle("Stencils, print at 100%")
    left, top = MARGIN_MM * mm, page_height - MARGIN_MM * mm
    x, y, row_height = left, top, 0.0
    bottom = (MARGIN_MM + 12) * mm  # above the scale bar
    scale_bar(canvas)
    for name, ink in stencils:
        width = options.width_mm * mm
        height = width * ink.shape[0] / ink.shape[1]
        check_fits(name, width / mm, height / mm, page)
        if x + width > page_width - MARGIN_MM * mm:
            x, y, row_height = left, y - row_height - GAP_MM * mm, 0.0
        if y - height < bottom:
            canvas.showPage()
            scale_bar(canvas)
            x, y, row_height = left, top, 0.0
        picture = Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1", dither=Image.Dither.NONE)
        canvas.drawImage(ImageReader(picture), x, y - height, width, height)
        cut_marks(canvas, x, y - height, width, height)
        x, row_height = x + width + GAP_MM * mm, max(row_height, height)
    canvas.save()


def cut_marks(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    """Two short lines at each corner, outside of the picture."""
    canvas.setLineWidth(0.3)
    near, far = 1 * mm, 4 * mm
    for corner_x, way_x in ((x, -1), (x + width, 1)):
        for corner_y, way_y in ((y, -1), (y + height, 1)):
            canvas.line(corner_x + way_x * near, corner_y, corner_x + way_x * far, corner_y)
            canvas.line(corner_x, corner_y + way_y * near, corner_x, corner_y + way_y * far)


def scale_bar(canvas: Canvas) -> None:
    x, y = MARGIN_MM * mm, (MARGIN_MM - 3) * mm
    canvas.setLineWidth(0.5)
    canvas.line(x, y, x + SCALE_BAR_MM * mm, y)
    for tick in range(0, SCALE_BAR_MM + 1, 10):
        canvas.line(x + tick * mm, y, x + tick * mm, y + (2 if tick % SCALE_BAR_MM else 3) * mm)
    canvas.setFont("Helvetica", 8)
    canvas.drawString(x + (SCALE_BAR_MM + 3) * mm, y, f"{SCALE_BAR_MM} mm: if a ruler disagrees, print at 100%")


def room_on(page: str) -> tuple[float, float]:
    """Width and height in mm of a page's room for stencils, above the scale bar."""
    width, height = PAGES[page]
    return width / mm - 2 * MARGIN_MM, height / mm - 2 * MARGIN_MM - 12


def check_fits(name: str, width_mm: float, height_mm: float, page: str) -> None:
    room = room_on(page)
    if width_mm > room[0] or height_mm > room[1]:
        size = f"{width_mm:.0f} x {height_mm:.0f} mm"
        raise UserError(f"{name}: {size} does not fit on {page}, which has {room[0]:.0f} x {room[1]:.0f} mm")


def names_of(pictures: list[Path]) -> list[str]:
    """A name for each picture's files: its own, with a number if an earlier picture has that name."""
    names: list[str] = []
    for path in pictures:
        numbered = (f"{path.stem}-{number}" for number in range(2, len(pictures) + 2))
        names.append(path.stem if path.stem not in names else next(n for n in numbered if n not in names))
    return names


def read_picture(path: Path) -> Image.Image:
    """The picture as it is meant to be seen; UserError if Pillow cannot read it."""
    try:
        # If Pillow gets a name, it maps an uncompressed TIFF that is to be turned at the wrong size.
        with path.open("rb") as file, Image.open(file) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise UserError(f"{path}: no picture ({error or type(error).__name__})") from None


def trace(path: Path, options: Options) -> np.ndarray:
    """The picture's stencil, as `ink_of` gives it."""
    picture = read_picture(path)
    try:
        return ink_of(picture, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.stencil", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--width-mm", type=float, required=True, help="width of the print")
    parser.add_argument("--dpi", type=int, default=300)
    parser.add_argument("--threshold", type=float, help="grey below which is ink, 0 to 1; default: found by itself")
    parser.add_argument("--smooth-mm", type=float, default=0.15, help="softens edges before they are cut")
    parser.add_argument("--speck-mm2", type=float, default=0.4, help="smaller pieces and holes are dropped")
    parser.add_argument("--min-stroke-mm", type=float, default=0.0, help="thinner strokes are widened")
    parser.add_argument("--min-gap-mm", type=float, default=0.5, help="warn where lines are closer")
    parser.add_argument("--mirror", action="store_true", help="for transfer paper")
    parser.add_argument("--transparent", action="store_true", help="PNG without its white")
    parser.add_argument("--page", choices=PAGES, default="A4")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder; default: {OUT}")
    args = vars(parser.parse_args())
    pictures, page, folder = args.pop("pictures"), args.pop("page"), args.pop("out")
    with one_line_errors():
        options = Options(**args)
        check_options(options)
        for path in pictures:
            picture = read_picture(path)
            check_fits(path.name, options.width_mm, options.width_mm * picture.height / picture.width, page)
        writable(folder)
        stencils = [(name, trace(path, options)) for name, path in zip(names_of(pictures), pictures, strict=True)]
        for name, ink in stencils:
            print("\n".join(map(str, write_files(name, ink, options, folder))))
        with replace_file(folder / "stencils.pdf") as partial:
            to_pdf(stencils, partial, options, page)
        print(folder / "stencils.pdf")


if __name__ == "__main__":
    main()
