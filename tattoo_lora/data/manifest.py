"""The manifest: what became of every file in the raw folder. For people; no stage learns from it."""

from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.data.tables import read_table, write_table


@dataclass(frozen=True, slots=True)
class ManifestRow:
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
    split: str = ""  # train, val or test
    group: str = ""  # the same for all files that show one picture, empty for most
    license: str = ""
    author: str = ""
    url: str = ""


def write_manifest(path: Path, rows: list[ManifestRow]) -> None:
    """Write the rows as CSV, in their order."""
    write_table(path, ManifestRow, rows)


def read_manifest(path: Path) -> list[ManifestRow]:
    """The rows in the file's order; UserError if there is no manifest."""
    return read_table(path, ManifestRow)
