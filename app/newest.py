"""The newest pictures of the workspace: what the first screen shows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

from app.runs import Run, list_samples, picture_rows, training_prompt, with_base

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}

LONGEST_NAME = 36  # letters


@dataclass(frozen=True)
class Newest:
    """Pictures by prompt and, below it, by who drew them: the base, then the variants."""

    when: str
    pictures: dict[str, dict[str, str]]


def newest_pictures(run: Run) -> Newest | None:
    """The evaluation's pictures or, where a training has drawn since, the last ones of each variant; None: no pictures.

    Pictures are told apart by their files' times, since a new training leaves the evaluation before it in its place.
    """
    evaluated, trained = evaluated_pictures(run), pictures_on_the_way(run)
    if evaluated and trained:
        return trained if last_change(run, trained) > last_change(run, evaluated) else evaluated
    return evaluated or trained


def evaluated_pictures(run: Run) -> Newest | None:
    """Each prompt's picture of the first seed."""
    pictures: dict[str, dict[str, str]] = {}
    for row in picture_rows(run):
        if row["path"]:
            pictures.setdefault(row["prompt"], {}).setdefault(row["name"], row["path"])
    return Newest("drawn to be compared", pictures) if pictures else None


def pictures_on_the_way(run: Run) -> Newest | None:
    """Each prompt's picture of every variant's last step, and of the base."""
    samples = list_samples(run)
    columns = with_base({name: by_step[max(by_step)] for name, by_step in samples.items()}, samples)
    pictures = {}
    for row in range(max(map(len, columns.values()))):
        pictures[training_prompt(run, row)] = {name: paths[row] for name, paths in columns.items() if row < len(paths)}
    steps = sorted({max(by_step) for by_step in samples.values()})
    return Newest(f"drawn in training, at step {' and '.join(map(str, steps))}", pictures) if pictures else None


def last_change(run: Run, newest: Newest) -> float:
    times = []
    for by_name in newest.pictures.values():
        for path in by_name.values():
            try:
                times.append((run.folder / path).stat().st_mtime)
            except OSError:  # just deleted
                continue
    return max(times, default=0)


def without_common_end(prompts: list[str]) -> dict[str, str]:
    """Each prompt by a short name: without the words that all end with, from a comma on: 'a wolf', 'a deer'."""
    end = commonprefix([prompt[::-1] for prompt in prompts])[::-1]
    end = end[end.find(",") :] if "," in end and len(prompts) > 1 else ""
    names: dict[str, str] = {}
    for prompt in prompts:
        name = prompt.removesuffix(end) or prompt
        name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip() + "…"
        names[name if name not in names else f"{name} ({len(names) + 1})"] = prompt
    return names


def raw_drawings(dataset: str, at_most: int) -> list[str]:
    """The first drawings of the folder, by name."""
    try:
        names = sorted(path.name for path in Path(f"data/raw/{dataset}").iterdir())
    except OSError:
        return []
    return [f"data/raw/{dataset}/{name}" for name in names if Path(name).suffix.lower() in PICTURES][:at_most]


def best_first(findings: dict) -> Callable[[str], float]:
    """A sort key for variants: by the first score that decides; those without a value come last."""
    if not findings or not findings.get("decide"):
        return lambda name: 0.0
    score = findings["decide"][0]
    sign = 1 if findings["better"][score] == "lower" else -1
    values = {name: by_score.get(score) for name, by_score in findings["scores"].items()}
    return lambda name: math.inf if values.get(name) is None else sign * values[name]
