"""Preparing one file of the raw folder. The memo keeps its pictures and facts by the file's content."""

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image

from stages.preprocess.files import RawFile
from tattoo_lora.data.split import file_sha256
from tattoo_lora.keys import result_key
from tattoo_lora.memo import Memo
from tattoo_lora.params import PreprocessParams

MAKES_PICTURES = str(Path(__file__).with_name("raw_images.py"))  # imported late: it takes a second
MEMO = Memo("preprocess")
PNG, THUMBNAIL, INK = ".png", ".thumbnail.png", ".ink.png"  # of `raw_images.Prepared`


@dataclass(frozen=True)
class Task:
    """One file for a worker, and what else its result depends on."""

    path: Path
    params: PreprocessParams
    resolution: int


@dataclass(frozen=True)
class Outcome:
    """Why a file is rejected, or what is known of the drawing; its pictures lie in the memo under `key`."""

    sha256: str  # of the raw file
    key: str
    is_new: bool  # decoded in this run
    rejected: str = ""
    png_sha256: str = ""  # of the preprocessed picture
    # As in `raw_images.Prepared`:
    width: int = 0
    height: int = 0
    hash: str = ""
    mirrored_hash: str = ""
    notes: list[str] = field(default_factory=list)

    def picture(self, suffix: str) -> Image.Image | None:
        """One of the memo's pictures; None for a rejected file."""
        content = MEMO.read(self.key, suffix)
        return None if content is None else Image.open(io.BytesIO(content))


@dataclass(frozen=True)
class Candidate:
    """A file that may be a drawing, and the outcome of preparing it."""

    file: RawFile
    outcome: Outcome


def prepare_once(task: Task) -> Outcome:
    """The outcome of `raw_images.prepare`, from the memo if the file's content was seen before."""
    try:
        sha256 = file_sha256(task.path)
    except OSError as error:
        return Outcome("", "", True, rejected=f"unreadable: {error.strerror}")
    care = task.params
    key = result_key(
        MAKES_PICTURES,
        sha256,
        task.resolution,
        care.fit,
        care.invert,
        care.flatten,
        care.threshold,
        care.trim,
        care.margin,
        care.min_size,
        care.max_upscale,
    )
    kept = json.loads(MEMO.read(key, ".json") or "{}")
    if "rejected" in kept or (kept and all(MEMO.path(key, suffix).is_file() for suffix in (PNG, INK))):
        return Outcome(sha256, key, False, **kept)
    facts = _prepare(task, key)
    MEMO.write(key, ".json", json.dumps(facts).encode())
    return Outcome(sha256, key, True, **facts)


def _prepare(task: Task, key: str) -> dict[str, object]:
    """Fields of an Outcome; the pictures go into the memo."""
    from stages.preprocess.raw_images import Rejected, prepare

    try:
        prepared = prepare(task.path, task.params, task.resolution)
    except Rejected as rejected:
        return {"rejected": str(rejected)}
    facts = asdict(prepared) | {"png_sha256": hashlib.sha256(prepared.png).hexdigest()}
    for suffix, name in ((PNG, "png"), (THUMBNAIL, "thumbnail"), (INK, "ink")):
        MEMO.write(key, suffix, facts.pop(name))
    return facts
