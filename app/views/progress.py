"""A training as it goes: its stages, loss, newest pictures, time left, log; and what to press."""

from pathlib import Path

import pandas as pd
import streamlit as st

from app.ahead import training_plan, training_steps
from app.charts import curve_chart
from app.jobs import Job, read_jobs, start, stop
from app.run_tables import read_curves
from app.runs import last_step, list_samples, workspace
from app.stage_list import show_badges
from app.training import last_error, seconds_left, stage_names, stage_seconds, states_of
from app.ui import LIVE, current_params, show_picture
from tattoo_lora.errors import UserError
from tattoo_lora.estimates import duration
from tattoo_lora.params import load_profile

SAID = {
    "waiting": "Waiting for its turn.",
    "running": "Training.",
    "done": "Done: the adapters are ready to draw with.",
    "failed": "It stopped with an error; what was finished is kept.",
    "stopped": "Stopped. What was finished is kept, and it goes on where it was.",
    "interrupted": "It was killed. Nothing is lost: what was finished is kept, and it goes on where it was.",
}


@st.fragment(run_every=LIVE)
def show_jobs() -> None:
    """The training that runs, or else the last one, and those that wait."""
    jobs = read_jobs()
    running = [job for job in jobs if job.status == "running"]
    waiting = [job for job in jobs if job.status == "waiting"]
    if not jobs:
        return
    show_job((running or waiting or jobs)[0 if running or waiting else -1])
    for job in waiting[0 if running else 1 :]:
        with st.container(horizontal=True, border=True):
            st.text(f"Waiting: {job.command}")
            st.button("Take it out", key=f"stop {job.id}", on_click=stop, args=[job])


def show_job(job: Job) -> None:
    with st.container(border=True):
        st.subheader(SAID[job.status])
        if job.status == "failed":
            st.error("What it said:")
            st.text(last_error(job.log()))
        try:
            show_progress(job)
        except (UserError, OSError, ValueError):  # params.yaml or a log is being written
            st.text("Looking at its files …")
        with st.container(horizontal=True):
            if not job.is_over:
                st.button("Stop", key=f"stop {job.id}", on_click=stop, args=[job], icon=":material/stop:")
            elif job.status != "done":
                st.button(
                    "Go on", key=f"on {job.id}", on_click=begin, args=[job.arguments], icon=":material/play_arrow:"
                )
            else:
                st.page_link("views/draw.py", label="Draw", icon=":material/brush:")
                st.page_link("views/compare.py", label="Compare", icon=":material/query_stats:")
        st.caption("The same in a terminal:")
        st.code(job.command, language="bash", wrap_lines=True)
        with st.expander("Log"):
            st.code(job.log() or "nothing yet", language=None, wrap_lines=True, height=320)


def begin(arguments: list[str]) -> None:
    """Start a training; an error is shown by the next run of the page."""
    try:
        start(Path(), arguments)
    except UserError as error:
        st.session_state["start error"] = error


def show_progress(job: Job) -> None:
    params = current_params()
    stages = stage_names(Path(), params)
    states = states_of(job, stages)
    current = next((name for name, state in states.items() if state == "running"), "")
    share, step = 0.0, ""
    run = workspace()
    variants = [name.partition("@")[2] for name, state in states.items() if "train@" in name and state != "waiting"]
    if current.startswith("train@"):
        reached, steps = last_step(run, variants[-1]), training_steps(Path())
        if reached is not None:
            share, step = min(reached / steps, 1.0), f", step {reached} of {steps}"
    if job.status == "running":
        profile = load_profile(params.profile)
        images = Path("data/processed", params.dataset, "images")
        drawings = len(list(images.iterdir())) if images.is_dir() else 0
        seconds = stage_seconds(stages, training_plan(params, profile, drawings) if drawings > 2 else None)
        left = seconds_left(states, seconds, share)
        finished = 1 - left / max(sum(seconds.values()), 1)
        st.progress(min(max(finished, 0.0), 1.0))
        st.text(f"{current or 'Checking the machine'}{step}; about {duration(left)} left")
    is_drawn = bool(variants) and job.status not in ("waiting", "failed")
    if is_drawn:
        show_newest(list_samples(run), variants)
    show_badges(states)
    curves = read_curves(run) if is_drawn else pd.DataFrame()
    points = curves[curves["variant"].isin(variants) & (curves["curve"] == "val_loss")] if is_drawn else curves
    if not points.empty:
        chart = curve_chart(points, "Error on drawings that it does not learn from, lower is better", 300)
        st.altair_chart(chart, width="stretch")


def show_newest(samples: dict[str, dict[int, list[str]]], variants: list[str]) -> None:
    """The last pictures of the training that runs, or of the one before it until it has drawn."""
    drawn = [name for name in variants if samples.get(name)]
    if not drawn:
        return
    step = max(samples[drawn[-1]])
    st.text(f"Newest pictures: {drawn[-1]}, " + (f"step {step}" if step else "before the first step"))
    with st.container(key="sheet_pictures"):
        for number, path in enumerate(samples[drawn[-1]][step], start=1):
            show_picture(workspace(), path, f"{drawn[-1]}, step {step}, picture {number}")
