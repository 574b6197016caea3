"""Which drawings are held out: decided by each file's own content, so that adding one moves no other."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of the file's bytes, read a block at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_held_out(sha256: str, share: float) -> bool:
    """True for about `share` (0 to 1) of all contents; the first 64 bits of the hash are the draw."""
    return int(sha256[:16], 16) < share * 2**64
