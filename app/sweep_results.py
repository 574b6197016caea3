"""A sweep's table and plot: what each trial came to, which knobs matter, and val_loss against what it cost."""

import warnings

import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState

from app.search import Plan
from stages.report.findings import SCORES
from tattoo_lora.files import replace_file

REPORTED = ("test_loss", "clip_score")  # of the best trials
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
COLORS = {"done": "#0072b2", "stopped": "#b58900", "failed": "#6b6b6b"}


Tests = dict[int, list[dict[str, float]]]  # by a trial's number the metrics of each of its trainings


def trials_table(study: optuna.Study, plan: Plan, tests: Tests) -> pd.DataFrame:
    """A row for each trial that has begun, the best first; those in `tests` with their test scores."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue
        lowest = min(trial.intermediate_values.values(), default=None)
        row = {"trial": plan.label(trial.number), "state": STATES.get(trial.state, "running")}
        row |= {knob.name: trial.params and knob.pick(trial) for knob in plan.knobs}
        row["val_loss"] = trial.value if trial.state == TrialState.COMPLETE else lowest
        row |= {key: trial.user_attrs.get(key) for key in ("steps", "seconds", "place", "reason")}
        row["seconds"] = row["seconds"] and round(row["seconds"], 1)
        for score in REPORTED:
            values = [metrics[score] for metrics in tests.get(trial.number, [])]
            row[score] = sum(values) / len(values) if values else None
        rows.append(row)
    order = {"done": 0, "stopped": 1, "failed": 2, "running": 3}
    table = pd.DataFrame(rows).sort_values("val_loss", kind="stable")
    return table.sort_values("state", key=lambda states: states.map(order), kind="stable").reset_index(drop=True)


def knob_importance(study: optuna.Study) -> dict[str, float]:
    """How much each knob tells the better trials from the others, in all 1; empty where there are too few trials.

    PED-ANOVA (Watanabe, Bansal, Hutter 2023). It takes what the search tried as it is: with few trials it is a hint.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental, and that trials are few
        return optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def draw_sweep(table: pd.DataFrame, importance: dict[str, float]) -> Figure:
    """Left val_loss against the seconds of each trial, right the importance of the knobs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    cost, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    for state, color in COLORS.items():
        rows = table[(table["state"] == state) & table["val_loss"].notna()] if len(table) else table
        if rows.empty:
            continue
        cost.scatter(rows["seconds"], rows["val_loss"].astype(float), color=color, label=state)
        for _, row in rows[rows["test_loss"].notna()].iterrows():
            where = (row["seconds"], row["val_loss"])
            cost.annotate(row["trial"], where, xytext=(4, 4), textcoords="offset points", fontsize=8)
    cost.set(xlabel="seconds of the trial", ylabel="val_loss, lower is better", title="Trials")
    if cost.has_data():
        cost.legend(frameon=False)
    names = list(importance)[::-1]
    bars.barh(
        [name.rpartition(":")[2] for name in names],
        [importance[name] for name in names],
        height=0.5,
        color=COLORS["done"],
    )
    bars.set(xlabel="share", title="Importance of the knobs" if names else "Too few trials for importances")
    return figure


def write_results(study: optuna.Study, plan: Plan, tests: Tests | None = None) -> pd.DataFrame:
    """The table, which is kept with the plot as sweep.csv and sweep.png in the sweep's folder."""
    table = trials_table(study, plan, tests or {})
    with replace_file(plan.folder / "sweep.csv") as partial:
        table.to_csv(partial, index=False, lineterminator="\n", float_format="%.6g")
    with replace_file(plan.folder / "sweep.png") as partial:
        draw_sweep(table, knob_importance(study)).savefig(partial, dpi=120, format="png")
    return table


def table_text(table: pd.DataFrame) -> str:
    """The table as Markdown, without columns that are empty."""
    shown = table.dropna(axis="columns", how="all").drop(columns="reason", errors="ignore")
    short = {name: name.rpartition(".")[2] for name in shown}
    taken = [*shown, *short.values()]
    shown = shown.rename(columns={name: last for name, last in short.items() if taken.count(last) == 1})
    digits = {"val_loss": 4, "seconds": 0} | {score: SCORES[score].digits for score in REPORTED}
    lines = [f"| {' | '.join(shown)} |", "|---" * len(shown.columns) + "|"]
    for row in shown.to_dict("records"):
        cells = [
            "" if pd.isna(value) else f"{value:.{digits[name]}f}" if name in digits else str(value)
            for name, value in row.items()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
