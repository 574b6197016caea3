"""What the comparison found: the winners, all scores, differences with their intervals, is it line art."""

import pandas as pd
import streamlit as st

from app.charts import show_table
from app.runs import Run, read_findings, read_metrics, workspace
from app.ui import LIVE, as_markdown, nothing_yet, say_other_dataset, show_figure
from stages.report.findings import OPPOSITE, SCORES, TOO_FEW


@st.fragment(run_every=LIVE * 5)
def show_verdict() -> None:
    run = workspace()
    findings = read_findings(run)
    if not findings:
        if read_metrics(run):
            st.markdown("metrics/findings.json is not there; `dvc repro report` writes it.")
        else:
            nothing_yet("Nothing has been compared yet.")
        return
    say_other_dataset(run, "report")
    with st.container(key="verdict"):
        st.text(findings["headline"])
    show_winners(findings)
    show_table(scores_table(findings))
    st.text("Differences with their intervals: is the first of each pair better, worse or no different?")
    show_table(differences_table(findings["differences"]))
    with st.expander("Is it line art?"):
        show_table(line_art_table(findings, read_metrics(run)))
        show_figure(run, "plots/line_art.png", "Line-art measures against those of the held-out drawings.")
    show_pictures(run)


def titled(findings: dict) -> dict[str, str]:
    """The scores of a report with an arrow to their better side."""
    return {score: f"{score} {'↓' if side == 'lower' else '↑'}" for score, side in findings["better"].items()}


def shown(score: str, value: float | None) -> str:
    """Reports of an earlier version may hold a score that no longer exists."""
    return "" if value is None else SCORES[score].show(value) if score in SCORES else f"{value:g}"


def scores_table(findings: dict) -> pd.DataFrame:
    titles = titled(findings)
    return pd.DataFrame(
        {"variant": name} | {titles[score]: shown(score, values[score]) for score in titles}
        for name, values in findings["scores"].items()
    )


def differences_table(differences: list[dict]) -> pd.DataFrame:
    """A row for each pair; of each score the difference and the verdict."""
    rows: dict[str, dict[str, str]] = {}
    for difference in differences:
        row = rows.setdefault(f"{difference['one']} - {difference['other']}", {})
        digits = SCORES[difference["score"]].digits if difference["score"] in SCORES else 4
        form = "+.1%" if difference["is_ratio"] else f"+.{digits}f"
        ends = [difference["low"], difference["high"]]
        interval = "" if None in ends else f" [{', '.join(format(end, form) for end in ends)}]"
        row[difference["score"]] = format(difference["mean"], form) + interval
        row[f"{difference['score']} is"] = difference["verdict"]
    return pd.DataFrame({"difference": pair} | row for pair, row in rows.items())


def line_art_table(findings: dict, metrics: dict[str, dict[str, float]]) -> pd.DataFrame:
    """The measures of each evaluation's pictures and of the held-out drawings, and the share of near copies."""
    measures = list(metrics.get("held_out", {}))
    target = {"": "held-out drawings", "line art": "", **_measured(metrics.get("held_out", {}), measures)}
    rows = [target | {"copies": f"{findings['false_alarms']:.0%}" if "false_alarms" in findings else ""}]
    for name, is_line_art in findings["line_art"].items():
        row = {"": name, "line art": "yes" if is_line_art else "no", **_measured(metrics.get(name, {}), measures)}
        rows.append(row | {"copies": f"{findings['copies'][name]:.0%}"})
    return pd.DataFrame(rows)


def _measured(values: dict[str, float], measures: list[str]) -> dict[str, str]:
    return {name: "" if values.get(name) is None else f"{values[name]:.3g}" for name in measures}


def show_winners(findings: dict) -> None:
    """A card for each score that decides: the best, and what it is really better than."""
    titles = {score: title for score, title in titled(findings).items() if score in findings.get("decide", [score])}
    for card, (score, title) in zip(st.columns(len(titles)), titles.items(), strict=True):
        values = {name: by_score[score] for name, by_score in findings["scores"].items() if by_score[score] is not None}
        if not values:
            continue
        best = min if findings["better"][score] == "lower" else max
        name = best(values, key=values.get)
        with card.container(border=True, height="stretch"):
            st.metric(as_markdown(title), as_markdown(name))
            st.text(shown(score, values[name]))
            st.text(standing(name, score, findings["differences"]))


def standing(name: str, score: str, differences: list[dict]) -> str:
    """'better than base; no real difference from blip_plus'."""
    verdicts: dict[str, list[str]] = {}
    for row in differences:
        if row["score"] == score and row["one"] == name:
            verdicts.setdefault(row["verdict"], []).append(row["other"])
        elif row["score"] == score and row["other"] == name:
            verdicts.setdefault(OPPOSITE.get(row["verdict"], row["verdict"]), []).append(row["one"])
    words = {"better": "better than", "worse": "worse than", "no difference": "no real difference from"}
    words[TOO_FEW] = f"{TOO_FEW} from"
    return "; ".join(f"{words[verdict]} {', '.join(others)}" for verdict, others in verdicts.items())


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
