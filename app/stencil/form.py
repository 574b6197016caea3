"""The dashboard's form for the stencil of a drawn picture, and its files to take away."""

import threading
from pathlib import Path

import streamlit as st

from app import OUT
from app.runs import workspace
from app.stencil.files import write_stencil
from app.stencil.options import LIMITS, STYLES, Options, with_style
from app.stencil.paper import HANDLING_MARGIN_MM, MARGIN_MM, PAPERS, Layout
from app.stencil.sheets import to_pdf
from app.ui import show_error, show_picture, thumbnail
from tattoo_lora.errors import UserError

AS_DRAWN = "as drawn"
LARGE_SIDE = 640  # px
KINDS = {"svg": "image/svg+xml", "pdf": "application/pdf", "png": "image/png"}


@st.cache_resource
def lock() -> threading.Lock:
    """One stencil at a time: those of one picture have the same names, and two visitors' must not mix."""
    return threading.Lock()


def show_stencil(picture: Path) -> None:
    """The form, and the files of the stencil that was made last."""
    asked, shown = st.columns([1, 2], gap="large")
    with asked, st.form("stencil", border=False):
        limits = LIMITS["width_mm"]
        width_mm = st.number_input("Width of the print, mm", limits.low, limits.high, 90)
        page = st.selectbox("Page", list(PAPERS), help="What is larger than the page comes on several.")
        styles = {AS_DRAWN: None} | {f"{name}: {style}": name for name, style in STYLES.items()}
        style = styles[st.selectbox("Lines", list(styles), help="Widths that guides for tattooers give.")]
        limits = LIMITS["close_gaps_mm"]
        close_gaps_mm = st.number_input("Join ends closer than, mm", 0.0, float(limits.high), 0.0, step=0.5)
        mirror = st.checkbox("Mirrored, for transfer paper")
        is_held = st.checkbox(f"Margin of {HANDLING_MARGIN_MM} mm, to hold it by")
        pressed = st.form_submit_button("Make the stencil", type="primary", icon=":material/print:")
    with shown:
        if pressed:
            st.session_state.pop("made", None)
            layout = Layout(page, HANDLING_MARGIN_MM if is_held else MARGIN_MM)
            given = {"width_mm": width_mm, "mirror": mirror, "close_gaps_mm": close_gaps_mm, "style": style}
            try:
                with st.spinner("Tracing"):
                    st.session_state["made"] = make(picture, with_style(given), layout)
            except UserError as error:
                show_error("No stencil can be made of this.", error)
                return
        if made := st.session_state.get("made"):
            show_files(made)
        else:
            show_picture(workspace(), str(picture), "the picture", side=LARGE_SIDE, width=LARGE_SIDE)


def make(picture: Path, options: Options, layout: Layout) -> dict:
    """The stencil's files, written to OUT, by name; the heat map of what will not work, the PDF's pages, the findings.

    They are kept as bytes, so that a stencil that another visitor makes of the same picture changes nothing here.
    """
    with lock():
        made = write_stencil(picture, options, OUT)
        pdf = made.files["svg"].with_suffix(".pdf")
        pages = to_pdf([(picture.stem, made.ink)], pdf, options.width_mm, layout)
        paths = {"svg": made.files["svg"], "pdf": pdf, "png": made.files["png"]}
        files = {kind: (path.name, path.read_bytes()) for kind, path in paths.items()}
        check = made.files["check"].read_bytes() if "check" in made.files else None
    return {"files": files, "check": check, "pages": pages, "said": made.said, "well": made.is_well}


def show_files(made: dict) -> None:
    """The stencil with its warnings on it, and its files to take away."""
    (st.text if made["well"] else st.warning)(made["said"])
    with st.container(horizontal=True):
        for kind, (name, raw) in made["files"].items():
            st.download_button(
                f"Stencil as {kind.upper()}",
                raw,
                name,
                KINDS[kind],
                key=f"stencil {kind}",
                on_click="ignore",
                icon=":material/download:",
            )
    if made["pages"] > 1:
        st.text(f"The PDF has {made['pages']} pages: first a map, which says how the others go together.")
    st.text("Print the PDF at 100% and hold a ruler to the bar on it.")
    picture = thumbnail(made["check"] or made["files"]["png"][1], LARGE_SIDE)
    st.image(picture, width=LARGE_SIDE, alt="the stencil")
