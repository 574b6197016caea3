"""Turn a folder of drawings into square RGB PNGs of one size, and decide which of them are held out.

Reads data/raw/<dataset>/ (never written to). Writes

    images/<stem>.png            the drawings that are kept
    drawings.csv                 a row for each of them, which the later stages read
    captions_vanilla/<stem>.txt  the one style string that the vanilla variant trains on
    captions_user.csv            your own captions: <name>.txt or .caption beside <name>.png wins over BLIP
    manifest.csv                 a row for every file found: what was done, or why it was left out

and a contact sheet of it all. One of several drawings that show the same picture is kept. A rights.csv in the folder
(columns file, license, author, url) goes into the manifest. Only files that are new since the last run
are decoded.

    python -m stages.preprocess data/raw/flash --out data/processed/flash --sheet plots/drawings.png
"""

import argparse
import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from stages.preprocess.files import NO_DRAWING, RIGHTS, look_at
from stages.preprocess.prepare import MEMO, PNG, Candidate, Outcome, Task, prepare_once
from tattoo_lora.data.captions import split_captions, write_caption, write_user_captions
from tattoo_lora.data.drawings import Drawing, write_drawings
from tattoo_lora.data.manifest import ManifestRow, write_manifest
from tattoo_lora.data.split import split_contents
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import PreprocessParams, load_params, load_profile
from tattoo_lora.progress import tqdm
from tattoo_lora.times import recorded_time

if TYPE_CHECKING:  # scipy takes a second
    from stages.preprocess.duplicates import Place

SHOWN = 10  # rejects that the screen names; the manifest has all
READING: ctypes.Array  # set in workers only


def begin_work(reading: ctypes.Array) -> None:
    """Ignore Ctrl-C, which the first process handles, and end when that process ends, even if it was killed.

    `reading` is shared with the first process: of each task, whether it is worked on.
    """
    global READING
    READING = reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def prepare_as_worker(number: int, task: Task) -> Outcome:
    """Prepare a task in a worker, noting in `reading` that it is under way."""
    READING[number] = True
    result = prepare_once(task)
    READING[number] = False
    return result


def prepare_all(tasks: list[Task], processes: int) -> list[Outcome]:
    """Run `prepare_once` for each task, in their order, on several cores; UserError if a process was killed."""
    progress = tqdm(total=len(tasks), unit="drawing", desc="preprocess")
    results = []
    if processes == 1:
        for task in tasks:
            results.append(prepare_once(task))
            progress.update()
    else:
        reading = multiprocessing.RawArray(ctypes.c_bool, len(tasks))
        # Small chunks for few scans, so that no process works alone on the last of them.
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


