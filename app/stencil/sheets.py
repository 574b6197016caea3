"""Stencils on sheets of paper, as a PDF. Lengths are in mm and count from a sheet's upper left corner."""

from pathlib import Path

import numpy as np
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader, simpleSplit
from reportlab.pdfgen.canvas import Canvas

from app.stencil.ink import to_image
from app.stencil.paper import FOOTER_MM, PAPERS, Box, Layout, Tile, on_sheets, tiles

SCALE_BAR_MM = 50
MAP_MM = 140  # height of the map of pages
FONT, FONT_POINTS, LINE_MM = "Helvetica", 8, 4


class Sheet:
    """A page of the PDF with its scale bar."""

    def __init__(self, canvas: Canvas, layout: Layout, room: tuple[float, float], used: float) -> None:
        """`used` is how much of the room's height is needed: a roll is cut below it."""
        is_roll = PAPERS[layout.page][1] is None
        self.canvas, self.margin = canvas, layout.margin_mm
        self.height = (used if is_roll else room[1]) + 2 * self.margin + FOOTER_MM
        canvas.setPageSize(((room[0] + 2 * self.margin) * mm, self.height * mm))
        x, y = self.margin, self.height - self.margin
        self.line(x, y, x + SCALE_BAR_MM, y, 0.18)
        for tick in range(0, SCALE_BAR_MM + 1, 10):
            self.line(x + tick, y, x + tick, y - (2 if tick % SCALE_BAR_MM else 3), 0.18)
        self.text(x, y - 4.5, f"{SCALE_BAR_MM} mm: if a ruler disagrees, print at 100%")

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float = 0.1) -> None:
        self.canvas.setLineWidth(width * mm)
        self.canvas.line(x0 * mm, (self.height - y0) * mm, x1 * mm, (self.height - y1) * mm)

    def text(self, x: float, y: float, text: str) -> None:
        self.canvas.setFont(FONT, FONT_POINTS)
        self.canvas.drawString(x * mm, (self.height - y) * mm, text)

    def picture(self, picture: ImageReader, size: tuple[float, float], part: Box, x: float, y: float) -> None:
        """A part of the picture, which as a whole has this size, with the part's upper left corner at x, y."""
        left, top, right, bottom = part
        self.canvas.saveState()
        clip = self.canvas.beginPath()
        clip.rect(x * mm, (self.height - y - bottom + top) * mm, (right - left) * mm, (bottom - top) * mm)
        self.canvas.clipPath(clip, stroke=0, fill=0)
        lower = self.height - (y - top) - size[1]
        self.canvas.drawImage(picture, (x - left) * mm, lower * mm, size[0] * mm, size[1] * mm)
        self.canvas.restoreState()

    def marks(self, printed: Box, marked: Box) -> None:
        """Short lines outside of what is printed that point to where it is to be cut."""
        left, top, right, bottom = printed
        for x in (marked[0], marked[2]):
            self.line(x, top - 4, x, top - 1)
            self.line(x, bottom + 1, x, bottom + 4)
        for y in (marked[1], marked[3]):
            self.line(left - 4, y, left - 1, y)
            self.line(right + 1, y, right + 4, y)


def to_pdf(stencils: list[tuple[str, np.ndarray]], path: Path, width_mm: float, layout: Layout) -> int:
    """All stencils (name, ink), each `width_mm` wide: those that fit share sheets, then each large one has its own.

    Returns how many pages there are.
    """
    canvas = Canvas(str(path), invariant=True)
    canvas.setTitle("Stencils, print at 100%")
    # A picture that is drawn on several pages lies in the file once.
    sized = [
        (name, ImageReader(to_image(ink)), (width_mm, width_mm * ink.shape[0] / ink.shape[1])) for name, ink in stencils
    ]
    room = layout.rooms()[0]
    small = [(picture, size) for _, picture, size in sized if layout.fits(*size)]
    for placed in on_sheets([size for _, size in small], room):
        sheet = Sheet(canvas, layout, room, max(y + small[i][1][1] for i, _, y in placed))
        for i, x, y in placed:
            picture, (width, height) = small[i]
            x, y = x + layout.margin_mm, y + layout.margin_mm
            sheet.picture(picture, (width, height), (0, 0, width, height), x, y)
            sheet.marks((x, y, x + width, y + height), (x, y, x + width, y + height))
        canvas.showPage()
    for name, picture, size in sized:
        if not layout.fits(*size):
            add_large(canvas, name, picture, size, layout)
    canvas.save()
    return canvas.getPageNumber() - 1


