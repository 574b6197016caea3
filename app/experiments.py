"""All runs in a table that sorts, sweeps as parallel coordinates, and two runs beside each other."""

import numpy as np
import pandas as pd
import streamlit as st

from app.charts import color_scale, show_table
from app.run_tables import read_table
from app.runs import BASE, WORKSPACE, Run, read_metrics
from app.ui import (
    all_runs,
    choose_run,
    experiments_listed,
    nothing_yet,
    say_other_dataset,
    show_figure,
)
from stages.report.findings import SCORES, Score, as_ratio
from stages.report.intervals import Difference, paired_difference

METRICS = (*SCORES, "copies")
WAIT = 3  # seconds for DVC to list the experiments; for many it takes longer, and the page is left free meanwhile
STATES = {"": "done", "Success": "done"}
FEWEST_LINES = 3  # of parallel coordinates; fewer are read better in the table
MOST_AXES = 8


def differing_params(runs: list[Run]) -> list[str]:
    """The params that are not the same in all runs, in the order of the files."""
    keys = dict.fromkeys(key for run in runs for key in run.params)
    return [key for key in keys if len({str(run.params.get(key)) for run in runs}) > 1]


def runs_table(runs: list[Run]) -> pd.DataFrame:
    """A row for each run and variant that was evaluated: its state, the params that differ, its scores as numbers."""
    cells = {key: cells_for([run.params.get(key) for run in runs]) for key in differing_params(runs)}
    rows = []
    for number, run in enumerate(runs):
        params = {key: column[number] for key, column in cells.items()}
        for variant, metrics in read_metrics(run).items():
            if variant != "held_out":
                row = {"run": run.name, "state": STATES.get(run.state, run.state.lower()), "variant": variant}
                rows.append(row | {name: metrics.get(name) for name in METRICS} | params)
    return pd.DataFrame(rows)


def cells_for(values: list) -> list:
    """A param's values as a column of one kind, so that it sorts: numbers if all are, else texts."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values
    return ["null" if value is None else str(value) for value in values]


def swept_params(table: pd.DataFrame) -> list[str]:
    """The columns of runs_table that are params."""
    return [column for column in table.columns if column not in ("run", "state", "variant", *METRICS)]


def coordinates(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Lines of parallel coordinates: for each row of runs_table its share of every axis that varies, `score` last.

    Axes are the params and the score; a param of words has its words evenly along the axis.
    """
    lines = []
    for axis in [*swept_params(table)[: MOST_AXES - 1], score]:
        values = table[axis]
        positions = values if pd.api.types.is_numeric_dtype(values) else pd.Series(pd.factorize(values, sort=True)[0])
        low, high = positions.min(), positions.max()
        shares = (positions.to_numpy(dtype=float) - low) / (high - low) if high > low else np.full(len(table), 0.5)
        lines.append(
            pd.DataFrame({"run": table["run"], "variant": table["variant"], "axis": axis, "share": shares})
            .assign(value=values.map(lambda cell: f"{cell:.4g}" if isinstance(cell, float) else str(cell)))
            .assign(line=table["run"] + " " + table["variant"])
        )
    return pd.concat(lines, ignore_index=True).dropna(subset=["share"])


