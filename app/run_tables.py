"""Tables of what runs have left behind: curves, pictures, drawings.

Apart from app.runs, because importing pandas takes half a second that the first screen has no need of.
"""

from pathlib import PurePosixPath

import pandas as pd

from app.runs import PICTURE_COLUMNS, Run, csv_rows, picture_rows, trained_variants

CURVES = ("val_loss", "clip_score", "train_loss")
KINDS = ("vanilla", "blip", "blip_plus")


def read_table(raw: bytes | None) -> pd.DataFrame:
    """A CSV's complete lines as strings; without rows where it cannot be read."""
    return pd.DataFrame(csv_rows(raw), dtype=str)


def parse_log(raw: bytes | None) -> pd.DataFrame:
    """step, train_loss, val_loss and clip_score of a log; an unfinished last line is left for later."""
    columns = ["step", "train_loss", "val_loss", "clip_score"]
    rows = [row for row in csv_rows(raw) if list(row) == columns]
    log = pd.DataFrame(rows, columns=columns)
    return log.apply(pd.to_numeric, errors="coerce").dropna(subset=["step"]).astype({"step": int})


def read_curves(run: Run) -> pd.DataFrame:
    """A row for each value that is there: run, variant, curve, step, value."""
    tables = []
    for variant in trained_variants(run):
        raw = run.read(f"runs/logs/{variant}.csv")
        if raw is not None:
            long = parse_log(raw).melt("step", CURVES, "curve").dropna()
            tables.append(long.assign(run=run.name, variant=variant))
    columns = ["run", "variant", "curve", "step", "value"]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def smoothed(curves: pd.DataFrame, amount: float) -> pd.DataFrame:
    """Each curve's moving average with that weight (0 to below 1) on what came before, unbiased at its start."""
    if amount == 0 or curves.empty:
        return curves
    groups = curves.sort_values("step").groupby(["run", "variant", "curve"])["value"]
    return curves.assign(value=groups.transform(lambda values: values.ewm(alpha=1 - amount).mean()))


def read_pictures(run: Run) -> pd.DataFrame:
    """The evaluations' pictures as a table, see `picture_rows`."""
    return pd.DataFrame(picture_rows(run), columns=PICTURE_COLUMNS)


def read_drawing_rows(run: Run, dataset: str) -> pd.DataFrame:
    """A row for each file that came in: what the manifest says, and the captions of the three kinds.

    A manifest that lists kept drawings only is one of an earlier version; columns it lacks are empty.
    """
    folder = f"data/processed/{dataset}"
    manifest = read_table(run.read(f"{folder}/manifest.csv"))
    texts = ["source", "status", "reason", "note", "file", "width", "height", "split", "group", "author", "license"]
    for column in texts:
        if column not in manifest.columns:
            manifest[column] = "kept" if column == "status" else ""
    captions = read_table(run.read(f"{folder}/captions.csv"))
    by_file: dict[str, list[dict]] = {}  # a drawing may have several captions
    for row in captions.to_dict("records"):
        by_file.setdefault(row.get("file", ""), []).append(row)
    stems = {PurePosixPath(file).stem for file in manifest["file"]}
    for kind in KINDS:
        in_folder = captions_in(run, f"{folder}/captions_{kind}", stems)
        manifest[kind] = [in_folder.get(PurePosixPath(file).stem, "") for file in manifest["file"]]
    for column in ("origin", "changes"):
        # Of equal texts one is enough: all captions of a drawing have one origin.
        texts = [dict.fromkeys(row.get(column, "") for row in by_file.get(file, [])) for file in manifest["file"]]
        manifest[column] = ["\n".join(filter(None, lines)) for lines in texts]
    return manifest


def captions_in(run: Run, folder: str, stems: set[str]) -> dict[str, str]:
    """The captions in <stem>.txt files by stem."""
    names = {name for name in run.names(folder) if name.endswith(".txt") and name.removesuffix(".txt") in stems}
    contents = {name.removesuffix(".txt"): run.read(f"{folder}/{name}") for name in names}
    return {stem: raw.decode("utf-8", errors="replace").strip() for stem, raw in contents.items() if raw is not None}


def search(drawings: pd.DataFrame, words: str) -> pd.DataFrame:
    """The rows that contain each of the words somewhere, whatever its case."""
    text = drawings.astype(str).agg(" ".join, axis=1).str.casefold() if len(drawings) else pd.Series(dtype=str)
    for word in words.casefold().split():
        text = text[text.str.contains(word, regex=False)]
    return drawings.loc[text.index]
