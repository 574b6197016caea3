"""What the programs check of their arguments before any work."""

import tempfile
from pathlib import Path

from tattoo_lora.errors import UserError
from tattoo_lora.params import Range


def check(option: str, value: float, allowed: Range) -> None:
    """UserError where the number is not in the range; nan is in none."""
    if value not in allowed:
        raise UserError(f"{option} {value:.15g}: allowed is {allowed}")


def writable(folder: Path) -> Path:
    """The folder, made where it is missing; UserError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"--out {folder}: nothing can be written there ({error.strerror})") from None
