"""Drawings that a browser sends, as files or zips, or that lie in a folder of this machine, as a set in data/raw.

What is sent is unpacked beside the sets, under names that cannot leave the folder, and checked by the stage preprocess
itself; what that rejects does not come in. No file that is there already is changed.
"""

import contextlib
import json
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from filelock import FileLock

from app.own_folder import bring_in, copy_new, files_below, is_set_name, plain_name
from stages.preprocess.files import CAPTIONS, NOT_DRAWINGS, RIGHTS
from tattoo_lora.data.manifest import ManifestRow, read_manifest
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file

MOST_FILES = 5000
MOST_BYTES = 2 * 1024**3  # in all, unpacked
LONGEST_NAME = 80  # characters
DEEPEST = 8  # folders in one another
OLD = 24 * 3600  # seconds after which what a killed server left goes
SETS, UPLOADS = Path(".scratch/sets"), Path(".scratch/uploads")


class Sent(Protocol):
    """A file as Streamlit hands it over: its name and what a binary file can do."""

    name: str
    size: int

    def read(self, size: int = -1) -> bytes: ...


@dataclass(frozen=True)
class Entry:
    """A file that may come in, by its cleaned path; it is read only when its turn comes."""

    path: PurePosixPath
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Brought:
    """A set, how many drawings came in just now, and what did not: name and reason."""

    dataset: str
    drawings: int
    left_out: list[tuple[str, str]] = field(default_factory=list)
    sheet: str = ""  # the contact sheet's path in the project


