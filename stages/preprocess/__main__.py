"""Turn a folder of drawings into square RGB PNGs of one size, and decide which of them are held out.

Reads data/raw/<dataset>/ (never written to). Writes

    images/<stem>.png            the drawings that are kept
    drawings.csv                 a row for each of them, which the later stages read
    captions_vanilla/<stem>.txt  the one style string that the vanilla variant trains on
    captions_user.csv            your own captions: <name>.txt beside <name>.png wins over BLIP
    manifest.csv                 a row for every file found: what was done, or why it was left out

and a contact sheet of it all. Of drawings that show the same picture one is kept. A rights.csv in the folder
(columns file, license, author, url) goes into the manifest. Decoded is only what is new since the last run.

    python -m stages.preprocess data/raw/flash --out data/processed/flash --sheet plots/drawings.png
"""

import argparse
import csv
import ctypes
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from tattoo_lora.data.captions import write_caption, write_user_captions
from tattoo_lora.data.drawings import Drawing, write_drawings
from tattoo_lora.data.manifest import Found, write_manifest
from tattoo_lora.data.split import file_sha256, held_out
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.keys import result_key
from tattoo_lora.memo import Memo
from tattoo_lora.params import PreprocessParams, load_params, load_profile
from tattoo_lora.progress import tqdm
from tattoo_lora.times import recorded_time

# What lies beside drawings: licences, lists, what file managers and DVC leave behind.
NOT_DRAWINGS = {".txt", ".md", ".csv", ".json", ".yaml", ".yml", ".dvc", ".db", ".ini"}
RIGHTS = "rights.csv"
LONGEST_CAPTION = 2000  # bytes; the text encoder reads 77 tokens
SHOWN = 10  # rejects named on the screen; all are in the manifest
NO_DRAWING = "a text, and no drawing of its name"
MAKES_PICTURES = str(Path(__file__).with_name("raw_images.py"))  # imported late: it takes a second
READING: ctypes.Array  # in a worker alone
PLAIN_NAME = re.compile(r"(?!.*-[0-9a-f]{8}\.png$)[a-z0-9_-]{1,60}\.png")


