"""The fixed prompts, drawn by the base model and each variant from the same seeds."""

import pandas as pd
import streamlit as st

from app.run_tables import read_pictures
from app.runs import Run, list_samples, training_prompt, with_base
from app.ui import choose_run, nothing_yet, say_other_dataset, show_picture
from stages.report.findings import SCORES

WIDTHS = {"small": 164, "large": 320}  # px; two small ones go beside each other on a phone


def show_on_the_way(run: Run, width: int) -> None:
    """The pictures made while training."""
    samples = list_samples(run)
    if not samples:
        nothing_yet("No pictures of a training here.")
        return
    say_other_dataset(run, "train@")
    steps = sorted({step for by_step in samples.values() for step in by_step})
    step = st.select_slider("Step", steps, value=steps[-1], key="step") if len(steps) > 1 else steps[0]
    columns = with_base({name: by_step.get(step, []) for name, by_step in samples.items()}, samples)
    for row in range(max(len(paths) for paths in columns.values())):
        st.text(training_prompt(run, row))
        with st.container(horizontal=True):
            for name, paths in columns.items():
                with st.container(width=width):
                    st.text(name)
                    show_picture(run, paths[row] if row < len(paths) else None, f"{name}, step {step}")


def show_evaluated(run: Run, width: int) -> None:
    """The pictures that the scores were taken from."""
    pictures = read_pictures(run)
    if pictures.empty:
        nothing_yet("No evaluation here.")
        return
    say_other_dataset(run, "evaluate@")
    names, seeds = list(pictures["name"].unique()), list(pictures["seed"].unique())
    seed = st.segmented_control("Seed", seeds, default=seeds[0], required=True) if len(seeds) > 1 else seeds[0]
    shown = pictures[pictures["seed"] == seed]
    for prompt in shown["prompt"].unique():
        st.text(prompt)
        with st.container(horizontal=True):
            for name in names:
                with st.container(width=width):
                    show_one(run, name, prompt, shown[(shown["prompt"] == prompt) & (shown["name"] == name)])


def show_one(run: Run, name: str, prompt: str, rows: pd.DataFrame) -> None:
    """The picture of the first row and its score, or that there is none."""
    st.text(name)
    show_picture(run, rows["path"].iloc[0] if len(rows) else None, f"{name}: {prompt}")
    if len(rows):
        copy = ", like a training drawing" if rows["copy"].iloc[0] == "1" else ""
        st.text(f"clip {shown(rows['clip_score'].iloc[0])}{copy}")


def shown(clip_score: str) -> str:
    try:
        return SCORES["clip_score"].show(float(clip_score))
    except ValueError:
        return "?"


def show_gallery() -> None:
    with st.container(horizontal=True):
        run = choose_run("Run", "gallery_run")
        size = st.segmented_control("Pictures", list(WIDTHS), default="small", required=True)
    width = WIDTHS[size]
    on_the_way, evaluated = st.tabs(["While training", "Evaluated"])
    with on_the_way:
        show_on_the_way(run, width)
    with evaluated:
        show_evaluated(run, width)
