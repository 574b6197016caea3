"""What came in and what became of it: drawings, their three captions, rejects and duplicates."""

import pandas as pd
import streamlit as st

from app.charts import show_table
from app.checks import inside
from app.run_tables import KINDS, read_drawing_rows, search
from app.runs import Run, workspace
from app.ui import current_params, nothing_yet, page_of, show_figure, show_picture

PAGE = 12  # drawings at once


def show_kept(run: Run, dataset: str, kept: pd.DataFrame) -> None:
    """Each drawing beside its captions."""
    for _, row in kept.iloc[page_of(len(kept), PAGE, "kept")].iterrows():
        with st.container(border=True):
            picture, *texts = st.columns([1, 2, 2, 2])
            with picture:
                show_picture(run, inside(f"data/processed/{dataset}/images", row["file"]), row["file"], width=140)
                st.text(row["file"] + (f", held out ({row['split']})" if row["split"] != "train" else ""))
                if row["note"]:
                    st.text(row["note"])
            for column, kind in zip(texts, KINDS, strict=True):
                with column:
                    show_caption(row, kind)


def show_caption(row: pd.Series, kind: str) -> None:
    """One of a drawing's captions, and what was changed in it."""
    st.caption(kind + (" (yours)" if kind == "blip" and row["origin"] == "user" else ""))
    st.text(row[kind] or "no caption yet")
    if kind == "blip_plus" and row["changes"]:
        st.caption("changed")
        st.text(row["changes"])


def show_set_aside(run: Run, dataset: str, rows: pd.DataFrame) -> None:
    """Files that were not taken, each with its reason and, where it is a picture, a look at it."""
    for _, row in rows.iloc[page_of(len(rows), PAGE, "aside")].iterrows():
        with st.container(border=True):
            picture, text = st.columns([1, 6])
            with picture:
                show_picture(run, inside(f"data/raw/{dataset}", row["source"]), row["source"], width=140)
            text.text(f"{row['source']}\n{row['status']}: {row['reason'] or 'no reason given'}")


def show_duplicates(run: Run, dataset: str, rows: pd.DataFrame) -> None:
    """The files of a group side by side, the kept one first."""
    for _, group in rows.sort_values("status", key=lambda status: status != "kept").groupby("group"):
        with st.container(border=True, horizontal=True):
            for _, row in group.iterrows():
                with st.container(width=160):
                    show_picture(run, inside(f"data/raw/{dataset}", row["source"]), row["source"], width=140)
                    st.text(f"{row['source']}\n{row['status']}")


def show_data() -> None:
    dataset, run = current_params().dataset, workspace()
    drawings = read_drawing_rows(run, dataset)
    if drawings.empty:
        nothing_yet("No drawings have been preprocessed yet.")
        return
    counts = drawings["status"].value_counts()
    held_out = (drawings["split"] != "train").sum()
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    st.text(f"{dataset}: {len(drawings)} files, {by_status}; {held_out} held out")

    words = st.text_input("Search in names, captions and reasons", placeholder="owl")
    matches = search(drawings, words)
    kept, aside = matches[matches["status"] == "kept"], matches[matches["status"] != "kept"]
    grouped = matches[matches["group"] != ""]
    groups = grouped["group"].nunique()
    tabs = st.tabs([f"Drawings ({len(kept)})", f"Set aside ({len(aside)})", f"Duplicates ({groups})", "All as a table"])
    with tabs[0]:
        show_kept(run, dataset, kept)
    with tabs[1]:
        if aside.empty:
            st.text("Nothing was set aside.")
        show_set_aside(run, dataset, aside)
    with tabs[2]:
        if grouped.empty:
            st.text("No duplicates.")
        show_duplicates(run, dataset, grouped)
    with tabs[3]:
        show_figure(run, "plots/drawings.png", "What came in and what came out")
        show_table(matches)
