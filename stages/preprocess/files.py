"""What lies in the raw folder: files that may be drawings, the user's captions beside them, and whose they are."""

import csv
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from tattoo_lora.data.captions import split_captions
from tattoo_lora.data.file_names import RESERVED
from tattoo_lora.errors import UserError

# What lies beside drawings: licences, lists, what file managers and DVC leave behind.
CAPTIONS = (".txt", ".caption")  # beside a drawing; where both are there, the first counts
NOT_DRAWINGS = {*CAPTIONS, ".md", ".csv", ".json", ".yaml", ".yml", ".dvc", ".db", ".ini"}
RIGHTS = "rights.csv"
LONGEST_CAPTION = 2000  # bytes; the text encoder reads 77 tokens
NO_DRAWING = "a text, and no drawing of its name"
PLAIN_NAME = re.compile(r"(?!.*-[0-9a-f]{8}\.png$)[a-z0-9_-]{1,60}\.png")


@dataclass(frozen=True)
class Rights:
    """Whose a drawing is, and under which licence."""

    license: str = ""
    author: str = ""
    url: str = ""


@dataclass(frozen=True)
class RawFile:
    """One file. `status`, `reason` and `note` are the manifest's; a file that may be a drawing has no status yet."""

    path: Path
    source: str  # the path below the folder
    stem: str = ""  # the name of what becomes of a drawing
    status: str = ""
    reason: str = ""
    note: str = ""
    caption: str = ""  # the user's own, from the text beside a drawing; several stand on a line each
    rights: Rights = Rights()


def find_files(raw: Path) -> Iterator[tuple[Path, str]]:
    """Every file under `raw`, sorted, and why it cannot be a drawing: empty for one that may be.

    Links are followed within the folder and into a DVC cache only, and links to folders not at all.
    """
    home = raw.resolve()
    for folder, folders, names in os.walk(raw):
        folders.sort()
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for path in (Path(folder) / name for name in sorted([*names, *links])):
            if path.name.startswith("."):
                yield path, "hidden"
            elif path.is_symlink() and not _stays_inside(path.resolve(), home):
                yield path, "a link out of the folder"
            elif not path.is_file():
                yield path, "a link to a folder" if path.is_dir() else "no regular file"
            else:
                yield path, ""


def _stays_inside(target: Path, home: Path) -> bool:
    in_dvc_cache = target.parts[-4:-2] == ("files", "md5")  # DVC may link the drawings to its cache
    return target.is_relative_to(home) or in_dvc_cache


def output_stem(source: str) -> str:
    """A stable, readable name, which depends on no other file: 'owl' for 'owl.png', 'owl-1b9f2c3d' for 'a/Owl.jpg'.

    Names that are plain already stay; all others end in a hash of their path, so that no two meet, not on a file
    system either that ignores case or Unicode's forms.
    """
    if PLAIN_NAME.fullmatch(source) and not RESERVED.fullmatch(source.removesuffix(".png")):
        return source.removesuffix(".png")
    words = unicodedata.normalize("NFC", Path(source).stem.casefold())
    readable = re.sub(r"[^\w-]+", "-", words).strip("-_")[:40] or "drawing"
    return f"{readable}-{hashlib.sha256(source.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def read_rights(raw: Path) -> dict[str, Rights]:
    """The rights by source, from rights.csv if there is one; `*` stands for all other files."""
    path = raw / RIGHTS
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no CSV in UTF-8 ({error})") from None
    if rows and not {"file", "license"} <= rows[0].keys():
        raise UserError(f"{path}: columns found: {', '.join(map(str, rows[0]))}; needed: file, license")
    columns = [field.name for field in fields(Rights)]
    return {row["file"]: Rights(*((row.get(column) or "").strip() for column in columns)) for row in rows}


def read_user_caption(path: Path) -> str:
    """The captions in the text beside a drawing, on a line each; ValueError says why there is none."""
    with path.open("rb") as file:
        content = file.read(LONGEST_CAPTION + 1)
    if len(content) > LONGEST_CAPTION:
        raise ValueError(f"longer than {LONGEST_CAPTION} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if any(unicodedata.category(c) == "Cc" and not c.isspace() for c in text):
        raise ValueError("not a text")
    if not text.strip():
        raise ValueError("empty")
    return "\n".join(split_captions(text))


def look_at(raw: Path) -> list[RawFile]:
    """Every file of the folder, in order, with the user's caption and the rights of those that may be drawings."""
    reasons = dict(find_files(raw))
    candidates = {path for path, why_not in reasons.items() if not why_not and path.suffix.lower() not in NOT_DRAWINGS}
    stems = {path.with_suffix("") for path in candidates}
    texts = [path for path, why_not in reasons.items() if not why_not and path.suffix.lower() in CAPTIONS]
    texts.sort(key=lambda path: CAPTIONS.index(path.suffix.lower()))
    captions, refused, unread = {}, {}, {}
    for path in texts:
        if (stem := path.with_suffix("")) in captions:
            unread[path] = f"the {CAPTIONS[0]} beside it counts"
        elif stem in stems:
            try:
                captions[stem] = read_user_caption(path)
            except ValueError as error:
                refused[path] = f"caption refused: {error}"

    def what_it_is(path: Path) -> tuple[str, str]:
        """Status and reason of a file that cannot be a drawing."""
        if why_not := reasons[path] or refused.get(path):
            return "ignored" if why_not == "hidden" else "rejected", why_not
        if path in unread:
            return "ignored", unread[path]
        if path.suffix.lower() in CAPTIONS:
            return ("caption", "") if path.with_suffix("") in stems else ("ignored", NO_DRAWING)
        return "ignored", "the drawings' rights" if path == raw / RIGHTS else "no picture by its ending"

    # Names that are no Unicode are written with escapes, so that any table can hold them.
    sources = {
        path: os.fsencode(path.relative_to(raw)).decode("utf-8", "backslashreplace").replace(os.sep, "/")
        for path in reasons
    }
    rights = read_rights(raw)
    files = []
    for path, source in sources.items():
        if path in candidates:
            owner = rights.get(source) or rights.get("*", Rights())
            stem, caption = output_stem(path.relative_to(raw).as_posix()), captions.get(path.with_suffix(""), "")
            files.append(RawFile(path, source, stem, caption=caption, rights=owner))
        else:
            note = _rights_of_no_file(rights, sources.values()) if source == RIGHTS else ""
            files.append(RawFile(path, source, "", *what_it_is(path), note))
    return files


def _rights_of_no_file(rights: dict[str, Rights], sources: Iterable[str]) -> str:
    """A note on the rows of rights.csv that name no file; empty if there are none."""
    named = {*sources, "*"}
    nameless = [name for name in rights if name not in named]
    return f"rows that name no file of the folder: {len(nameless)}, the first: {nameless[0]}" if nameless else ""
