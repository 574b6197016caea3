"""The evaluations, which differences between them are real, and which variant beats which."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from stages.report.intervals import FEWEST, Difference, paired_difference, unpaired_difference
from tattoo_lora.diffusion.line_art import LineArt, are_line_art, mean_line_art
from tattoo_lora.errors import UserError


@dataclass(frozen=True)
class Score:
    """How a score is shown, which way it is better, and over what two evaluations are paired in it."""

    digits: int
    better: Callable[..., float]  # min or max
    table: str  # of an Evaluation
    unit: str  # the table's column that names the items
    items: str  # these in words
    # Losses differ tenfold between drawings: one drawing would decide a mean of plain differences, not one of ratios.
    is_ratio: bool
    does: str = ""  # "they … worse than the base" where the score decides who wins

    @property
    def direction(self) -> str:
        return "lower" if self.better is min else "higher"

    @property
    def arrow(self) -> str:
        return "↓" if self.better is min else "↑"

    def show(self, value: float) -> str:
        return f"{value:.{self.digits}f}"

    def show_difference(self, difference: Difference) -> str:
        """-8.5% [-10.2%, -6.8%] or +2.76 [+0.06, +7.13]; the mean alone where the interval is not known."""

        def show(value: float) -> str:
            return f"{value:+.1%}" if self.is_ratio else f"{value:+.{self.digits}f}"

        ends = f" [{show(difference.low)}, {show(difference.high)}]" if difference.has_interval else ""
        return show(difference.mean) + ends


SCORES = {
    "test_loss": Score(4, min, "drawings", "file", "test drawings", is_ratio=True, does="predict test drawings"),
    "test_loss_common": Score(4, min, "drawings", "file", "test drawings", is_ratio=True),  # the control
    "clip_score": Score(2, max, "pictures", "prompt", "prompts", is_ratio=False, does="draw"),
    "style": Score(3, min, "pictures", "prompt", "prompts", is_ratio=False, does="keep to the style"),
    "style_cosine": Score(3, max, "pictures", "prompt", "prompts", is_ratio=False),
    "diversity": Score(2, max, "pictures", "prompt", "prompts", is_ratio=False),
    "drift": Score(3, min, "plain", "prompt", "plain prompts", is_ratio=False),
}
DECIDE = tuple(name for name, score in SCORES.items() if score.does)
TOO_FEW = "too few to tell"
COLLAPSED = 0.25  # of the base's diversity beyond 1: with less, all seeds give nearly one picture
FALSE_ALARMS = 0.05  # share of held-out drawings that a threshold for copies may flag
MUCH = 0.05  # so much lower a clip_score of all, as a share of the base's, is worth a word even if it may be chance
OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Evaluation:
    """Means, the losses by drawing, the pictures and what was measured on each, the control for copies, the drift."""

    metrics: dict[str, float | str | None]  # and the dtype that they were measured in
    losses: pd.DataFrame
    pictures: pd.DataFrame
    images: list[Image.Image]
    control: pd.DataFrame
    plain: pd.DataFrame

    @property
    def drawings(self) -> pd.DataFrame:
        """The test drawings' losses."""
        test = self.losses[self.losses["split"] == "test"]
        return test.rename(columns={"loss": "test_loss", "loss_common": "test_loss_common"})

    @property
    def measured(self) -> list[LineArt]:
        """The line-art measures of each picture."""
        names = [field.name for field in fields(LineArt)]
        return [LineArt(*values) for values in self.pictures[names].itertuples(index=False)]

    @property
    def line_art(self) -> LineArt:
        return mean_line_art(self.measured)

    def is_line_art(self, target: LineArt) -> bool:
        return are_line_art(self.measured, target)


def read_evaluation(folder: Path) -> Evaluation:
    """Read what evaluate wrote. UserError if it did not run, or if it measured a broken adapter."""
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder}: no metrics.json; run `dvc repro`")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    broken = [name for name in SCORES if name in metrics and metrics[name] is None]
    if broken:
        raise UserError(f"{folder}/metrics.json: {broken[0]} is no number; train again with a lower learning_rate")
    # A prompt may read NA or null; only a measure of line art may be missing.
    missing = {field.name: ["nan"] for field in fields(LineArt)}
    pictures, plain = (
        pd.read_csv(folder / file, keep_default_na=False, na_values=missing) for file in ("pictures.csv", "plain.csv")
    )
    images = [Image.open(folder / file).convert("RGB") for file in pictures["file"]]
    losses, control = (pd.read_csv(folder / file) for file in ("drawings.csv", "control.csv"))
    return Evaluation(metrics, losses, pictures, images, control, plain)


