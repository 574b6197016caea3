"""Two runs beside each other: the params that differ, metrics, curves, pictures."""

import pandas as pd
import streamlit as st

from app.curves import show_curves
from app.gallery import show_gallery
from app.runs import CURVES, Run, read_curves, read_metrics
from app.ui import (
    all_runs,
    choose_run,
    curve_chart,
    experiments_listed,
    nothing_yet,
    say_other_dataset,
    show_figure,
    show_table,
)
from app.verdict import show_verdict
from stages.report.findings import SCORES

METRICS = (*SCORES, "copies")
WAIT = 3  # seconds for DVC to list the experiments; for many it takes longer, and the page is left free meanwhile


def differing(one: Run, other: Run) -> pd.DataFrame:
    """The params that differ between the runs."""
    keys = [key for key in {**one.params, **other.params} if one.params.get(key) != other.params.get(key)]
    rows = [[key, *(str(run.params.get(key, "")) for run in (one, other))] for key in keys]
    return pd.DataFrame(rows, columns=["param", f"one: {one.name}", f"other: {other.name}"])


def metrics_table(one: Run, other: Run) -> pd.DataFrame:
    """A row for each variant and metric, with both values and their difference."""
    rows, one_metrics, other_metrics = [], read_metrics(one), read_metrics(other)
    for name in [name for name in {**one_metrics, **other_metrics} if name != "held_out"]:
        for metric in METRICS:
            a, b = (metrics.get(name, {}).get(metric) for metrics in (one_metrics, other_metrics))
            if a is not None or b is not None:
                difference = f"{b - a:+.4g}" if a is not None and b is not None else ""
                cells = ["" if value is None else f"{value:.4g}" for value in (a, b)]
                rows.append([name, metric, *cells, difference])
    return pd.DataFrame(rows, columns=["variant", "metric", f"one: {one.name}", f"other: {other.name}", "other - one"])


@st.fragment(run_every=1)
def wait_for_experiments() -> None:
    st.text("DVC is still listing the experiments; they will appear here.")
    if experiments_listed():
        st.rerun()


def compare_two() -> None:
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

    st.subheader("Params that differ")
    params = differing(one, other)
    if params.empty:
        st.text("None.")
    else:
        show_table(params)
    st.subheader("Metrics")
    metrics = metrics_table(one, other)
    if metrics.empty:
        st.text("None of the two has been evaluated.")
    else:
        show_table(metrics)
    st.subheader("Curves")
    curves = pd.concat([read_curves(run) for run in dict.fromkeys((one, other))])
    if curves.empty:
        st.text("None of the two has logs here.")
    for column, curve in zip(st.columns(3), CURVES, strict=True):
        if len(points := curves[curves["curve"] == curve]):
            column.altair_chart(curve_chart(points, curve), width="stretch")
    st.subheader("Pictures")
    for column, run in zip(st.columns(2), (one, other), strict=True):
        with column:
            st.text(run.name)
            show_figure(run, "plots/comparison.png", f"comparison of {run.name}")
    names = sorted({name for run in (one, other) for name in run.names("plots/samples")})
    if names:
        name = st.segmented_control(
            "Pictures of",
            names,
            default=names[0],
            required=True,
            format_func=lambda name: name.removesuffix(".png"),
        )
        for column, run in zip(st.columns(2), (one, other), strict=True):
            with column:
                show_figure(run, f"plots/samples/{name}", f"{name} of {run.name}")


SECTIONS = {"Verdict": show_verdict, "Two runs": compare_two, "Gallery": show_gallery, "Curves": show_curves}

st.title("Compare")
section = st.segmented_control(
    "Section", list(SECTIONS), default="Verdict", key="compare_section", required=True, label_visibility="collapsed"
)
SECTIONS[section]()