def show_sweep(table: pd.DataFrame) -> None:
    """Parallel coordinates of the params that differ and a score, where there are lines enough to see something."""
    trained = table[table["variant"] != BASE].reset_index(drop=True)
    if trained["run"].nunique() < FEWEST_LINES or not swept_params(table):
        return
    import altair as alt

    st.subheader("Sweep")
    score = st.segmented_control("Score", list(SCORES), default="test_loss", required=True)
    lines = coordinates(trained, score)
    chart = (
        alt.Chart(lines, height=340)
        .mark_line(opacity=0.6, point=True)
        .encode(
            x=alt.X("axis:N", sort=list(dict.fromkeys(lines["axis"])), title=None, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("share:Q", title="lowest to highest", axis=alt.Axis(labels=False, ticks=False)),
            detail="line:N",
            color=alt.Color("variant:N", scale=alt.Scale(**color_scale(list(trained["variant"].unique()))), title=None),
            tooltip=["run:N", "variant:N", "axis:N", "value:N"],
        )
        .configure_legend(orient="bottom")
    )
    st.altair_chart(chart, width="stretch")


def differing(one: Run, other: Run) -> pd.DataFrame:
    """The params that differ between the runs."""
    keys = differing_params([one, other])
    rows = [[key, *(str(run.params.get(key, "")) for run in (one, other))] for key in keys]
    return pd.DataFrame(rows, columns=["param", f"one: {one.name}", f"other: {other.name}"])


def metrics_table(one: Run, other: Run) -> pd.DataFrame:
    """A row for each variant and metric: both values, and their difference with its interval where it can be had."""
    rows, one_metrics, other_metrics = [], read_metrics(one), read_metrics(other)
    for name in [name for name in {**one_metrics, **other_metrics} if name != "held_out"]:
        for metric in METRICS:
            a, b = (metrics.get(name, {}).get(metric) for metrics in (one_metrics, other_metrics))
            if a is not None or b is not None:
                paired = paired_between(one, other, name, SCORES[metric], metric) if metric in SCORES else None
                plain = f"{b - a:+.4g}" if a is not None and b is not None else ""
                difference = SCORES[metric].show_difference(paired) if paired else plain
                cells = ["" if value is None else f"{value:.4g}" for value in (a, b)]
                rows.append([name, metric, *cells, difference])
    return pd.DataFrame(rows, columns=["variant", "metric", f"one: {one.name}", f"other: {other.name}", "other - one"])


def paired_between(one: Run, other: Run, name: str, score: Score, column: str) -> Difference | None:
    """other - one over the drawings or prompts that both measured, as the report pairs variants; None without any.

    A run whose tables are not on this machine gives None too.
    """
    means = []
    for run in (other, one):
        table = read_table(run.read(f"runs/evaluation/{name}/{score.table}.csv"))
        if score.table == "drawings" and {"split", "loss", "loss_common"} <= set(table.columns):
            table = table[table["split"] == "test"].rename(
                columns={"loss": "test_loss", "loss_common": "test_loss_common"}
            )
        if not {column, score.unit} <= set(table.columns):
            return None
        values = pd.to_numeric(table[column], errors="coerce")
        means.append(values.groupby(table[score.unit]).mean().dropna())
    both = pd.concat(means, axis=1, join="inner", keys=["other", "one"])
    if both.empty or score.is_ratio and (both <= 0).any(axis=None):
        return None
    if score.is_ratio:
        return as_ratio(paired_difference(np.log(both["other"]), np.log(both["one"])))
    return paired_difference(both["other"], both["one"])


@st.fragment(run_every=1)
def wait_for_experiments() -> None:
    st.text("DVC is still listing the experiments; they will appear here.")
    if experiments_listed():
        st.rerun()


def show_experiments() -> None:
    with st.spinner("Asking DVC for the experiments"):
        runs = all_runs(WAIT)
    if not experiments_listed():
        wait_for_experiments()
        return
    if not any(read_metrics(run) for run in runs.values()):
        nothing_yet("There is nothing to compare yet.")
        return
    if not any(run.state for run in runs.values()):
        st.text("There are no experiments yet. This command makes one, which can then be chosen here:")
        st.code("dvc exp run -n rank4 -S train.rank=4", language="bash")
    table = runs_table(list(runs.values()))
    st.dataframe(table, hide_index=True, height="auto", key="runs")
    show_sweep(table)
    show_searches()
    show_two(runs)


def show_searches() -> None:
    """The trials of each app.sweep here, also while it runs: what runs where, and its plot."""
    here = Run(WORKSPACE)
    for name in here.names("runs/sweeps"):
        trials = read_table(here.read(f"runs/sweeps/{name}/sweep.csv"))
        if len(trials):
            st.subheader("Trials")
            st.text(f"of the sweep {name}: scores on val, and on test for the best when all are done")
            show_table(trials.loc[:, (trials != "").any()])
            show_figure(here, f"runs/sweeps/{name}/sweep.png", f"trials of the sweep {name}")


def show_two(runs: dict[str, Run]) -> None:
    st.subheader("Two runs")
    left, right = st.columns(2)
    with left:
        one = choose_run("One", "one")
    with right:
        newest = next((name for name, run in runs.items() if run.state), list(runs)[-1])
        st.session_state.setdefault("other", newest)
        other = choose_run("Other", "other")
    for run in (one, other):
        say_other_dataset(run, "report")
        if run.state not in ("", "Success"):
            st.text(f"{run.name}: {run.state.lower()}")
    params, metrics = differing(one, other), metrics_table(one, other)
    st.text("Params that differ" if len(params) else "No params differ.")
    if len(params):
        show_table(params)
    st.text("Scores; differences with intervals where both measured the same drawings and prompts")
    if metrics.empty:
        st.text("None of the two has been evaluated.")
    else:
        show_table(metrics)
    for column, run in zip(st.columns(2), (one, other), strict=True):
        with column:
            st.text(run.name)
            show_figure(run, "plots/comparison.png", f"comparison of {run.name}")
