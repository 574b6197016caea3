"""What the programs check of their arguments before any work."""

import subprocess
import tempfile
from pathlib import Path, PurePosixPath

from tattoo_lora.errors import UserError
from tattoo_lora.params import Range


def check(option: str, value: float, allowed: Range) -> None:
    """UserError where the number is not in the range; nan is in none."""
    if value not in allowed:
        raise UserError(f"{option} {value:.15g}: allowed is {allowed}")


def writable(folder: Path, what: str = "--out") -> Path:
    """The folder, made where it is missing; UserError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{what} {folder}: nothing can be written there ({error.strerror})") from None


def check_repository(root: Path = Path()) -> None:
    """UserError where Git does not use the folder, or DVC cannot: it writes even where it only looks."""
    git("rev-parse", "HEAD", root=root)
    writable(root / ".dvc/tmp", "DVC's folder")


def git(*arguments: str, root: Path = Path()) -> str:
    """What Git prints in the folder; UserError with its own words where it refuses."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if "dubious ownership" in done.stderr:
        folder = root.resolve()
        raise UserError(
            f"{folder}: belongs to another user, so Git does not use it; "
            f"if you trust it: `git config --global --add safe.directory {folder}`"
        )
    if done.returncode != 0:
        raise UserError(f"`git {arguments[0]}` failed: {' '.join(done.stderr.split())}")
    return done.stdout.rstrip()


def inside(folder: str, name: str) -> str | None:
    """folder/name; None where the name, read from a file, would lead out of the folder.

    Links are followed as they are: DVC may link a file to a cache that several projects share.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        return None
    return f"{folder}/{name}"
