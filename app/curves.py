"""Losses and scores by step, variants and runs overlaid, also while they are written."""

import pandas as pd
import streamlit as st

from app.charts import curve_chart
from app.run_tables import CURVES, read_curves, smoothed
from app.runs import WORKSPACE
from app.ui import LIVE, all_runs, nothing_yet, say_other_dataset
from stages.report.findings import SCORES

TITLES = {
    "val_loss": "val_loss, lower is better",  # it chooses the best step and is no score of the report's
    "clip_score": f"clip_score, {SCORES['clip_score'].direction} is better",
    "train_loss": "train_loss, on a scale of its own",
}


@st.fragment(run_every=LIVE)
def show_curves() -> None:
    runs = all_runs()
    chosen = st.session_state.get("curve_runs", [WORKSPACE])
    st.session_state["curve_runs"] = [name for name in chosen if name in runs]  # runs may have been deleted
    with st.container(horizontal=True):
        names = st.multiselect("Runs", list(runs), key="curve_runs")
        tables = [read_curves(runs[name]) for name in names]
        curves = pd.concat(tables) if tables else read_curves(runs[WORKSPACE]).iloc[:0]
        variants = list(curves["variant"].unique())
        wanted = st.multiselect("Variants", variants, default=variants, key=f"variants of {variants}")
        smoothing = st.slider("Smoothing of train_loss", 0.0, 0.95, 0.0, 0.05)
    shown = curves[curves["variant"].isin(wanted)]
    if shown.empty:
        if names == [WORKSPACE] and curves.empty:
            nothing_yet("No training has begun here.")
        else:
            st.text("No curves in this choice.")
        return
    if WORKSPACE in names:
        say_other_dataset(runs[WORKSPACE], *(f"train@{variant}" for variant in wanted))
    st.text("Drag to move, wheel with Shift to zoom, double click to go back.")
    for column, name in zip([*st.columns(2), st], CURVES, strict=True):
        points = shown[shown["curve"] == name]
        if not points.empty:
            amount = smoothing if name == "train_loss" else 0
            column.altair_chart(curve_chart(smoothed(points, amount), TITLES[name]), width="stretch")
