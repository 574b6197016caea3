"""The manifest: what became of every file in the raw folder. For people; no stage learns from it."""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file


@dataclass(slots=True)
class Found:
    """One row a file. `status` is one of

    kept        preprocessed as `file`, with what was done to it in `note`
    duplicate   left out, because another of its `group` is kept
    rejected    left out, for the `reason`
    caption     the text of the drawing of the same name
    ignored     no drawing by its ending, or hidden
    """

    source: str  # path below data/raw/<dataset>
    status: str = ""
    reason: str = ""
    note: str = ""
    file: str = ""
    sha256: str = ""
    width: int = 0  # px of the raw picture, upright
    height: int = 0
    split: str = ""  # train or val
    group: str = ""  # the same for all files that show one picture, empty for most
    license: str = ""
    author: str = ""
    url: str = ""


def write_manifest(path: Path, rows: list[Found]) -> None:
    """Write the rows as CSV, in their order."""
    with replace_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, [field.name for field in fields(Found)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_manifest(path: Path) -> list[Found]:
    """The rows in the file's order; UserError where there is no manifest."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro preprocess`")
    with path.open(newline="", encoding="utf-8") as table:
        return [
            Found(**row | {"width": int(row["width"]), "height": int(row["height"])}) for row in csv.DictReader(table)
        ]
