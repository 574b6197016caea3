"""Where each stage stands, and why it is to be run."""

import streamlit as st

from app.ahead import training_steps
from app.jobs import read_jobs
from app.runs import StageState, last_step, workspace
from app.ui import LIVE, as_markdown, stage_states
from tattoo_lora.errors import UserError

BADGES = {  # colour and icon of a stage's state: of all stages, and as a training from a page goes through them
    "up to date": ("green", ":material/check:"),
    "done": ("green", ":material/check:"),
    "unchanged": ("green", ":material/check:"),
    "running": ("orange", ":material/autorenew:"),
    "stale": ("violet", ":material/update:"),
    "not run": ("grey", ":material/radio_button_unchecked:"),
    "waiting": ("grey", ":material/radio_button_unchecked:"),
    "stopped": ("red", ":material/stop:"),
}
JOBS = {  # what is said of the last training that was started from a page, by its status
    "waiting": "A training waits for its turn.",
    "running": "A training runs.",
    "failed": "The last training failed. Train shows its log and starts it again from where it got to.",
    "stopped": "The last training was stopped. Train goes on with it.",
    "interrupted": "The last training was interrupted: the machine or the process ended. Train goes on with it.",
}


@st.fragment(run_every=LIVE)
def show_job() -> None:
    """How the last training that was started from a page stands, unless it is done."""
    jobs = read_jobs()
    if jobs and (said := JOBS.get(jobs[-1].status)):
        (st.error if jobs[-1].status == "failed" else st.info)(said, icon=":material/model_training:")


@st.fragment(run_every=LIVE)
def show_stages() -> None:
    """How things stand in a sentence; each stage is one click below."""
    stages = stage_states()
    if stages is None:
        st.text("Looking at the stages …")
        return
    st.text(in_a_sentence(stages))
    with st.expander("Stages"):
        show_badges({stage.name: stage.state for stage in stages})
        with st.container(horizontal=True, gap="small"):
            for state in dict.fromkeys(stage.state for stage in stages):
                color, icon = BADGES[state]
                st.caption(f":{color}[{icon}] {state}")
        if behind := to_be_run(stages):
            import pandas as pd  # half a second that the first screen does without while all is up to date

            from app.charts import show_table

            show_table(
                pd.DataFrame([{"stage": stage.name, "state": stage.state, "why": stage.why} for stage in behind])
            )
            st.markdown("`dvc repro` runs them, and so does the place Train.")


def show_badges(states: dict[str, str]) -> None:
    """Each stage with the colour and icon of its state."""
    with st.container(horizontal=True, gap="xsmall"):
        for name, state in states.items():
            color, icon = BADGES[state]
            st.badge(as_markdown(name), icon=icon, color=color, help=state)


def to_be_run(stages: list[StageState]) -> list[StageState]:
    return [stage for stage in stages if stage.state in ("stale", "not run")]


def in_a_sentence(stages: list[StageState]) -> str:
    running, behind = [stage.name for stage in stages if stage.state == "running"], to_be_run(stages)
    if running:
        return "Running now: " + ", ".join(f"{name}{stage_progress(name)}" for name in running)
    if all(stage.state == "not run" for stage in stages):
        return "Nothing has run yet."
    if len(behind) == len(stages):
        return "All stages are to be run."
    if behind:
        return f"{len(behind)} of {len(stages)} stages are to be run, because something changed or was stopped."
    return "Everything is up to date."


def stage_progress(stage: str) -> str:
    """How far a training is, by its log."""
    run = workspace()
    step = last_step(run, stage.partition("@")[2]) if stage.startswith("train@") else None
    if step is None:
        return ""
    try:
        return f" (step {step} of {training_steps(run.folder)})"
    except UserError:  # params.yaml is being edited
        return f" (step {step})"