def clean_path(name: str) -> PurePosixPath:
    """The name as a path below a folder, on any system; ValueError says why it is left out."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts or not parts:
        raise ValueError("its path leads out of the folder")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        raise ValueError("hidden")
    if len(parts) > DEEPEST:
        raise ValueError(f"more than {DEEPEST} folders deep")
    # Control characters, those that turn the reading direction, and what Windows allows in no name.
    shown = ["".join("-" if unicodedata.category(c)[0] == "C" or c in '<>:"|?*' else c for c in part) for part in parts]
    *folders, last = shown
    stem, suffix = PurePosixPath(last).stem, PurePosixPath(last).suffix[:10]
    path = PurePosixPath(*(part[:LONGEST_NAME].rstrip(" .") or "-" for part in folders), stem[:LONGEST_NAME] + suffix)
    if suffix.lower() in NOT_DRAWINGS - {*CAPTIONS} and path.as_posix() != RIGHTS:
        raise ValueError("no picture by its ending")
    return path


def entries_of_zip(file: BinaryIO, left_out: list[tuple[str, str]]) -> list[Entry]:
    """The files of an archive. UserError if it says that they are too many or too large: no more is read of any."""
    archive = zipfile.ZipFile(file)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    check_room(len(infos), sum(info.file_size for info in infos))
    entries = []
    for info in infos:
        name = info.filename
        if not info.flag_bits & 0x800:  # many programs write UTF-8 without saying so
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode("utf-8")
        try:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ValueError("a link")
            if info.flag_bits & 1:
                raise ValueError("needs a password")
            path = clean_path(name)
            if path.suffix.lower() == ".zip":
                raise ValueError("an archive in an archive")
            entries.append(Entry(path, partial(archive.read, info)))
        except ValueError as reason:
            left_out.append((name, str(reason)))
    return entries


def check_room(files: int, size: int) -> None:
    """UserError for more than may come in at once."""
    if files > MOST_FILES:
        raise UserError(f"{files} files, allowed at once are {MOST_FILES}; send them in parts")
    if size > MOST_BYTES:
        raise UserError(f"{size / 1e9:.1f} GB unpacked, allowed at once are {MOST_BYTES / 1e9:.1f}; send them in parts")


def write_group(entries: list[Entry], folder: Path, taken: dict[str, Path]) -> list[tuple[str, str]]:
    """Write a drawing and its text under their name, or under one with a number if other files have it already.

    `taken` are files by their path without its case, which some file systems do not tell apart. What is left out, and
    why.
    """
    contents, left_out = {}, []
    for entry in entries:
        try:
            contents[entry.path] = entry.read()
        except Exception as error:  # besides its own errors, zipfile passes on those of each compression
            why = " ".join(str(error).split())[:80] or type(error).__name__
            left_out.append((str(entry.path), f"unreadable: {why}"))
    number = 1
    while True:
        ending = "" if number == 1 else f"-{number}"
        named = {path.with_name(f"{path.stem}{ending}{path.suffix}"): content for path, content in contents.items()}
        there = {path: taken[str(path).casefold()] for path in named if str(path).casefold() in taken}
        if all(file.read_bytes() == named[path] for path, file in there.items()):
            break
        number += 1
    for path, content in named.items():
        if path in there:
            left_out.append((str(path), "the same file is there already"))
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        taken[str(path).casefold()] = folder / path
    return left_out


def unpack(sent: Iterable[Sent], folder: Path, beside: Path | None = None) -> list[tuple[str, str]]:
    """Write what was sent into the new folder; what is left out, and why. UserError if it is too much.

    Names that files in `beside` have already are taken.
    """
    sent, left_out = list(sent), []
    taken = {str(path).casefold(): beside / path for path in files_below(beside)} if beside else {}
    check_room(len(sent), sum(file.size for file in sent))
    plain, sources = [], []
    for file in sent:
        if Path(file.name).suffix.lower() == ".zip":
            try:
                sources.append(entries_of_zip(file, left_out))
            except (zipfile.BadZipFile, OSError, NotImplementedError):
                left_out.append((file.name, "no zip that can be read"))
            continue
        try:
            plain.append(Entry(clean_path(file.name), file.read))
        except ValueError as reason:
            left_out.append((file.name, str(reason)))
    check_room(len(plain) + sum(map(len, sources)), 0)
    for source in [plain, *sources]:
        groups: list[dict[PurePosixPath, Entry]] = []
        by_stem: dict[PurePosixPath, dict[PurePosixPath, Entry]] = {}
        for entry in source:
            stem = entry.path.with_suffix("")
            if stem not in by_stem or entry.path in by_stem[stem]:  # a second file of the very name stands for itself
                by_stem[stem] = {}
                groups.append(by_stem[stem])
            by_stem[stem][entry.path] = entry
        for group in groups:
            left_out += write_group(list(group.values()), folder, taken)
    return left_out


def sets(root: Path = Path()) -> list[str]:
    """The names of the folders in data/raw that the stages' commands can take, sorted."""
    try:
        folders = [path.name for path in (root / "data/raw").iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []
    return sorted(name for name in folders if is_set_name(name) and not name.startswith("."))


def check_drawings(folder: Path, out: Path, root: Path) -> list[ManifestRow]:
    """The manifest's rows, by the stage preprocess, which also writes `out`/sheet.png; UserError if it cannot look."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.csv").unlink(missing_ok=True)
    command = ["-m", "stages.preprocess", str(folder), "--out", str(out), "--sheet", str(out / "sheet.png")]
    done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True)
    if not (out / "manifest.csv").is_file():  # it is written before too many rejects or too few drawings stop it
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UserError(f"the drawings cannot be checked: {said[0].removeprefix('error: ')}")
    return read_manifest(out / "manifest.csv")


def bring_files(sent: Iterable[Sent], name: str, root: Path = Path(), into: str | None = None) -> Brought:
    """What was sent as a new set of that name, or `into` one that is there. UserError if no drawing is in it."""
    root = root.resolve()
    uploads = root / UPLOADS
    uploads.mkdir(parents=True, exist_ok=True)
    for path in uploads.iterdir():
        if time.time() - path.stat().st_mtime > OLD:
            shutil.rmtree(path, ignore_errors=True)
    if into is not None and into not in sets(root):
        raise UserError(f"data/raw/{into}: no such set")
    with tempfile.TemporaryDirectory(dir=uploads) as place:
        folder, checked = Path(place, plain_name(into or name)), Path(place, "checked")
        folder.mkdir()
        left_out = unpack(sent, folder, root / "data/raw" / into if into else None)
        if not any(files_below(folder)):
            raise UserError(f"nothing came in: {reasons(left_out)}")
        rows = check_drawings(folder, checked, root)
        for row in rows:
            if row.status == "rejected":
                (folder / row.source).unlink()
                for ending in CAPTIONS:
                    (folder / row.source).with_suffix(ending).unlink(missing_ok=True)
        left_out += [(row.source, row.reason) for row in rows if row.status in ("rejected", "ignored") and row.reason]
        drawings = sum(row.status in ("kept", "duplicate") for row in rows)
        if not drawings and not into:
            raise UserError(f"no drawing is among them: {reasons(left_out)}")
        left_out += [(row.source, row.reason) for row in rows if row.status == "duplicate"]
        with FileLock(uploads.parent / "sets.lock"):
            if into:
                copy_new(folder, root / "data/raw" / into)
            dataset = into or bring_in(folder, root)
        return remember(Brought(dataset, drawings, left_out), checked / "sheet.png", root)


def bring_folder(path: str, root: Path = Path()) -> Brought:
    """A folder of this machine as a set, as `main.py --images` brings it in, and checked."""
    root, images = root.resolve(), Path(path.strip()).expanduser()
    if not path.strip() or not images.is_absolute():
        raise UserError(f"{path.strip() or 'no folder'}: write the folder's whole path, from / on")
    count = size = 0
    for file in files_below(images):
        count, size = count + 1, size + (images / file).stat().st_size
        check_room(count, size)
    with FileLock(root / ".scratch/sets.lock"):
        dataset = bring_in(images, root)
    checked = root / SETS / dataset
    rows = check_drawings(root / "data/raw" / dataset, checked, root)
    left_out = [(row.source, row.reason) for row in rows if row.status not in ("kept", "caption") and row.reason]
    drawings = sum(row.status in ("kept", "duplicate") for row in rows)
    return remember(Brought(dataset, drawings, left_out), checked / "sheet.png", root)


def reasons(left_out: list[tuple[str, str]]) -> str:
    """The first of what was left out, and how many more."""
    if not left_out:
        return "it is empty"
    return f"{left_out[0][0]}: {left_out[0][1]}" + (f", and {len(left_out) - 1} more" if left_out[1:] else "")


def remember(brought: Brought, sheet: Path, root: Path) -> Brought:
    """Keep what came of the last files of a set, with their contact sheet, for whoever opens its page."""
    folder = root / SETS / brought.dataset
    folder.mkdir(parents=True, exist_ok=True)
    if sheet != folder / "sheet.png":
        with replace_file(folder / "sheet.png") as new:
            shutil.copyfile(sheet, new)
    kept = replace(brought, sheet=(SETS / brought.dataset / "sheet.png").as_posix())
    with replace_file(folder / "brought.json") as new:
        new.write_text(json.dumps(asdict(kept)), encoding="utf-8", newline="\n")
    return kept


def last_brought(dataset: str, root: Path = Path()) -> Brought | None:
    """What `remember` kept for the set."""
    try:
        values = json.loads((root / SETS / dataset / "brought.json").read_text(encoding="utf-8"))
        return Brought(**values | {"left_out": [tuple(pair) for pair in values["left_out"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None
