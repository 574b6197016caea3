"""Paper, and where on it stencils lie: several on a sheet, or one over several sheets. Lengths are in mm."""

from dataclasses import dataclass
from itertools import product
from math import ceil

from app.checks import check_limits
from tattoo_lora.errors import UserError
from tattoo_lora.params import Range

PAPERS: dict[str, tuple[float, float | None]] = {  # width, height; a roll is cut where the stencil ends
    "A4": (210, 297),
    "A3": (297, 420),
    "Letter": (215.9, 279.4),
    "roll-110": (110, None),
    "roll-210": (210, None),
}
MARGIN_MM = 12  # printers leave the paper's rim white
HANDLING_MARGIN_MM = 25  # what vendors of transfer paper advise, to hold it by
OVERLAP_MM = 10  # of neighbouring pages of a large stencil
GAP_MM = 10  # between stencils on a sheet
FOOTER_MM = 12  # of a sheet: its scale bar
LONGEST_MM = 2000  # of a stencil: PDF ends at five metres
LIMITS = {"margin_mm": Range(5, 45), "overlap_mm": Range(0, 15)}  # a roll of 110 mm keeps 20 mm between the margins

Box = tuple[float, float, float, float]  # left, upper, right, lower


@dataclass(frozen=True)
class Layout:
    """The paper, what of it stays white, and how far neighbouring pages of a large stencil overlap."""

    page: str = "A4"
    margin_mm: float = MARGIN_MM
    overlap_mm: float = OVERLAP_MM

    def rooms(self) -> list[tuple[float, float]]:
        """Width and height of what can be printed on an upright sheet and on a lying one; a roll never lies."""
        width, height = PAPERS[self.page]
        if height is None:
            return [(width - 2 * self.margin_mm, LONGEST_MM)]
        return [
            (w - 2 * self.margin_mm, h - 2 * self.margin_mm - FOOTER_MM) for w, h in ((width, height), (height, width))
        ]

    def fits(self, width_mm: float, height_mm: float) -> bool:
        """Whether a stencil of this size has room on one upright sheet."""
        room = self.rooms()[0]
        return width_mm <= room[0] and height_mm <= room[1]


@dataclass(frozen=True)
class Tile:
    """One page's part of a large stencil, in mm of the stencil."""

    row: int
    column: int
    printed: Box
    marked: Box  # to be cut, or laid on its neighbours: half of the overlap further in


def check_layout(layout: Layout) -> None:
    """UserError if a length is out of bounds."""
    check_limits(layout, LIMITS)


def check_height(name: str, width_mm: float, height_mm: float) -> None:
    if height_mm > LONGEST_MM:
        raise UserError(f"{name}: {width_mm:.0f} x {height_mm:.0f} mm, allowed is a height of at most {LONGEST_MM} mm")


def spans(length: float, room: float, overlap: float) -> list[tuple[float, float]]:
    """Begin and end of the fewest equal parts of a length that have room and overlap."""
    count = 1 if length <= room else ceil((length - overlap) / (room - overlap))
    part = (length + (count - 1) * overlap) / count
    return [(i * (part - overlap), i * (part - overlap) + part) for i in range(count)]


def tiles(width_mm: float, height_mm: float, room: tuple[float, float], overlap: float) -> list[Tile]:
    """The pages of a stencil, row by row."""
    columns, rows = spans(width_mm, room[0], overlap), spans(height_mm, room[1], overlap)
    parts = []
    for (row, (top, bottom)), (column, (left, right)) in product(enumerate(rows), enumerate(columns)):
        inner = (
            left + overlap / 2 * (column > 0),
            top + overlap / 2 * (row > 0),
            right - overlap / 2 * (column < len(columns) - 1),
            bottom - overlap / 2 * (row < len(rows) - 1),
        )
        parts.append(Tile(row, column, (left, top, right, bottom), inner))
    return parts


def shelves(widths: list[float], room: float, gap: float) -> list[list[int]]:
    """Which of the things stand on each shelf, in their order."""
    rows: list[list[int]] = []
    free = -1.0
    for i, width in enumerate(widths):
        if width > free:
            rows.append([])
            free = room
        rows[-1].append(i)
        free -= width + gap
    return rows


def on_sheets(sizes: list[tuple[float, float]], room: tuple[float, float]) -> list[list[tuple[int, float, float]]]:
    """For each sheet which stencils it holds, and where in the room, in rows as in a book."""
    sheets: list[list[tuple[int, float, float]]] = []
    y = room[1] + 1
    for row in shelves([width for width, _ in sizes], room[0], GAP_MM):
        height = max(sizes[i][1] for i in row)
        if y + height > room[1]:
            sheets.append([])
            y = 0.0
        x = 0.0
        for i in row:
            sheets[-1].append((i, x, y))
            x += sizes[i][0] + GAP_MM
        y += height + GAP_MM
    return sheets
