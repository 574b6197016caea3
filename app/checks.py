"""Checks of arguments that the programs make before any work."""

import os
import subprocess
import tempfile
from pathlib import Path, PurePosixPath

from tattoo_lora.errors import UserError
from tattoo_lora.params import Range


def check(option: str, value: float, allowed: Range) -> None:
    """UserError if the number is not in the range; nan is in no range."""
    if value not in allowed:
        raise UserError(f"{option} {value:.15g}: allowed is {allowed}")


def check_limits(values: object, limits: dict[str, Range], **options: str) -> None:
    """UserError for the first attribute of `values` that is out of its range; None is in each.

    An attribute's option is --its-name, unless `options` names another.
    """
    for name, allowed in limits.items():
        if (value := getattr(values, name)) is not None:
            check(options.get(name, "--" + name.replace("_", "-")), value, allowed)


def writable(folder: Path, what: str = "--out") -> Path:
    """Make the folder if it is missing, and return it; UserError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{what} {folder}: nothing can be written there ({error.strerror})") from None


def check_repository(root: Path = Path()) -> None:
    """UserError if Git refuses the folder or DVC cannot write to it: DVC writes even to read."""
    git("rev-parse", "HEAD", root=root)
    writable(root / ".dvc/tmp", "DVC's folder")


def git(*arguments: str, root: Path = Path(), **environment: str) -> str:
    """What Git prints in the folder; UserError with Git's own words if it refuses."""
    done = subprocess.run(
        ["git", *arguments], cwd=root, env={**os.environ, **environment}, capture_output=True, text=True
    )
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
    """folder/name; None if the name, which comes from a file, would lead out of the folder.

    Links are followed as they are: DVC may link a file to a cache that several projects share.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        return None
    return f"{folder}/{name}"