def learned_by_heart(evaluation: Evaluation, base: Evaluation) -> Difference:
    """How much more the loss fell on learned drawings than on test drawings, against the base: -0.1 is a tenth more.

    Against the base, because the learned drawings may be easier ones: each drawing's loss is held against the base's
    loss on it.
    """
    changes = []
    for split in ("train", "test"):
        tables = (losses[losses["split"] == split] for losses in (evaluation.losses, base.losses))
        means = [table.groupby("file")["loss"].mean() for table in tables]
        changes.append(np.log(means[0] / means[1]))
    return as_ratio(unpaired_difference(*changes))


def false_alarms(evaluations: dict[str, Evaluation]) -> pd.DataFrame:
    """The search for copies among the held-out drawings, which are none; the same in each evaluation."""
    return next(iter(evaluations.values())).control


def thresholds(control: pd.DataFrame) -> dict[str, float]:
    """For each measure of nearness the lowest value, to two digits, that at most FALSE_ALARMS of the control reach."""
    flagged = int(FALSE_ALARMS * len(control))
    return {
        name: np.floor(100 * control[name].sort_values(ascending=False).iloc[flagged] + 1) / 100
        for name in ("correlation", "cosine")
    }


def collapsed(evaluations: dict[str, Evaluation]) -> list[str]:
    """The variants that draw nearly one picture whatever the seed, held against the first evaluation, the base."""
    base, *variants = evaluations
    least = 1 + COLLAPSED * (evaluations[base].metrics["diversity"] - 1)
    return [name for name in variants if evaluations[name].metrics["diversity"] < least]


@dataclass(frozen=True)
class Finding:
    """How one evaluation differs from another in a score, and whether it is better, worse, or no difference."""

    difference: Difference
    verdict: str


def compare(one: Evaluation, other: Evaluation, smallest: float) -> dict[str, Finding]:
    """Compare one with other by score: losses paired by drawing (means over timesteps), scores by prompt (over seeds).

    Pictures of one prompt are not independent: an adapter that draws a wolf badly does so with every seed. Of losses
    the difference is a share of the other's, the geometric mean over the drawings; of scores in their own unit. One
    under `smallest`, a share of the other's value, does not count.
    """
    findings = {}
    for column, score in SCORES.items():
        tables = (getattr(evaluation, score.table) for evaluation in (one, other))
        values = [table.groupby(score.unit)[column].mean() for table in tables]
        if score.is_ratio:
            difference, least = as_ratio(paired_difference(*map(np.log, values))), smallest
        else:
            difference, least = paired_difference(*values), smallest * abs(other.metrics[column])
        findings[column] = Finding(difference, judge(difference, score, least))
    return findings


def as_ratio(log_ratio: Difference) -> Difference:
    """A difference of logarithms as a share: -0.1 is a tenth less."""
    return Difference(*(float(np.expm1(value)) for value in (log_ratio.mean, log_ratio.low, log_ratio.high)))


def judge(difference: Difference, score: Score, least: float) -> str:
    """better, worse, no difference, or too few to tell; `least` is the smallest difference that counts."""
    if not difference.has_interval:
        return TOO_FEW
    if not difference.is_real(least):
        return "no difference"
    return "better" if (difference.mean < 0) == (score.better is min) else "worse"


Findings = dict[tuple[str, str], dict[str, Finding]]


def compare_all(evaluations: dict[str, Evaluation], smallest: float) -> Findings:
    """Each pair, the later name first: the base is named first, so that a gain over it reads as one."""
    return {
        (other, one): compare(evaluations[other], evaluations[one], smallest)
        for one, other in combinations(evaluations, 2)
    }


def verdicts(one: str, other: str, findings: Findings) -> dict[str, str]:
    """The verdicts on one against other by score, whichever way round the pair was compared."""
    if (one, other) in findings:
        return {column: finding.verdict for column, finding in findings[one, other].items()}
    return {column: OPPOSITE.get(finding.verdict, finding.verdict) for column, finding in findings[other, one].items()}


