"""The captions of a set beside its drawings, to be changed in place; each is saved as its field is left."""

from pathlib import Path

import streamlit as st

from app.runs import workspace
from app.training import read_trigger, save_trigger
from app.ui import as_markdown, current_params, page_of, show_error, show_picture
from app.user_captions import Row, matching, read_rows, replaced, save_caption
from app.views.bring import choose_set, go_to
from tattoo_lora.errors import UserError

PAGE = 24  # drawings at once
SIDE = 240  # px


def save(row: Row, key: str) -> None:
    """What was typed, as the drawing's caption; an error is shown by the next run of the page."""
    try:
        save_caption(row, st.session_state[key])
    except UserError as error:
        st.session_state["caption error"] = error


def show_captions() -> None:
    dataset = choose_set()
    if error := st.session_state.pop("caption error", None):
        show_error("This caption was not saved.", error)
    try:
        rows = read_rows(Path(), dataset)
    except UserError as error:
        show_error("The set cannot be read.", error)
        return
    if not rows:
        st.info("There are no drawings in this set: bring some in under Drawings.")
        return
    own = sum(bool(row.own) for row in rows)
    st.text(f"{len(rows)} drawings, {own} with your own caption. A model captions the others as the training begins.")
    st.text("Each line is a caption of its own; of several, the training draws one each time it sees the drawing.")
    with st.container(horizontal=True):
        ask_trigger(dataset)
        words = st.text_input("Search", placeholder="owl", width=240)
    with st.expander("Find and replace"):
        ask_replacement(rows)
    shown = matching(rows, words)
    page, run = page_of(len(shown), PAGE, f"{dataset} {words}"), workspace()
    with st.container(key="sheet_large_captions"):
        for row in shown[page]:
            with st.container():
                show_picture(run, row.path.as_posix(), row.source, side=SIDE)
                st.text(row.source)
                # With another caption it is another field, so that a replacement shows.
                key = f"{dataset} {row.source} {row.own}"
                st.text_area(
                    as_markdown(row.source),
                    row.own,
                    height=80,
                    label_visibility="collapsed",
                    key=key,
                    placeholder=row.machine or "no caption yet",
                    on_change=save,
                    args=(row, key),
                )
    st.button("Next: train", on_click=go_to, args=["Train"], icon=":material/arrow_forward:")


def ask_trigger(dataset: str) -> None:
    """A field for the set's trigger word."""
    before = read_trigger(Path(), dataset) or next(
        (variant.trigger for variant in current_params().variants.values() if dataset == current_params().dataset), ""
    )
    trigger = st.text_input(
        "Trigger word",
        before,
        placeholder="none",
        help="Put before every caption in training; in a prompt it calls the style.",
        key=f"trigger {dataset}",
        width=240,
    )
    if trigger != before:
        try:
            save_trigger(Path(), dataset, trigger)
        except UserError as error:
            show_error("The trigger word was not saved.", error)


def ask_replacement(rows: list[Row]) -> None:
    """Fields for the words, and a button that says how many captions change."""
    with st.container(horizontal=True):
        words = st.text_input("Find", width=240)
        others = st.text_input("Replace with", width=240)
    with_machine = st.checkbox("In the model's captions too; those that change become yours")
    if st.button("Replace in all drawings of the set", icon=":material/find_replace:"):
        try:
            changes = replaced(rows, words, others, with_machine)
            for row, caption in changes.items():
                save_caption(row, caption)
        except UserError as error:
            show_error("Nothing was replaced.", error)
            return
        st.toast(f"{len(changes)} captions changed")
        st.rerun()
