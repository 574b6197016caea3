"""The dashboard's form for the stencil of a drawn picture, and its files to take away."""

from pathlib import Path

import streamlit as st

from app import OUT
from app.runs import Run
from app.stencil.files import write_stencil
from app.stencil.options import LIMITS, STYLES, Options, with_style
from app.stencil.paper import HANDLING_MARGIN_MM, MARGIN_MM, PAPERS, Layout
from app.stencil.sheets import to_pdf
from app.ui import show_error, show_picture
from tattoo_lora.errors import UserError

AS_DRAWN = "as drawn"
KINDS = {"svg": "image/svg+xml", "pdf": "application/pdf", "png": "image/png"}


def show_stencil(run: Run, drawn: dict[str, str]) -> None:
    """The form, and the files of the stencil that was made last."""
    st.subheader("Stencil")
    with st.form("stencil"):
        picture, width, paper, more = st.columns(4)
        column = picture.selectbox("Picture", list(drawn), index=len(drawn) - 1)
        limits = LIMITS["width_mm"]
        width_mm = width.number_input("Width of the print, mm", limits.low, limits.high, 90)
        page = paper.selectbox("Page", list(PAPERS), help="What is larger than the page comes on several.")
        mirror = more.checkbox("Mirrored, for transfer paper")
        is_held = more.checkbox(f"Margin of {HANDLING_MARGIN_MM} mm, to hold it by")
        lines, join, _, _ = st.columns(4)
        styles = {AS_DRAWN: None} | {f"{name}: {style}": name for name, style in STYLES.items()}
        style = styles[lines.selectbox("Lines", list(styles), help="Widths that guides for tattooers give.")]
        limits = LIMITS["close_gaps_mm"]
        close_gaps_mm = join.number_input("Join ends closer than, mm", 0.0, float(limits.high), 0.0, step=0.5)
        pressed = st.form_submit_button("Make the stencil", icon=":material/print:")
    if pressed:
        layout = Layout(page, HANDLING_MARGIN_MM if is_held else MARGIN_MM)
        given = {"width_mm": width_mm, "mirror": mirror, "close_gaps_mm": close_gaps_mm, "style": style}
        try:
            with st.spinner("Tracing"):
                st.session_state["made"] = make(Path(drawn[column]), with_style(given), layout)
        except UserError as error:
            show_error("No stencil can be made of this.", error)
            return
    if made := st.session_state.get("made"):
        show_files(run, made)


def make(picture: Path, options: Options, layout: Layout) -> dict:
    """The stencil's files in OUT by kind, the heat map of what will not work, the PDF's pages, and what was found."""
    made = write_stencil(picture, options, OUT)
    pdf = made.files["svg"].with_suffix(".pdf")
    pages = to_pdf([(picture.stem, made.ink)], pdf, options.width_mm, layout)
    files = {"svg": made.files["svg"], "pdf": pdf, "png": made.files["png"]}
    return {"files": files, "check": made.files.get("check"), "pages": pages, "said": made.said, "well": made.is_well}


def show_files(run: Run, made: dict) -> None:
    picture, files = st.columns([1, 2])
    with picture:
        show_picture(run, str(made["check"] or made["files"]["png"]), "the stencil", side=512)
    with files:
        (st.text if made["well"] else st.warning)(made["said"])
        for kind, path in made["files"].items():
            raw = run.read(str(path))
            if raw is not None:
                st.download_button(
                    f"Stencil as {kind.upper()}",
                    raw,
                    path.name,
                    KINDS[kind],
                    key=f"stencil {kind}",
                    on_click="ignore",
                    icon=":material/download:",
                )
        if made["pages"] > 1:
            st.text(f"The PDF has {made['pages']} pages: first a map, which says how the others go together.")
        st.text("Print the PDF at 100% and hold a ruler to the bar on it.")
