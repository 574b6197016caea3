"""One picture of what came in and what became of it: before and after, groups of duplicates, what was left out."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from tattoo_lora.data.manifest import ManifestRow

COLUMNS = 6  # of pairs
CELL = 96  # px of one picture
PAD = 12
PAIR, SINGLE = 2 * CELL + 3 * PAD, CELL + 4 * PAD  # px from one to the next
CAME, BECAME = ".thumbnail.png", ".png"
WIDTH = COLUMNS * PAIR + 2 * PAD
LINE = 15  # px from one line of text to the next
PAIRS, GROUPS, REJECTS = 48, 12, 36  # how many of each are shown
GREY, FRAME = "#666666", "#cccccc"

Picture = Image.Image | None


def font(size: int) -> ImageFont.FreeTypeFont:
    """The DejaVu font, which comes with matplotlib and has most alphabets."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


class Sheet:
    """A white page that grows downwards."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, 4000), "white")
        self.draw, self.y = ImageDraw.Draw(self.image), PAD
        self.small, self.large = font(11), font(17)

    def room(self, height: int) -> None:
        """Make the page at least `height` px longer than what is on it."""
        if self.y + height > self.image.height:
            longer = Image.new("RGB", (WIDTH, 2 * self.image.height), "white")
            longer.paste(self.image)
            self.image, self.draw = longer, ImageDraw.Draw(longer)

    def heading(self, text: str) -> None:
        self.room(60)
        self.draw.text((2 * PAD, self.y), text, "black", self.large)
        self.y += 34

    def more(self, count: int, what: str) -> None:
        """Say how many are not shown."""
        if count > 0:
            self.draw.text((2 * PAD, self.y), f"and {count} more {what}: see manifest.csv", GREY, self.small)
            self.y += 26

    def cells(self, cells: Iterable[tuple[list[Picture], str]], columns: int, width: int, lines: int) -> None:
        """Pictures side by side with a text below, in rows of `columns`, each `width` px wide."""
        height = CELL + lines * LINE + PAD
        for i, (pictures, text) in enumerate(cells):
            if i % columns == 0:
                self.y += height if i else 0
                self.room(height)
            left = 2 * PAD + i % columns * width
            for k, picture in enumerate(pictures):
                self._picture(picture, left + k * (CELL + PAD // 2), self.y)
            wrapped = textwrap.wrap(text, max(width // 7 - 1, 8), max_lines=lines, placeholder="…")
            for line, words in enumerate(wrapped):
                self.draw.text((left, self.y + CELL + 2 + line * LINE), words, GREY, self.small)
        self.y += height + PAD

    def _picture(self, picture: Picture, x: int, y: int) -> None:
        frame = (x, y, x + CELL - 1, y + CELL - 1)
        if picture is None:
            self.draw.rectangle(frame, outline=FRAME)
            self.draw.line((x, y, x + CELL, y + CELL), FRAME)
            return
        scale = CELL / max(picture.size)
        picture = picture.resize([max(round(side * scale), 1) for side in picture.size], Image.Resampling.LANCZOS)
        self.image.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))
        self.draw.rectangle(frame, outline=FRAME)

    def finish(self) -> Image.Image:
        return self.image.crop((0, 0, WIDTH, self.y + PAD))


def text_below(row: ManifestRow) -> str:
    """The file's name, and what was done to it or why it was left out."""
    return ": ".join(filter(None, (row.source, row.reason or row.note)))


def contact_sheet(
    title: str, rows: Sequence[ManifestRow], picture: Callable[[ManifestRow, str], Picture]
) -> Image.Image:
    """The page for the manifest's rows. `picture(row, suffix)` is a drawing before (.thumbnail.png) or after (.png)."""
    sheet = Sheet()
    sheet.heading(title)
    kept = [row for row in rows if row.status == "kept"]
    step = max(len(kept) / PAIRS, 1)
    chosen = [kept[int(i * step)] for i in range(min(len(kept), PAIRS))]
    pairs = (([picture(row, CAME), picture(row, BECAME)], text_below(row)) for row in chosen)
    sheet.cells(pairs, COLUMNS, PAIR, 2)
    sheet.more(len(kept) - len(chosen), "drawings")

    groups = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.status != "kept"):
        if row.group:
            groups[row.group].append(row)
    if groups:
        sheet.heading("Duplicates, each group in a row: the first is kept, the others for the reasons below them")
        for group in list(groups.values())[:GROUPS]:
            sheet.cells(([([picture(row, CAME)], text_below(row)) for row in group]), 8, SINGLE, 4)
        sheet.more(len(groups) - GROUPS, "groups")

    rejected = [row for row in rows if row.status == "rejected"]
    if rejected:
        sheet.heading("Left out")
        cells = (([picture(row, CAME)], text_below(row)) for row in rejected[:REJECTS])
        sheet.cells(cells, 8, SINGLE, 5)
        sheet.more(len(rejected) - REJECTS, "files")
    return sheet.finish()
