"""What the page Print prints: one or several of the pictures that were kept, or that were drawn last."""

from pathlib import Path

import streamlit as st

from app.drawing import PICTURE_SIDE
from app.favourites import favourites, history, settings_in
from app.runs import workspace
from app.ui import show_picture

SHOWN = 24  # pictures to choose from, the newest
LONGEST_CAPTION = 60


def choices() -> list[Path]:
    """The favourites or, where there are none, what was drawn last."""
    if marked := favourites():
        return marked[:SHOWN]
    if drawn := history()[:SHOWN]:
        st.text("Nothing is kept yet, so these are the pictures that were drawn last. Keep the good ones in Draw.")
    return drawn


def choose_one(paths: list[Path]) -> Path:
    """The picture that was pressed last, the first at the beginning."""
    chosen = st.session_state.get("printed")
    chosen = chosen if chosen in paths else paths[0]
    with st.container(key="sheet_small_one"):
        for path in paths:
            with st.container():
                show_picture(workspace(), str(path), path.stem, side=PICTURE_SIDE)
                label = "● Chosen" if path == chosen else "○ Choose"
                st.button(label, key=f"choose {path}", type="tertiary", on_click=choose, args=(path,))
    return chosen


def choose(path: Path) -> None:
    st.session_state["printed"] = path
    st.session_state.pop("made", None)  # the stencil of another picture


def choose_many(paths: list[Path]) -> list[Path]:
    """The pictures whose boxes are ticked, at the beginning all."""
    chosen = []
    with st.container(key="sheet_small_many"):
        for path in paths:
            with st.container():
                show_picture(workspace(), str(path), path.stem, side=PICTURE_SIDE)
                if st.checkbox("On the sheet", value=True, key=f"on the sheet {path}"):
                    chosen.append(path)
    return chosen


def caption(path: Path) -> str:
    """The prompt up to its first comma, as a caption: 'A wolf'; the file's name where there is no prompt."""
    settings = settings_in(path)
    words = settings.prompt.partition(",")[0].strip() if settings else ""
    return (words[:1].upper() + words[1:])[:LONGEST_CAPTION] or path.stem
