"""Captions on disk: one UTF-8 file a drawing, <stem>.txt, one line; and the user's own, in one table."""

from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.data.tables import read_table, write_table
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file


@dataclass(frozen=True)
class UserCaption:
    """One row of captions_user.csv. `file` is the name in images/."""

    file: str
    caption: str


def write_caption(folder: Path, stem: str, caption: str) -> None:
    """Write <stem>.txt with the caption on one line."""
    with replace_file(folder / f"{stem}.txt") as partial:
        partial.write_text(" ".join(caption.split()) + "\n", encoding="utf-8", newline="\n")


def read_captions(folder: Path, stems: list[str]) -> dict[str, str]:
    """The caption of each stem; UserError names those that have none."""
    missing = sorted(stem for stem in stems if not (folder / f"{stem}.txt").is_file())
    if missing:
        raise UserError(
            f"{folder}: no caption for {', '.join(missing[:3])} ({len(missing)} in all); "
            "run `dvc repro` so that the captions are written anew"
        )
    captions = {stem: (folder / f"{stem}.txt").read_text(encoding="utf-8").strip() for stem in stems}
    empty = sorted(stem for stem, caption in captions.items() if not caption)
    if empty:
        raise UserError(f"{folder}: empty caption for {', '.join(empty[:3])} ({len(empty)} in all); write one")
    return captions


def write_user_captions(path: Path, captions: dict[str, str]) -> None:
    """Write the user's own captions by image file as CSV."""
    write_table(path, UserCaption, [UserCaption(file, caption) for file, caption in captions.items()])


def read_user_captions(path: Path) -> dict[str, str]:
    """The user's own captions by image file; UserError if there is no such table."""
    return {row.file: row.caption for row in read_table(path, UserCaption)}


def with_trigger(trigger: str, caption: str) -> str:
    """The caption with the variant's trigger words before it, as training and evaluation give it to the model."""
    return f"{trigger}, {caption}" if trigger else caption