def add_large(canvas: Canvas, name: str, picture: ImageReader, size: tuple[float, float], layout: Layout) -> None:
    """A stencil on several sheets, which lie if that makes them fewer, after a map of them."""
    margin = layout.margin_mm
    room = min(layout.rooms(), key=lambda room: len(tiles(*size, room, layout.overlap_mm)))
    pages = tiles(*size, room, layout.overlap_mm)
    if len(pages) > 1:
        add_map(canvas, name, picture, size, pages, room, layout)
    for number, page in enumerate(pages, start=1):
        left, top, right, bottom = page.printed
        sheet = Sheet(canvas, layout, room, bottom - top)
        sheet.picture(picture, size, page.printed, margin, margin)
        x, y = margin - left, margin - top  # of the stencil's corner
        sheet.marks(
            (margin, margin, right + x, bottom + y),
            (page.marked[0] + x, page.marked[1] + y, page.marked[2] + x, page.marked[3] + y),
        )
        if len(pages) > 1:
            sheet.text(margin + SCALE_BAR_MM + 3, sheet.height - margin, f"page {number} of {len(pages)}")
        canvas.showPage()


def add_map(
    canvas: Canvas,
    name: str,
    picture: ImageReader,
    size: tuple[float, float],
    pages: list[Tile],
    room: tuple[float, float],
    layout: Layout,
) -> None:
    """A sheet that shows where each page belongs, and says how they are put together."""
    rows, columns = pages[-1].row + 1, pages[-1].column + 1
    said = (
        f"{name}: {size[0]:.0f} x {size[1]:.0f} mm on {len(pages)} pages, {columns} wide and {rows} high. "
        f"They overlap by {layout.overlap_mm:g} mm: cut each at its marks and put the edges together, or "
        "lay its marks on those of its neighbours."
    )
    lines = simpleSplit(said, FONT, FONT_POINTS, room[0] * mm)
    top = layout.margin_mm + LINE_MM * (len(lines) + 1)
    scale = min(room[0] / size[0], (min(room[1], MAP_MM) - LINE_MM * (len(lines) + 1)) / size[1], 1)
    sheet = Sheet(canvas, layout, room, top - layout.margin_mm + size[1] * scale)
    for i, line in enumerate(lines):
        sheet.text(layout.margin_mm, layout.margin_mm + LINE_MM * (i + 1), line)
    width, height = size[0] * scale, size[1] * scale
    sheet.picture(picture, (width, height), (0, 0, width, height), layout.margin_mm, top)
    for number, page in enumerate(pages, start=1):
        x0, x1 = (layout.margin_mm + scale * page.marked[i] for i in (0, 2))
        y0, y1 = (top + scale * page.marked[i] for i in (1, 3))
        for ends in ((x0, y0, x1, y0), (x1, y0, x1, y1), (x1, y1, x0, y1), (x0, y1, x0, y0)):
            sheet.line(*ends)
        canvas.setFillGray(1)
        canvas.circle((x0 + x1) / 2 * mm, (sheet.height - (y0 + y1) / 2) * mm, 3 * mm, fill=1)
        canvas.setFillGray(0)
        canvas.setFont(FONT, FONT_POINTS)
        canvas.drawCentredString((x0 + x1) / 2 * mm, (sheet.height - (y0 + y1) / 2 - 1) * mm, str(number))
    canvas.showPage()
