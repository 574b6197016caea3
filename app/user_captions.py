"""The user's own captions of a set, <name>.txt beside each drawing of data/raw, read and changed.

They are what the stage preprocess reads, so that DVC sees a change and only what depends on it runs again. A raw
picture is never written to. No path comes from a visitor: a drawing is named by its place in the set's list.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from stages.preprocess.files import CAPTIONS, LONGEST_CAPTION, RawFile, look_at, read_user_caption
from tattoo_lora.data.captions import split_captions
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file


@dataclass(frozen=True)
class Row:
    """A drawing, the user's own captions, on a line each, and the one that a model wrote; "" where there is none."""

    path: Path
    source: str  # the path below the set's folder
    own: str
    machine: str

    @property
    def caption(self) -> str:
        return self.own or self.machine


def read_rows(root: Path, dataset: str) -> list[Row]:
    """The set's drawings in order; UserError if its rights.csv cannot be read."""
    files = [file for file in look_at(root / "data/raw" / dataset) if not file.status]
    folder = root / "data/processed" / dataset / "captions_blip"
    return [Row(file.path, file.source, file.caption, machine_caption(folder, file)) for file in files]


def machine_caption(folder: Path, file: RawFile) -> str:
    """The caption that training reads if the user has none."""
    if file.caption:
        return ""
    try:
        return " ".join((folder / f"{file.stem}.txt").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ""


def save_caption(row: Row, caption: str) -> None:
    """Write the captions beside the drawing, on a line each; without any, remove the file.

    UserError for what preprocess would refuse.
    """
    path = row.path.with_suffix(".txt")
    text = "\n".join(split_captions(caption))
    if not text:
        for ending in CAPTIONS:
            row.path.with_suffix(ending).unlink(missing_ok=True)
        return
    with replace_file(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8", newline="\n", errors="replace")
        try:
            read_user_caption(partial)
        except ValueError as reason:
            raise UserError(f"{row.source}: caption not saved: {reason}; allowed are {LONGEST_CAPTION} bytes") from None


def replaced(rows: list[Row], words: str, others: str, with_machine: bool = False) -> dict[Row, str]:
    """The new caption of each drawing in whose own one `words` stand, as whole words and in any case.

    With `with_machine` the model's captions count too: changed, they become the user's own. UserError without words.
    """
    if not words.strip():
        raise UserError("find: write the words to look for")
    whole = re.compile(rf"(?<!\w){re.escape(' '.join(words.split()))}(?!\w)", re.IGNORECASE)
    changes = {}
    for row in rows:
        before = row.caption if with_machine else row.own
        lines = split_captions(whole.sub(lambda _: others, before))
        after = "\n".join(filter(None, (re.sub(r"\s+,", ",", line).strip(" ,") for line in lines)))
        if before and after != before and whole.search(before):
            changes[row] = after
    return changes


def matching(rows: list[Row], words: str) -> list[Row]:
    """The drawings in whose name or caption each of the words stands."""
    wanted = words.casefold().split()
    return [row for row in rows if all(word in f"{row.source} {row.caption}".casefold() for word in wanted)]