def preprocess(
    raw: Path, out: Path, sheet: Path, params: PreprocessParams, resolution: int, processes: int
) -> tuple[list[ManifestRow], dict[str, Outcome]]:
    """Write everything below `out`, and the sheet; the manifest's rows, and what is known of each file by its source.

    UserError where too many files are rejected, or fewer than three drawings are left that differ; the manifest and the
    sheet say why by then.
    """
    from stages.preprocess.duplicates import find_places

    files = look_at(raw)
    to_prepare = [file for file in files if not file.status]
    if not to_prepare:
        raise UserError(f"{raw}: no drawings; put image files (PNG, JPEG, WebP, TIFF…) there")
    outcomes = prepare_all([Task(file.path, params, resolution) for file in to_prepare], processes)
    candidates = [Candidate(file, outcome) for file, outcome in zip(to_prepare, outcomes, strict=True)]
    drawings = [candidate for candidate in candidates if not why_rejected(candidate, params)]
    places = find_places(drawings, params)
    splits = split_contents([place.decides for place in places], params.val_share, params.test_share)

    by_path = {candidate.file.path: rejected_row(candidate, params) for candidate in candidates}
    for drawing, place in zip(drawings, places, strict=True):
        by_path[drawing.file.path] = drawing_row(drawing, place, splits[place.decides])
    rows = [by_path.get(file.path) or ManifestRow(file.source, file.status, file.reason, file.note) for file in files]
    by_source = {candidate.file.source: candidate.outcome for candidate in candidates}

    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / "manifest.csv", rows)
    draw_sheet(sheet, raw, rows, by_source)  # before the check: if that fails, the sheet shows why
    check(raw, rows, params)
    kept = [(drawing, row) for drawing in drawings if (row := by_path[drawing.file.path]).status == "kept"]
    for folder in ("images", "captions_vanilla"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    for drawing, row in kept:
        shutil.copyfile(MEMO.path(drawing.outcome.key, PNG), out / "images" / row.file)
        write_caption(out / "captions_vanilla", drawing.file.stem, params.vanilla_caption)
    write_drawings(out / "drawings.csv", [Drawing(row.file, row.sha256, row.split) for _, row in kept])
    captions = {row.file: split_captions(drawing.file.caption) for drawing, row in kept if drawing.file.caption}
    write_user_captions(out / "captions_user.csv", captions)
    return rows, by_source


def why_rejected(candidate: Candidate, params: PreprocessParams) -> str:
    """Why a drawing is rejected; empty if it can be learned from."""
    if params.require_license and not candidate.file.rights.license:
        return candidate.outcome.rejected or f"no license in {RIGHTS}"
    return candidate.outcome.rejected


def rejected_row(candidate: Candidate, params: PreprocessParams) -> ManifestRow:
    """The row of a file that cannot be learned from."""
    file, reason = candidate.file, why_rejected(candidate, params)
    return ManifestRow(file.source, "rejected", reason, sha256=candidate.outcome.sha256, **asdict(file.rights))


def drawing_row(drawing: Candidate, place: "Place", split: str) -> ManifestRow:
    """The row of a drawing that is kept, or left out as a duplicate."""
    file, outcome = drawing.file, drawing.outcome
    return ManifestRow(
        file.source,
        status="duplicate" if place.reason else "kept",
        reason=place.reason,
        note="; ".join(outcome.notes),
        file="" if place.reason else f"{file.stem}.png",
        sha256=outcome.sha256,
        width=outcome.width,
        height=outcome.height,
        split=split,
        group=place.group,
        **asdict(file.rights),
    )


def check(raw: Path, rows: list[ManifestRow], params: PreprocessParams) -> None:
    """UserError if what is left cannot be trained on, or if more was rejected than the user may expect."""
    from stages.preprocess.raw_images import PHOTO

    rejected = [row for row in rows if row.status == "rejected"]
    kept = [row for row in rows if row.status == "kept"]
    texts = [row.source for row in rows if row.reason == NO_DRAWING]
    if texts:
        print(f"captions whose names match no drawing: {len(texts)}, the first: {texts[0]}", file=sys.stderr)
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
    if len(kept) < 3:
        raise UserError(f"{raw}: {len(kept)} usable drawing(s) of {looked_at}; three are needed, two of them held out")
    different = len({row.group or row.sha256 for row in kept})
    if different < 3:
        raise UserError(
            f"{raw}: {len(kept)} drawings show {different} different picture(s); three are needed, two to be held out"
        )


def draw_sheet(path: Path, raw: Path, rows: list[ManifestRow], outcomes: dict[str, Outcome]) -> None:
    """Write the contact sheet: before and after, duplicates, what was left out."""
    from stages.preprocess.contact_sheet import contact_sheet

    def picture(row: ManifestRow, suffix: str) -> Image.Image | None:
        return outcomes[row.source].picture(suffix) if row.source in outcomes else None

    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as partial:
        contact_sheet(f"{raw.name}: {summary(rows)}", rows, picture).save(partial, "PNG")


def summary(rows: list[ManifestRow]) -> str:
    """How many drawings there are, and what became of the others."""
    count = {status: sum(row.status == status for row in rows) for status in ("kept", "duplicate", "rejected")}
    val, test = (sum(row.status == "kept" and row.split == split for row in rows) for split in ("val", "test"))
    return (
        f"{count['kept']} drawings, {val + test} of them held out ({val} val, {test} test); "
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
        profile = load_profile(all_params.profile)
        params = all_params.preprocess
        if not args.raw.is_dir():
            raise UserError(f"{args.raw}: no such folder; `dataset` in params.yaml names a folder under data/raw")
        rows, outcomes = preprocess(args.raw, args.out, args.sheet, params, profile.resolution, args.processes)
        decoded = sum(outcome.is_new for outcome in outcomes.values())
        print(f"{summary(rows)}. {decoded} files decoded, {len(outcomes) - decoded} known from before")


if __name__ == "__main__":
    main()
