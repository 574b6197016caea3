"""The preprocessed drawings that the stages work on: which there are, and which of them are held out: val and test."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.data.tables import read_table, write_table


@dataclass(frozen=True)
class Drawing:
    """One row. `file` is the name in images/, `sha256` that of the raw file it was made from."""

    file: str
    sha256: str
    split: str  # train, val (chooses the best step) or test (is reported on)

    @property
    def stem(self) -> str:
        return Path(self.file).stem

    @property
    def is_held_out(self) -> bool:
        return self.split != "train"


def sample(drawings: Iterable[Drawing], split: str, count: int) -> list[Drawing]:
    """At most `count` drawings of one split, in their order: those with the lowest hashes, whatever their names."""
    drawings = [drawing for drawing in drawings if drawing.split == split]
    chosen = set(sorted(drawing.sha256 for drawing in drawings)[:count])
    return [drawing for drawing in drawings if drawing.sha256 in chosen][:count]


def write_drawings(path: Path, drawings: list[Drawing]) -> None:
    """Write the drawings as CSV, one a row, in their order."""
    write_table(path, Drawing, drawings)


def read_drawings(path: Path) -> list[Drawing]:
    """The drawings in the file's order; UserError if there is no such file."""
    return read_table(path, Drawing)
