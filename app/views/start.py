"""The first screen: the newest pictures side by side, the verdict in a sentence, what to do next."""

import streamlit as st

from app.newest import newest_pictures, raw_drawings, without_common_end
from app.runs import Run, read_findings, trained_variants, workspace
from app.stage_list import show_job, show_stages
from app.ui import LIVE, as_markdown, say_other_dataset, show_picture

SIDE = 420  # px
MINIATURE = 128  # px: pictures up to this side come from a model for trying things out
NEXT = {  # what to do, where that is, and which part of it is shown
    "Bring your drawings": ("views/train.py", {"train_section": "Drawings"}, ":material/upload:"),
    "Draw": ("views/draw.py", {}, ":material/brush:"),
    "Print": ("views/print.py", {}, ":material/print:"),
}


def show_next(first: str) -> None:
    """A button for each next step; the one that stands first in line is coloured."""
    with st.container(horizontal=True, key="next"):
        for label, (page, section, icon) in NEXT.items():
            kind = "primary" if label == first else "secondary"
            if st.button(label, type=kind, icon=icon, key=f"next {label}", width="stretch"):
                st.session_state.update(section)
                st.switch_page(page)


@st.fragment(run_every=LIVE * 5)
def show_newest() -> None:
    run = workspace()
    newest = newest_pictures(run)
    if newest is None:
        show_welcome(run)
        return
    findings = read_findings(run)
    with st.container(key="verdict"):
        st.text(findings["headline"] if findings else "No verdict yet: nothing has been compared.")
    say_other_dataset(run, "report")
    prompts = without_common_end(list(newest.pictures))
    names = list(prompts)
    if len(names) > 1:
        label = f"Pictures {newest.when}"
        name = st.pills(label, names, default=names[0], required=True, format_func=as_markdown, key=f"{names}")
    else:
        name = names[0]
    pictures = newest.pictures[prompts[name]]
    with st.container(key="sheet_large" if len(pictures) <= 5 else "sheet_many"):
        for drawn_by, path in pictures.items():
            with st.container():
                show_picture(run, path, f"{drawn_by}: {prompts[name]}", side=SIDE)
                st.text(drawn_by)


def show_welcome(run: Run) -> None:
    """What is here before anything has run: the drawings, and what will become of them."""
    dataset = str(run.params.get("dataset", ""))
    with st.container(key="verdict"):
        st.text("Bring line drawings of one hand; a small model learns to draw like it, and you print what it draws.")
    if drawings := raw_drawings(dataset, 8):
        st.text(f"These drawings are here, in data/raw/{dataset}. Train on them as a first try, or bring your own.")
        with st.container(key="sheet_small"):
            for path in drawings:
                show_picture(run, path, path, side=SIDE)


run = workspace()
with st.container(key="page"):
    st.title("Tattoo LoRA")
    show_job()
    show_newest()
    show_next("Draw" if trained_variants(run) else "Bring your drawings")
    with st.container(horizontal=True):
        st.page_link("views/compare.py", label="Why: scores and intervals", icon=":material/query_stats:")
        st.page_link("views/train.py", label="Train", icon=":material/model_training:")
    show_stages()
    if any(key.endswith("resolution") and value <= MINIATURE for key, value in run.params.items()):
        st.caption(
            "The model that comes with the project is a miniature for trying things out, so its pictures are small and "
            "simple; with the profile sd15 and a graphics card they are 512 px wide."
        )
