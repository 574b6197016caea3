"""Captions on disk: one UTF-8 file a drawing, <stem>.txt, with a caption a line; and the user's own, in one table.

Training draws one of several captions for each sample; what is measured is measured with the first.
"""

from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.data.tables import read_table, write_table
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file


@dataclass(frozen=True)
class UserCaption:
    """One row of captions_user.csv: one caption of a drawing. `file` is the name in images/."""

    file: str
    caption: str


def split_captions(text: str) -> list[str]:
    """The captions of a drawing's text: its lines that are not empty, with single blanks."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def write_caption(folder: Path, stem: str, *captions: str) -> None:
    """Write <stem>.txt with each caption on one line."""
    with replace_file(folder / f"{stem}.txt") as partial:
        lines = [" ".join(caption.split()) + "\n" for caption in captions]
        partial.write_text("".join(lines), encoding="utf-8", newline="\n")


def write_captions(folder: Path, captions: dict[str, list[str]]) -> None:
    """Write the captions of each stem into the folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, lines in captions.items():
        write_caption(folder, stem, *lines)


def read_captions(folder: Path, stems: list[str]) -> dict[str, list[str]]:
    """The captions of each stem, one at least; UserError names those that have none."""
    missing = sorted(stem for stem in stems if not (folder / f"{stem}.txt").is_file())
    if missing:
        raise UserError(
            f"{folder}: no caption for {', '.join(missing[:3])} ({len(missing)} in all); "
            "run `dvc repro` so that the captions are written anew"
        )
    captions = {stem: split_captions((folder / f"{stem}.txt").read_text(encoding="utf-8")) for stem in stems}
    empty = sorted(stem for stem, lines in captions.items() if not lines)
    if empty:
        raise UserError(f"{folder}: empty caption for {', '.join(empty[:3])} ({len(empty)} in all); write one")
    return captions


def write_user_captions(path: Path, captions: dict[str, list[str]]) -> None:
    """Write the user's own captions by image file as CSV."""
    rows = [UserCaption(file, caption) for file, lines in captions.items() for caption in lines]
    write_table(path, UserCaption, rows)


def read_user_captions(path: Path) -> dict[str, list[str]]:
    """The user's own captions by image file; UserError if there is no such table."""
    captions: dict[str, list[str]] = {}
    for row in read_table(path, UserCaption):
        captions.setdefault(row.file, []).append(row.caption)
    return captions


def with_trigger(trigger: str, caption: str) -> str:
    """The caption with the variant's trigger words before it, as training and evaluation give it to the model."""
    return f"{trigger}, {caption}" if trigger else caption
