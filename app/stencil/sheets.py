"""Stencils on sheets of paper, as a PDF."""

from pathlib import Path

import numpy as np
from PIL import Image
from reportlab.lib.pagesizes import A4, LETTER
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from app.stencil.options import Options
from tattoo_lora.errors import UserError

PAGES = {"A4": A4, "Letter": LETTER}
MARGIN_MM, GAP_MM = 12, 10  # of the page; between stencils
SCALE_BAR_MM = 50


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