def beats(one: str, other: str, findings: Findings) -> bool:
    """Whether one is better in a score that decides, and worse in none, as far as all of these can be told."""
    deciding = {verdict for column, verdict in verdicts(one, other, findings).items() if column in DECIDE}
    return "better" in deciding and not deciding & {"worse", TOO_FEW}


def unbeaten(names: Sequence[str], findings: Findings) -> list[str]:
    """Those that no other of them beats."""
    return [name for name in names if not any(beats(other, name, findings) for other in names if other != name)]


def winner(evaluations: dict[str, Evaluation], findings: Findings) -> str | None:
    """The one that beats all others, if there is one; the base, which is first, and collapsed ones do not count."""
    names = [name for name in evaluations if name not in collapsed(evaluations)]
    for name in names[1:]:
        if all(beats(name, other, findings) for other in names if other != name):
            return name
    return None


def headline(evaluations: dict[str, Evaluation], findings: Findings, target: LineArt) -> str:
    """The result in one line; the first evaluation is the base."""
    base, *variants = evaluations
    against_base = {name: verdicts(name, base, findings) for name in variants}
    # What a picture shows comes first.
    for column in reversed(DECIDE):
        if all(verdict[column] == "worse" for verdict in against_base.values()):
            return all_worse(column, evaluations)
    best = winner(evaluations, findings)
    if best is not None:
        won = f"Winner: {best}" if len(variants) > 1 else f"{best} is better than the {base} model"
        return won if evaluations[best].is_line_art(target) else f"{won}, but what it draws is not line art"
    return no_winner(evaluations, findings, against_base) + all_below(evaluations)


def no_winner(evaluations: dict[str, Evaluation], findings: Findings, against_base: dict[str, dict[str, str]]) -> str:
    """Why there is no winner, or between which variants it is open."""
    base, *variants = evaluations
    for column in DECIDE:
        if all(verdict[column] == TOO_FEW for verdict in against_base.values()):
            return f"No verdict: fewer than {FEWEST} {SCORES[column].items} are too few to tell"
    same = collapsed(evaluations)
    if same == variants:
        who, draw = (same[0], "draws") if len(same) == 1 else (", ".join(same), "draw")
        return f"No winner: {who} {draw} nearly the same picture whatever the seed"
    variants = [name for name in variants if name not in same]
    fit = [name for name in variants if not any(against_base[name][column] == "worse" for column in DECIDE)]
    if not fit:
        return f"No winner: each is worse than the {base} model in {' or '.join(DECIDE)}"
    better = [name for name in fit if beats(name, base, findings)]
    if not better:
        return f"No winner: none is better than the {base} model"
    first = unbeaten(better, findings)
    if len(first) == 1:
        return f"No winner: {first[0]} comes nearest, but is not better than each other"
    return f"No winner: open between {' and '.join(first)}" if first else "No winner: each is beaten by another"


def all_below(evaluations: dict[str, Evaluation]) -> str:
    """A clause if all clip_scores are much lower than the base's, even if by chance; otherwise empty."""
    base, *others = (evaluation.metrics["clip_score"] for evaluation in evaluations.values())
    if max(others) > (1 - MUCH) * base:
        return ""
    name, values = next(iter(evaluations)), against("clip_score", evaluations)
    return f"; in the mean, clip_score is below the {name} model's: {values}"


def against(column: str, evaluations: dict[str, Evaluation]) -> str:
    """40.10, 40.32 and 39.87 against 62.07."""
    base, *others = (SCORES[column].show(evaluation.metrics[column]) for evaluation in evaluations.values())
    return f"{' and '.join(filter(None, [', '.join(others[:-1]), others[-1]]))} against {base}"


def all_worse(column: str, evaluations: dict[str, Evaluation]) -> str:
    """As in 'All three draw worse than the base model: clip_score 40.10, 40.32 and 39.87 against 62.07'."""
    base, *variants = evaluations
    who = {1: variants[0], 2: "Both", 3: "All three"}.get(len(variants), f"All {len(variants)}")
    does = SCORES[column].does
    if len(variants) == 1:
        does = re.sub(r"^\w+", r"\g<0>s", does)
    return f"{who} {does} worse than the {base} model: {column} {against(column, evaluations)}"
