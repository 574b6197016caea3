"""The list of preprocessed drawings: which file came from which source, and which are held out."""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tattoo_lora.errors import UserError


@dataclass(frozen=True)
class Drawing:
    """One row. `file` is the name in images/, `source` the path in data/raw/<dataset>; the numbers are the source's."""

    file: str
    source: str
    sha256: str
    width: int
    height: int
    split: str  # train or val

    @property
    def stem(self) -> str:
        return Path(self.file).stem


def write_manifest(path: Path, drawings: list[Drawing]) -> None:
    """Write the drawings as CSV, one a row, in their order."""
    with path.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, [field.name for field in fields(Drawing)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(drawing) for drawing in drawings)


def read_manifest(path: Path) -> list[Drawing]:
    """The drawings in the file's order; UserError where there is no manifest."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro preprocess`")
    with path.open(newline="", encoding="utf-8") as table:
        return [
            Drawing(r["file"], r["source"], r["sha256"], int(r["width"]), int(r["height"]), r["split"])
            for r in csv.DictReader(table)
        ]
