"""Make a flash sheet to pin to a wall: several drawings on a page, each at its real size with its caption.

    python -m app.flash owl.png key.png rose.png --width-mm 60
    python -m app.flash owl.png key.png --width-mm 90 40 --captions "Night owl" "Small key" --page A3 --title "Flash"

--width-mm is one width for all or one for each, of the picture with its margins as in a stencil; below the caption
stands how large the ink itself is, as a ruler finds it. Writes flash.pdf with all pages, to be printed at 100%, and
each page as flash-1.png, flash-2.png and so on.
"""

import argparse
import textwrap
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from app import OUT
from app.checks import writable
from app.stencil.ink import to_image, trace
from app.stencil.options import INCH_MM, Options, check_options
from app.stencil.paper import PAPERS, shelves
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file

PAGES = {name: (width, height) for name, (width, height) in PAPERS.items() if height is not None}
DPI = Options.dpi
FRAME_MM, MARGIN_MM = 7, 14  # from the paper's edge to the frame, and to the drawings
GAP_MM = 8  # between drawings, and from a drawing to its caption a quarter of it
TITLE_MM, CAPTION_MM, SIZE_MM = 11, 3.6, 2.6  # of letters
LINE = 1.3  # from line to line, in letters' heights
LONGEST_LINE = 30  # letters of a caption
FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"  # Pillow's own has no accents; this one lies in each install


@dataclass(frozen=True)
class Drawing:
    """The ink of a drawing, without the white around it, and the texts below it."""

    ink: Image.Image  # black on white, at DPI
    caption: str
    size: str

    def width(self) -> int:
        """px that it needs, with its texts."""
        pen = ImageDraw.Draw(self.ink)
        caption = pen.multiline_textbbox((0, 0), self.caption, font(CAPTION_MM))
        return max(self.ink.width, round(caption[2]), round(pen.textlength(self.size, font(SIZE_MM, "-Italic"))))

    def text_height(self) -> int:
        """px below the ink, the same for captions of as many lines."""
        return px(GAP_MM / 4 + LINE * (CAPTION_MM * (1 + self.caption.count("\n")) + SIZE_MM))


def px(mm: float) -> int:
    return round(mm / INCH_MM * DPI)


def font(mm: float, style: str = "") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS / f"DejaVuSerif{style}.ttf", px(mm))


def make_drawing(path: Path, width_mm: float, caption: str) -> Drawing:
    """The picture's stencil, cut to its ink; UserError as a stencil's."""
    ink = trace(path, Options(width_mm=width_mm)).ink
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (side / DPI * INCH_MM for side in ink.shape)
    return Drawing(to_image(ink), textwrap.fill(caption, LONGEST_LINE), f"{width:.0f} × {height:.0f} mm")


def check_fits(path: Path, drawing: Drawing, page: str, title: str) -> None:
    room = room_on(page, title)
    if drawing.ink.width > room[0] or drawing.ink.height + drawing.text_height() > room[1]:
        width, height = (side / DPI * INCH_MM for side in room)
        raise UserError(f"{path}: {drawing.size} does not fit on {page}, which has {width:.0f} × {height:.0f} mm")


def room_on(page: str, title: str) -> tuple[int, int]:
    """Width and height in px of what a page has for drawings."""
    width, height = PAGES[page]
    return px(width - 2 * MARGIN_MM), px(height - 2 * MARGIN_MM - (2 * TITLE_MM if title else 0))


def lay_out(drawings: list[Drawing], page: str, title: str) -> list[Image.Image]:
    """The drawings in rows, the tallest first, spread over as many pages as they need."""
    room = room_on(page, title)
    drawings = sorted(drawings, key=lambda drawing: -drawing.ink.height)
    rows = [
        [drawings[i] for i in row] for row in shelves([drawing.width() for drawing in drawings], room[0], px(GAP_MM))
    ]
    feet = [max(drawing.ink.height for drawing in row) for row in rows]
    heights = [foot + max(drawing.text_height() for drawing in row) for foot, row in zip(feet, rows, strict=True)]
    pages = []
    for on_page in shelves(heights, room[1], px(GAP_MM)):
        sheet = empty_page(page, title)
        free = (room[1] - sum(heights[j] for j in on_page)) / (len(on_page) + 1)
        y = px(PAGES[page][1] - MARGIN_MM) - room[1] + free
        for j in on_page:
            gap = (room[0] - sum(drawing.width() for drawing in rows[j])) / (len(rows[j]) + 1)
            x = px(MARGIN_MM) + gap
            for drawing in rows[j]:
                draw(sheet, drawing, round(x + drawing.width() / 2), round(y) + feet[j])
                x += drawing.width() + gap
            y += heights[j] + free
        pages.append(sheet)
    return pages


