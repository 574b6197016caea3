"""Where each stage stands, and what the comparison found."""

import pandas as pd
import streamlit as st

from app.runs import Run, metrics_of, parse_log, tables_of, workspace
from app.shown import LIVE, as_markdown, nothing_yet, say_other_dataset, show_figure, show_table, stage_states

BADGES = {  # colour and icon of a state
    "up to date": ("green", ":material/check:"),
    "running": ("orange", ":material/autorenew:"),
    "stale": ("violet", ":material/update:"),
    "not run": ("grey", ":material/radio_button_unchecked:"),
}


@st.fragment(run_every=LIVE)
def show_stages() -> None:
    found = stage_states()
    st.subheader("Stages")
    if found is None:
        st.text("Looking at the stages …")
        return
    running = [stage.name for stage in found if stage.state == "running"]
    behind = [stage for stage in found if stage.state in ("stale", "not run")]
    if running:
        st.text("Running now: " + ", ".join(f"{name}{progress_of(name)}" for name in running))
    elif behind:
        st.markdown(f"{len(behind)} of {len(found)} stages are to be run; `dvc repro` runs them.")
    else:
        st.text("Everything is up to date.")
    with st.container(horizontal=True, gap="xsmall"):
        for stage in found:
            color, icon = BADGES[stage.state]
            st.badge(as_markdown(stage.name), icon=icon, color=color, help=stage.state)
    with st.container(horizontal=True, gap="small"):
        for state in dict.fromkeys(stage.state for stage in found):
            color, icon = BADGES[state]
            st.caption(f":{color}[{icon}] {state}")
    if behind:
        rows = [{"stage": stage.name, "state": stage.state, "why": stage.why} for stage in behind]
        with st.expander(f"Why {len(behind)} stages are to be run"):
            show_table(pd.DataFrame(rows))


def progress_of(stage: str) -> str:
    """How far a training is, by its log."""
    run = workspace()
    raw = run.read(f"runs/logs/{stage.partition('@')[2]}.csv") if stage.startswith("train@") else None
    steps = parse_log(raw)["step"] if raw else []
    of_all = next((value for key, value in run.params.items() if key.endswith(": train.steps")), "?")
    return f" (step {max(steps)} of {of_all})" if len(steps) else ""


@st.fragment(run_every=LIVE * 5)
def show_results() -> None:
    run = workspace()
    text = (run.read("plots/comparison.md") or b"").decode("utf-8", errors="replace")
    tables = tables_of(text)
    if not tables:
        if metrics_of(run):
            st.markdown("plots/comparison.md is not there; `dvc repro report` writes it.")
        else:
            nothing_yet("Nothing has been compared yet.")
        return
    st.subheader("Which is best")
    say_other_dataset(run, "report")
    headline = (run.read("metrics/report.md") or b"").decode("utf-8", errors="replace").partition("\n")[0]
    if headline.startswith("# "):
        st.text(headline.removeprefix("# "))
    scores = tables[0][1]
    differences = next((table for _, table in tables if "difference" in table.columns), None)
    show_winners(scores, differences)
    show_table(scores)
    if differences is not None:
        st.text("Differences with their intervals: is the first of a pair better, worse, or is there no difference?")
        show_table(differences)
    for before, table in tables[1:]:
        if table is not differences:
            with st.expander("Is it line art?"):
                st.text(before)
                show_table(table)
                show_figure(run, "plots/line_art.png", "Line-art measures against those of the held-out drawings.")
    show_pictures(run)


def show_winners(scores: pd.DataFrame, differences: pd.DataFrame | None) -> None:
    """A card for each score: the best, and what it is really better than."""
    names = scores.columns[0]
    for card, column in zip(st.columns(len(scores.columns) - 1), scores.columns[1:], strict=True):
        best = scores[scores[column].str.startswith("**")]
        if best.empty:
            continue
        name, value = best.iloc[0][names], best.iloc[0][column].strip("*")
        with card.container(border=True, height="stretch"):
            st.metric(as_markdown(column), as_markdown(name))
            st.text(value)
            if differences is not None:
                st.text(standing(name, column.split()[0], differences))


def standing(name: str, score: str, differences: pd.DataFrame) -> str:
    """'better than base; no difference from blip_plus', as the table of differences has it."""
    verdicts: dict[str, list[str]] = {}
    for _, row in differences.iterrows():
        one, _, other = row["difference"].partition(" - ")
        is_ = row.get(f"{score} is", "")
        if name == one:
            verdicts.setdefault(is_, []).append(other)
        elif name == other:
            verdicts.setdefault({"better": "worse", "worse": "better"}.get(is_, is_), []).append(one)
    words = {"better": "better than", "worse": "worse than", "no difference": "no real difference from"}
    words["too few to tell"] = "too few to tell from"
    return "; ".join(f"{words[is_]} {', '.join(others)}" for is_, others in verdicts.items() if is_ in words)


def show_pictures(run: Run) -> None:
    st.subheader("Side by side")
    pictures, charts = st.columns([3, 2])
    with pictures:
        show_figure(run, "plots/comparison.png", "Rows: prompts. Columns: base and variants.")
    with charts:
        for path, about in {
            "plots/nearest.png": "What was drawn, above the training drawing nearest to it: copies would show here.",
            "plots/differences.png": "Differences with their intervals: green better, red worse, grey neither.",
        }.items():
            st.text(about)
            show_figure(run, path, about)


st.title("Tattoo LoRA")
above = st.container()
show_results()  # at once; DVC is asked for the stages only then
with above:
    show_stages()
