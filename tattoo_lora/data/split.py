"""Which drawings are learned from (train), choose the best step (val), or are reported on (test).

Each file's own content decides, so that adding one moves no other.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

FEW = 3  # drawings that a small folder holds out


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of the file's bytes, read a block at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_held_out(sha256: str, share: float) -> bool:
    """True for about `share` (0 to 1) of all contents; the first 64 bits of the hash are the draw."""
    return int(sha256[:16], 16) < share * 2**64


def fewest_held_out(count: int) -> int:
    """The least number of `count` drawings to hold out: FEW, but no more than a quarter, and at least two."""
    return max(min(FEW, count // 4), 2)


def held_out(contents: Iterable[str], share: float) -> set[str]:
    """The held-out ones of three or more contents, each the hex SHA-256 of a drawing.

    The ones for which `is_held_out`; where by chance too few of a small folder are, those with the lowest hashes, and
    where all are, all but the one with the highest. While that fills up, one more drawing moves at most one other.
    """
    in_order = sorted(set(contents))
    return set(in_order[: _count(in_order, share, fewest_held_out(len(in_order)))])


def split_contents(contents: Iterable[str], val_share: float, test_share: float) -> dict[str, str]:
    """train, val or test for each of three or more contents.

    Those that are held out by both shares together are test if their hash is below `test_share`, and val if not. Of
    these the lowest is test in any case, the lowest two where three or more are held out, and the highest is val.
    """
    held = sorted(held_out(contents, val_share + test_share))
    tests = _count(held, test_share, min(len(held) - 1, 2))
    return dict.fromkeys(contents, "train") | dict.fromkeys(held, "val") | dict.fromkeys(held[:tests], "test")


def _count(in_order: list[str], share: float, fewest: int) -> int:
    """How many of the contents, from the lowest on, `is_held_out`; but at least the fewest, and not the last."""
    by_content = sum(is_held_out(content, share) for content in in_order)  # the first ones: the draw is the hash
    return min(max(by_content, fewest), len(in_order) - 1)
