"""The preprocessed drawings that the stages work on: which there are, and which of them are held out."""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file


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
    with replace_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, [field.name for field in fields(Drawing)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(drawing) for drawing in drawings)


def read_drawings(path: Path) -> list[Drawing]:
    """The drawings in the file's order; UserError where there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro preprocess`")
    with path.open(newline="", encoding="utf-8") as table:
        return [Drawing(row["file"], row["sha256"], row["split"]) for row in csv.DictReader(table)]
