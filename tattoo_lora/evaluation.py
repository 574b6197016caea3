"""What stages.evaluate wrote, which differences in it are real, and which variant beats which."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tattoo_lora.bootstrap import Difference, paired_difference
from tattoo_lora.errors import UserError
from tattoo_lora.line_art import LineArt


@dataclass(frozen=True)
class Score:
    """How a score is shown, which way it is better, and over what two evaluations are paired in it."""

    digits: int
    better: Callable[..., float]  # min or max
    table: str  # of an Evaluation
    unit: str  # its column that names the items
    decides: bool = True  # who wins


SCORES = {
    "val_loss": Score(4, min, "drawings", "file"),
    "val_loss_common": Score(4, min, "drawings", "file", decides=False),  # the control
    "clip_score": Score(2, max, "pictures", "prompt"),
}
DECIDE = tuple(name for name, score in SCORES.items() if score.decides)
OPPOSITE = {"better": "worse", "worse": "better", "no difference": "no difference"}


@dataclass(frozen=True)
class Evaluation:
    """Means, each drawing's losses, the pictures and what was measured on each."""

    metrics: dict[str, float | None]
    drawings: pd.DataFrame
    pictures: pd.DataFrame
    images: list[Image.Image]

    @property
    def line_art(self) -> LineArt:
        values = {field.name: self.metrics[field.name] for field in fields(LineArt)}
        return LineArt(**{name: np.nan if value is None else value for name, value in values.items()})


def read_evaluation(folder: Path) -> Evaluation:
    """UserError where the evaluation did not run."""
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder}: no metrics.json; run `dvc repro evaluate`")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    pictures = pd.read_csv(folder / "pictures.csv")
    images = [Image.open(folder / file).convert("RGB") for file in pictures["file"]]
    return Evaluation(metrics, pd.read_csv(folder / "drawings.csv"), pictures, images)


@dataclass(frozen=True)
class Finding:
    """How one evaluation differs from another in a score, and whether it is better, worse, or no difference."""

    difference: Difference
    verdict: str


def compare(one: Evaluation, other: Evaluation, smallest: float) -> dict[str, Finding]:
    """one - other by score: losses paired by drawing (a mean over its timesteps), scores by prompt (over its seeds).

    Pictures of one prompt are not independent: an adapter that draws a wolf badly does so with every seed. A
    difference under `smallest`, a share of the other's value, does not count.
    """
    found = {}
    for column, score in SCORES.items():
        tables = (getattr(of, score.table) for of in (one, other))
        difference = paired_difference(*(table.groupby(score.unit)[column].mean() for table in tables))
        if not difference.is_real(smallest * abs(other.metrics[column])):
            verdict = "no difference"
        else:
            verdict = "better" if (difference.mean < 0) == (score.better is min) else "worse"
        found[column] = Finding(difference, verdict)
    return found


Findings = dict[tuple[str, str], dict[str, Finding]]


def compare_all(evaluations: dict[str, Evaluation], smallest: float) -> Findings:
    """Each pair, the later name first: the base is named first, so that a gain over it reads as one."""
    return {
        (other, one): compare(evaluations[other], evaluations[one], smallest)
        for one, other in combinations(evaluations, 2)
    }


def verdicts(one: str, other: str, found: Findings) -> dict[str, str]:
    """Of one against other by score, whichever way round the pair was compared."""
    if (one, other) in found:
        return {column: finding.verdict for column, finding in found[one, other].items()}
    return {column: OPPOSITE[finding.verdict] for column, finding in found[other, one].items()}


def beats(one: str, other: str, found: Findings) -> bool:
    """Whether one is better in a score that decides, and worse in none."""
    of = [verdict for column, verdict in verdicts(one, other, found).items() if column in DECIDE]
    return "better" in of and "worse" not in of


def unbeaten(names: Sequence[str], found: Findings) -> list[str]:
    """Those that no other beats."""
    return [name for name in names if not any(beats(other, name, found) for other in names if other != name)]


def winner(names: Sequence[str], found: Findings) -> str | None:
    """The one that beats all others, if there is one."""
    for name in names:
        if len(names) > 1 and all(beats(name, other, found) for other in names if other != name):
            return name
    return None