def empty_page(page: str, title: str) -> Image.Image:
    """The paper with a frame of two lines and the title."""
    width, height = (px(side) for side in PAGES[page])
    sheet = Image.new("L", (width, height), 255)
    pen = ImageDraw.Draw(sheet)
    for inset, line in ((FRAME_MM, 0.8), (FRAME_MM + 1.8, 0.25)):
        pen.rectangle((px(inset), px(inset), width - px(inset), height - px(inset)), outline=0, width=px(line))
    share = min(1, room_on(page, title)[0] / max(1, pen.textlength(title, font(TITLE_MM))))  # a long title is smaller
    pen.text((width / 2, px(MARGIN_MM + TITLE_MM)), title, 0, font(TITLE_MM * share), anchor="mm")
    return sheet


def draw(sheet: Image.Image, drawing: Drawing, middle: int, foot: int) -> None:
    """The drawing with its lower edge at `foot`, and its texts below, around the column `middle`."""
    sheet.paste(drawing.ink, (middle - drawing.ink.width // 2, foot - drawing.ink.height))
    pen, y = ImageDraw.Draw(sheet), foot + px(GAP_MM / 4)
    for line in drawing.caption.split("\n"):
        pen.text((middle, y), line, 0, font(CAPTION_MM), anchor="ma")
        y += px(LINE * CAPTION_MM)
    pen.text((middle, y), drawing.size, 0, font(SIZE_MM, "-Italic"), anchor="ma")


def make_pages(
    pictures: list[Path], widths: list[float], captions: list[str], page: str, title: str
) -> list[Image.Image]:
    """The sheet's pages; UserError for a width that is out of bounds or a drawing that does not fit."""
    for width in widths:
        check_options(Options(width_mm=width))
    drawings = []
    for path, width, caption in zip(pictures, widths, captions, strict=True):
        drawings.append(make_drawing(path, width, caption))
        check_fits(path, drawings[-1], page, title)
    return lay_out(drawings, page, title)


def to_pdf(pages: list[Image.Image], title: str) -> bytes:
    """All pages at their real size, one bit a pixel: PDF would get JPEGs of greys, with halos around the lines."""
    first, *others = (page.convert("1", dither=Image.Dither.NONE) for page in pages)
    file = BytesIO()
    first.save(file, "PDF", resolution=DPI, save_all=True, append_images=others, title=title or None)
    return file.getvalue()


def one_for_each(option: str, values: list, pictures: list[Path]) -> list:
    """The values, a single one for all pictures; UserError if there are fewer or more than pictures."""
    if len(values) not in (1, len(pictures)):
        raise UserError(f"{option}: found {len(values)}, allowed: one, or one for each of the {len(pictures)} pictures")
    return values * len(pictures) if len(values) == 1 else values


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.flash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--width-mm", type=float, nargs="+", required=True, help="one for all, or one for each")
    parser.add_argument("--captions", nargs="+", help="one for each; default: the files' names")
    parser.add_argument("--title", default="", help="at the top of each page")
    parser.add_argument("--page", choices=PAGES, default="A4")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder; default: {OUT}")
    args = parser.parse_args()
    with one_line_errors():
        widths = one_for_each("--width-mm", args.width_mm, args.pictures)
        names = [path.stem.replace("-", " ").replace("_", " ") for path in args.pictures]
        captions = one_for_each("--captions", args.captions or names, args.pictures)
        pages = make_pages(args.pictures, widths, captions, args.page, args.title)
        writable(args.out)
        for number, page in enumerate(pages, start=1):
            with replace_file(args.out / f"flash-{number}.png") as partial:
                page.save(partial, "PNG", dpi=(DPI, DPI))
            print(args.out / f"flash-{number}.png")
        with replace_file(args.out / "flash.pdf") as partial:
            partial.write_bytes(to_pdf(pages, args.title))
        print(args.out / "flash.pdf")


if __name__ == "__main__":
    main()
