"""Bringing drawings in: files, a zip or a folder become a set, and its contact sheet says what was left out and why."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from app.charts import show_table
from app.drawings import show_data
from app.newest import raw_drawings
from app.runs import workspace
from app.ui import current_params, show_error, show_figure, show_picture
from app.uploads import SETS, Brought, bring_files, bring_folder, last_brought, sets
from tattoo_lora.errors import UserError

NEW = "a new set"
LARGEST_MB = 1000  # of one file, such as a zip of scans


def last_set(names: list[str]) -> str:
    """The set that came in last, if that was after params.yaml was written: that names the one to go on with."""
    times = {name: Path(SETS, name, "brought.json") for name in names}
    times = {name: path.stat().st_mtime for name, path in times.items() if path.is_file()}
    newest = max(times, key=times.get, default="")
    return newest if newest and times[newest] > Path("params.yaml").stat().st_mtime else current_params().dataset


def choose_set() -> str:
    """A select box of the sets; the choice holds for all parts of the place. The page ends where there is none."""
    names = sets()
    if not names:
        st.info("There are no drawings yet: bring some in under Drawings.")
        st.stop()
    if st.session_state.get("set") not in names:
        last = last_set(names)
        st.session_state["set"] = last if last in names else names[0]
    # Streamlit forgets a field that another part does not show, so the choice is kept beside it.
    if st.session_state.get("set_field") not in names:
        st.session_state["set_field"] = st.session_state["set"]
    st.session_state["set"] = st.selectbox("Set of drawings", names, key="set_field", width=320)
    return st.session_state["set"]


def take(bring: Callable[[], Brought]) -> None:
    """Bring in, and show that set from now on."""
    try:
        with st.spinner("Looking at each drawing …"):
            brought = bring()
    except UserError as error:
        show_error("Nothing was brought in.", error)
        return
    st.session_state["set"] = st.session_state["set_field"] = brought.dataset
    st.session_state["uploads"] = st.session_state.get("uploads", 0) + 1  # an empty field for the next ones
    st.rerun()


def go_to(section: str) -> None:
    st.session_state["train_section"] = section


def show_bring() -> None:
    with st.container(border=True):
        number = st.session_state.get("uploads", 0)
        sent = st.file_uploader(
            "Drop drawings here, or a zip of them",
            accept_multiple_files=True,
            max_upload_size=LARGEST_MB,
            key=f"upload {number}",
        )
        left, right = st.columns(2)
        name = left.text_input("Name of the set", placeholder="my-hand", max_chars=60, key=f"name {number}")
        into = right.selectbox("Put them into", [NEW, *sets()])
        if st.button("Bring in", type="primary", icon=":material/upload:", disabled=not sent):
            first = Path(sent[0].name).stem if len(sent) == 1 else "my-drawings"
            take(lambda: bring_files(sent, name.strip() or first, into=None if into == NEW else into))
        with st.expander("Or a folder of this machine"):
            path = st.text_input("The folder's whole path", placeholder="/home/me/flash")
            if st.button("Copy the folder", icon=":material/folder_copy:"):
                take(lambda: bring_folder(path))
    dataset = choose_set()
    if brought := last_brought(dataset):
        show_brought(brought)
    else:
        with st.container(key="sheet_small_raw"):
            for path in raw_drawings(dataset, 16):
                show_picture(workspace(), path, path)
    st.button("Next: captions", on_click=go_to, args=["Captions"], icon=":material/arrow_forward:")
    if dataset == current_params().dataset:
        with st.expander("What the last training made of them"):
            show_data()


def show_brought(brought: Brought) -> None:
    count = len(brought.left_out)
    st.text(f"{brought.drawings} drawings came in, {count or 'nothing'} {'was' if count < 2 else 'were'} left out.")
    if brought.drawings < 3:
        st.warning("Three drawings that differ are needed to train; twenty are a start.")
    if brought.left_out:
        show_table(pd.DataFrame(brought.left_out, columns=["left out", "why"]))
    show_figure(workspace(), brought.sheet, "each drawing as it came and as it is learned from")
