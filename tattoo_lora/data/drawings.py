"""The preprocessed drawings that the stages work on: which there are, and which of them are held out."""

from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.data.tables import read_table, write_table


@dataclass(frozen=True)
class Drawing:
    """One row. `file` is the name in images/, `sha256` that of the raw file it was made from."""

    file: str
    sha256: str
    split: str  # train or val

    @property
    def stem(self) -> str:
        return Path(self.file).stem


def write_drawings(path: Path, drawings: list[Drawing]) -> None:
    """Write the drawings as CSV, one a row, in their order."""
    write_table(path, Drawing, drawings)


def read_drawings(path: Path) -> list[Drawing]:
    """The drawings in the file's order; UserError if there is no such file."""
    return read_table(path, Drawing)
