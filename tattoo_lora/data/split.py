"""Which drawings are held out: decided by each file's own content, so that adding one moves no other."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

ENOUGH = 3  # held-out drawings: the fewest that a difference can be judged by


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of the file's bytes, read a block at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_held_out(sha256: str, share: float) -> bool:
    """True for about `share` (0 to 1) of all contents; the first 64 bits of the hash are the draw."""
    return int(sha256[:16], 16) < share * 2**64


def fewest_held_out(count: int) -> int:
    """The least number of `count` drawings to hold out: ENOUGH, but no more than a quarter, and at least one."""
    return max(min(ENOUGH, count // 4), 1)


def held_out(contents: Iterable[str], share: float) -> set[str]:
    """The held-out ones of two or more contents, each the hex SHA-256 of a drawing.

    The ones for which `is_held_out`; where by chance too few of a small folder are, those with the lowest hashes, and
    where all are, all but the one with the highest. While that fills up, one more drawing moves at most one other.
    """
    in_order = sorted(set(contents))
    by_content = sum(is_held_out(content, share) for content in in_order)  # the first ones: the draw is the hash
    return set(in_order[: min(max(by_content, fewest_held_out(len(in_order))), len(in_order) - 1)])
