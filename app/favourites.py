"""Pictures that were drawn here, and those that somebody marked: all on the disk, each with its settings in it.

A favourite is a copy in a folder of its own, which keeps it whatever becomes of the first. Its name holds the start of
its checksum, so that two pictures of one name are two favourites.
"""

import shutil
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from app import OUT
from app.generate import Settings, read_settings
from app.sketch import sketch_sha256
from app.tryon import Upload, read_upright
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file

FAVOURITES = Path("runs/samples/favourites")
SKETCHES = Path("runs/samples/sketches")
LARGEST_SKETCH = 2048  # px; it is drawn over at the pictures' size


def favourite_path(picture: Path) -> Path:
    """Where the picture's copy is, or would be; a favourite's own path."""
    if picture.parent == FAVOURITES:
        return picture
    return FAVOURITES / f"{picture.stem}_{sha256(picture.read_bytes()).hexdigest()[:12]}.png"


def is_favourite(picture: Path) -> bool:
    return favourite_path(picture).is_file()


def mark(picture: Path) -> Path:
    """Keep the picture as a favourite."""
    path = favourite_path(picture)
    if path != picture and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            shutil.copyfile(picture, partial)
    return path


def unmark(picture: Path) -> None:
    favourite_path(picture).unlink(missing_ok=True)


def favourites() -> list[Path]:
    """The newest first."""
    return newest_first(FAVOURITES)


def history() -> list[Path]:
    """All pictures that were drawn here and hold their settings, the newest first."""
    return [path for path in newest_first(OUT) if settings_in(path) is not None]


def newest_first(folder: Path) -> list[Path]:
    """The folder's pictures; a stencil's are none, which have a dot in their name."""
    changed = {}
    for path in folder.glob("*.png"):
        try:
            if "." not in path.stem:
                changed[path] = path.stat().st_mtime_ns
        except OSError:  # just deleted
            continue
    return sorted(changed, key=lambda path: (-changed[path], path.name))


def settings_in(picture: Path) -> Settings | None:
    """The settings that the picture holds; None if it holds none or is gone."""
    try:
        return _settings_in(picture, picture.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=10_000)
def _settings_in(picture: Path, changed: int) -> Settings | None:
    try:
        return read_settings(picture)
    except UserError:
        return None


def keep_sketch(upload: Upload) -> tuple[str, str]:
    """Path and SHA-256 of the upload's picture, kept in the folder of sketches under its checksum."""
    path = SKETCHES / f"{sha256(upload.content).hexdigest()[:24]}.png"
    if not path.is_file():
        sketch = read_upright(upload, "sketch")
        sketch.thumbnail((LARGEST_SKETCH, LARGEST_SKETCH))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            sketch.save(partial, "PNG")
    return str(path), sketch_sha256(path)