def find_files(raw: Path) -> Iterator[tuple[Path, str]]:
    """Every file under `raw`, sorted, and why it is none to look at: empty for one that may be a drawing.

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
    if PLAIN_NAME.fullmatch(source):
        return source.removesuffix(".png")
    words = unicodedata.normalize("NFC", Path(source).stem.casefold())
    readable = re.sub(r"[^\w-]+", "-", words).strip("-_")[:40] or "drawing"
    return f"{readable}-{hashlib.sha256(source.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def read_rights(raw: Path) -> dict[str, dict[str, str]]:
    """license, author and url by source, from rights.csv where there is one; `*` stands for all the others."""
    path = raw / RIGHTS
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no CSV in UTF-8 ({error})") from None
    if rows and not {"file", "license"} <= rows[0].keys():
        raise UserError(f"{path}: columns found: {', '.join(map(str, rows[0]))}; needed: file, license")
    return {row["file"]: {key: (row.get(key) or "").strip() for key in ("license", "author", "url")} for row in rows}


def read_user_caption(path: Path) -> str:
    """The text beside a drawing on one line; ValueError says why it is none."""
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
    return " ".join(text.split())


@dataclass(frozen=True)
class Task:
    """One file for a worker, and what its result depends on besides."""

    path: Path
    params: PreprocessParams
    resolution: int


def prepare_once(task: Task) -> dict:
    """What `raw_images.prepare` says of the file, from the memo where its content was seen before.

    Keys: sha256, key (of the memo's files), new, and either rejected or Prepared's fields but the pictures.
    """
    memo = Memo("preprocess")
    try:
        sha256 = file_sha256(task.path)
    except OSError as error:
        return {"sha256": "", "key": "", "new": True, "rejected": f"unreadable: {error.strerror}"}
    care = task.params
    key = result_key(
        MAKES_PICTURES, sha256, task.resolution, care.fit, care.invert, care.flatten, care.threshold, care.trim,
        care.margin, care.min_size, care.max_upscale,
    )  # fmt: skip
    facts = json.loads(memo.read(key, ".json") or "{}")
    if "rejected" in facts or (facts and all(memo.path(key, suffix).is_file() for suffix in (".png", ".ink.png"))):
        return {"sha256": sha256, "key": key, "new": False, **facts}
    from stages.preprocess.raw_images import Rejected, prepare

    try:
        prepared = prepare(task.path, care, task.resolution)
    except Rejected as rejected:
        facts = {"rejected": str(rejected)}
    else:
        facts = asdict(prepared) | {"png_sha256": hashlib.sha256(prepared.png).hexdigest()}
        memo.write(key, ".png", facts.pop("png"))
        memo.write(key, ".thumbnail.png", facts.pop("thumbnail"))
        memo.write(key, ".ink.png", facts.pop("ink"))
    memo.write(key, ".json", json.dumps(facts).encode())
    return {"sha256": sha256, "key": key, "new": True, **facts}


def begin_work(reading: ctypes.Array) -> None:
    """Leave Ctrl-C to the first process, and end with it: a killed process cannot report that it died.

    `reading` is shared with the first process: of each task, whether it is worked on.
    """
    global READING
    READING = reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def prepare_as_worker(number: int, task: Task) -> dict:
    READING[number] = True
    result = prepare_once(task)
    READING[number] = False
    return result


def prepare_all(tasks: list[Task], processes: int) -> list[dict]:
    """`prepare_once` of each task, in their order, on several cores; UserError where a process was killed."""
    progress = tqdm(total=len(tasks), unit="drawing", desc="preprocess")
    results = []
    if processes == 1:
        for task in tasks:
            results.append(prepare_once(task))
            progress.update()
    else:
        reading = multiprocessing.RawArray(ctypes.c_bool, len(tasks))
        # Few at a time for a few scans, so that no process is left with the last of them alone.
        chunksize = min(1 + len(tasks) // (20 * processes), 8)
        with ProcessPoolExecutor(processes, initializer=begin_work, initargs=(reading,)) as pool:
            try:
                for result in pool.map(prepare_as_worker, range(len(tasks)), tasks, chunksize=chunksize):
                    results.append(result)
                    progress.update()
            except BrokenProcessPool as error:
                files = ", ".join(str(task.path) for task, is_read in zip(tasks, reading, strict=True) if is_read)
                raise UserError(
                    f"a process was killed, most likely because memory ran out, while these were being read: {files}; "
                    "make the largest smaller or close other programs, and repeat the command: it goes on"
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    progress.close()
    return results


def look_at(raw: Path) -> tuple[list[Found], list[Path], dict[Path, str]]:
    """A row for every file, the files that may be drawings, and the user's captions by path without the ending."""
    rows, candidates, texts = [], [], []
    for path, why_not in find_files(raw):
        # Names that are no Unicode are written with escapes, so that any table can hold them.
        row = Found(os.fsencode(path.relative_to(raw)).decode("utf-8", "backslashreplace").replace(os.sep, "/"))
        if why_not:
            row.status, row.reason = "ignored" if why_not == "hidden" else "rejected", why_not
        elif path.suffix.lower() in NOT_DRAWINGS:
            row.status = "ignored"
            row.reason = "the drawings' rights" if path == raw / RIGHTS else "no picture by its ending"
            if path.suffix.lower() == ".txt":
                row.reason = NO_DRAWING
                texts.append((path, row))
        else:
            candidates.append(path)
        rows.append(row)
    beside = {path.with_suffix("") for path, _ in texts}
    with_drawing = {stem for stem in (path.with_suffix("") for path in candidates) if stem in beside}
    captions = {}
    for path, row in texts:
        if path.with_suffix("") in with_drawing:
            try:
                captions[path.with_suffix("")] = read_user_caption(path)
                row.status, row.reason = "caption", ""
            except ValueError as error:
                row.status, row.reason = "rejected", f"caption refused: {error}"
    return rows, candidates, captions


def has_a_name_within(sources: list[str]) -> set[str]:
    """Those whose name is another one's with something added, as in any language a copy's is: 'owl copy', 'owl (1)'."""
    stems = {source: PurePosixPath(source).stem.casefold() for source in sources}
    names = set(stems.values())
    return {source for source, stem in stems.items() if any(name in stem and name != stem for name in names)}


def leave_out_duplicates(
    rows: list[Found], facts: list[dict], captioned: list[bool], params: PreprocessParams
) -> list[str]:
    """Name the groups in the rows of drawings, and keep one of each: one with a caption of its own, then the largest.

    Of equally large ones it is the first by name, but for names that look like a copy's of another one's. Of a
    group that holds together through others alone, those are kept too that are no copies of a kept one. With
    duplicates `keep` all are. Returns for each drawing the hash that decides whether it is held out: its own, or that
    of the first of its group.
    """
    from PIL import Image

    from stages.preprocess.duplicates import Ink, distances, group, near_pairs, same_pairs, to_words

    hashes, mirrored = [f["hash"] for f in facts], [f["mirrored_hash"] for f in facts]
    same_bytes, same_pictures = [f["sha256"] for f in facts], [f["png_sha256"] for f in facts]
    memo = Memo("preprocess")

    @cache
    def ink(i: int) -> Ink:
        return Ink(np.asarray(Image.open(io.BytesIO(memo.read(facts[i]["key"], ".ink.png")))))

    alike = {
        pair
        for pair in near_pairs(hashes, mirrored, params.duplicate_distance)
        if same_pictures[pair[0]] == same_pictures[pair[1]] or ink(pair[0]).lies_on(ink(pair[1]))
    }

    def copy_of(i: int, kept: int) -> str:
        """How drawing i shows what the kept one does; empty where it does not."""
        if same_bytes[i] == same_bytes[kept]:
            return f"same file as {rows[kept].source}"
        if same_pictures[i] == same_pictures[kept]:
            return f"same picture as {rows[kept].source}"
        if (min(i, kept), max(i, kept)) in alike:
            bits = distances(to_words([hashes[i]]), to_words([hashes[kept]]), to_words([mirrored[kept]]))[0, 0]
            return f"looks like ({bits} of {4 * len(hashes[i])} bits differ) {rows[kept].source}"
        return ""

    decides = [row.sha256 for row in rows]
    for positions in group(len(rows), [*same_pairs(same_bytes), *same_pairs(same_pictures), *sorted(alike)]):
        longer = has_a_name_within([rows[i].source for i in positions])
        positions.sort(
            key=lambda i: (not captioned[i], -rows[i].width * rows[i].height, rows[i].source in longer, rows[i].source)
        )
        kept, first = [], rows[positions[0]].sha256
        for i in positions:
            rows[i].group, decides[i] = first[:8], first
            reason = next(filter(None, (copy_of(i, other) for other in kept)), "")
            if reason and params.duplicates == "drop":
                rows[i].status, rows[i].reason, rows[i].file = "duplicate", reason, ""
            else:
                kept.append(i)
    return decides


def preprocess(
    raw: Path, out: Path, sheet: Path, params: PreprocessParams, resolution: int, processes: int
) -> tuple[list[Found], dict[str, dict]]:
    """Write everything below `out`, and the sheet; the manifest's rows, and what is known of each file by its source.

    UserError where too many files are rejected, or fewer than two drawings are left that differ; the manifest and the
    sheet say why by then.
    """
    rows, candidates, captions = look_at(raw)
    if not candidates:
        raise UserError(f"{raw}: no drawings; put image files (PNG, JPEG, WebP, TIFF…) there")
    rights = read_rights(raw)
    without_file = [name for name in rights if name not in {row.source for row in rows} | {"*"}]
    for row in rows:
        if row.source == RIGHTS and without_file:
            row.note = f"rows that name no file of the folder: {len(without_file)}, the first: {without_file[0]}"
    facts = prepare_all([Task(path, params, resolution) for path in candidates], processes)

    drawings, known, captioned = [], [], []
    of_files = [row for row in rows if not row.status]
    for path, row, fact in zip(candidates, of_files, facts, strict=True):
        of_file = rights.get(row.source) or rights.get("*") or {}
        row.license, row.author, row.url = (of_file.get(key, "") for key in ("license", "author", "url"))
        row.sha256 = fact["sha256"]
        if "rejected" in fact:
            row.status, row.reason = "rejected", fact["rejected"]
        elif params.require_license and not row.license:
            row.status, row.reason = "rejected", f"no license in {RIGHTS}"
        else:
            row.status, row.file = "kept", f"{output_stem(path.relative_to(raw).as_posix())}.png"
            row.width, row.height, row.note = fact["width"], fact["height"], "; ".join(fact["notes"])
            drawings.append(row)
            known.append(fact)
            captioned.append(path.with_suffix("") in captions)
    decides = leave_out_duplicates(drawings, known, captioned, params)
    val = held_out(decides, params.val_share)
    for row, sha256 in zip(drawings, decides, strict=True):
        row.split = "val" if sha256 in val else "train"

    kept = [(row, fact) for row, fact in zip(drawings, known, strict=True) if row.status == "kept"]
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / "manifest.csv", rows)
    by_source = {row.source: fact for row, fact in zip(of_files, facts, strict=True)}
    draw_sheet(sheet, raw, rows, by_source)  # before the check: where it fails, the sheet shows why
    check(raw, rows, params)
    for folder in ("images", "captions_vanilla"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    memo = Memo("preprocess")
    for row, fact in kept:
        shutil.copyfile(memo.path(fact["key"], ".png"), out / "images" / row.file)
        write_caption(out / "captions_vanilla", Path(row.file).stem, params.vanilla_caption)
    write_drawings(out / "drawings.csv", [Drawing(row.file, row.sha256, row.split) for row, _ in kept])
    of_stems = ((path.with_suffix(""), row) for path, row in zip(candidates, of_files, strict=True))
    own = {row.file: captions[stem] for stem, row in of_stems if stem in captions and row.status == "kept"}
    write_user_captions(out / "captions_user.csv", own)
    return rows, by_source


def check(raw: Path, rows: list[Found], params: PreprocessParams) -> None:
    """UserError where what is left of the folder cannot be trained on, or is less of it than the user may think."""
    from stages.preprocess.raw_images import PHOTO

    rejected = [row for row in rows if row.status == "rejected"]
    kept = [row for row in rows if row.status == "kept"]
    texts = [row.source for row in rows if row.reason == NO_DRAWING]
    if texts:
        print(f"captions of no drawing, by their names: {len(texts)}, the first: {texts[0]}", file=sys.stderr)
    photos = sum(PHOTO in row.note for row in rows)
    if photos:
        print(f"{photos} {'file looks like a photo' if photos == 1 else 'files look like photos'}", file=sys.stderr)
    for row in rows:
        if row.source == RIGHTS and row.note:
            print(f"{RIGHTS}: {row.note}", file=sys.stderr)
    for row in rejected[:SHOWN]:
        print(f"left out: {row.source}: {row.reason}", file=sys.stderr)
    if len(rejected) > SHOWN:
        print(f"and {len(rejected) - SHOWN} more, see manifest.csv", file=sys.stderr)
    looked_at = sum(row.status in ("kept", "duplicate", "rejected") for row in rows)
    if len(rejected) > params.max_rejected * looked_at:
        raise UserError(
            f"{raw}: {len(rejected)} of {looked_at} files rejected, more than preprocess.max_rejected "
            f"({params.max_rejected:g}); the first: {rejected[0].source}: {rejected[0].reason}"
        )
    if len(kept) < 2:
        raise UserError(f"{raw}: {len(kept)} usable drawing(s) of {looked_at}; two are needed, one of them held out")
    if all(row.split == kept[0].split for row in kept):
        raise UserError(
            f"{raw}: all {len(kept)} drawings show the same picture; two different ones are needed, one to be held out"
        )


def draw_sheet(path: Path, raw: Path, rows: list[Found], facts: dict[str, dict]) -> None:
    """Write the contact sheet: before and after, duplicates, what was left out."""
    from PIL import Image

    from stages.preprocess.contact_sheet import contact_sheet

    memo = Memo("preprocess")

    def picture(row: Found, suffix: str) -> Image.Image | None:
        content = memo.read(facts[row.source]["key"], suffix) if row.source in facts else None
        return None if content is None else Image.open(io.BytesIO(content))

    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as partial:
        contact_sheet(f"{raw.name}: {summary(rows)}", rows, picture).save(partial, "PNG")


def summary(rows: list[Found]) -> str:
    """How many drawings there are, and what became of the others."""
    count = {status: sum(row.status == status for row in rows) for status in ("kept", "duplicate", "rejected")}
    held_out = sum(row.status == "kept" and row.split == "val" for row in rows)
    return (
        f"{count['kept']} drawings, {held_out} of them held out; "
        f"{count['duplicate']} duplicates and {count['rejected']} rejected files left out"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder of drawings")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made of them")
    parser.add_argument("--sheet", type=Path, required=True, help="the contact sheet, a PNG")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        all_params = load_params()
        params, profile = all_params.preprocess, load_profile(all_params.profile)
        if not args.raw.is_dir():
            raise UserError(f"{args.raw}: no such folder; `dataset` in params.yaml names a folder under data/raw")
        rows, facts = preprocess(args.raw, args.out, args.sheet, params, profile.resolution, args.processes)
        decoded = sum(fact["new"] for fact in facts.values())
        print(f"{summary(rows)}. {decoded} files decoded, {len(facts) - decoded} known from before")


if __name__ == "__main__":
    main()
