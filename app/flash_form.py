"""The part of Print that makes a flash sheet of several pictures."""

from pathlib import Path

import streamlit as st

from app.flash import PAGES, make_pages, to_pdf
from app.print_choice import caption
from app.stencil.options import LIMITS
from app.ui import show_error
from tattoo_lora.errors import UserError

PREVIEW_WIDTH = 640  # px
LONGEST_TITLE = 100


def show_flash(pictures: list[Path]) -> None:
    """The form, and the sheet that was made last."""
    asked, shown = st.columns([1, 2], gap="large")
    with asked, st.form("flash", border=False):
        title = st.text_input("Title", "Flash", max_chars=LONGEST_TITLE)
        limits = LIMITS["width_mm"]
        width_mm = st.number_input("Width of each drawing, mm", limits.low, limits.high, 60)
        page = st.selectbox("Page", list(PAGES), index=list(PAGES).index("A4"))
        with st.expander("Captions"):
            captions = [
                st.text_input(f"Caption {number}", caption(path), max_chars=LONGEST_TITLE, key=f"caption {path}")
                for number, path in enumerate(pictures, start=1)
            ]
        pressed = st.form_submit_button("Make the sheet", type="primary", icon=":material/grid_view:")
    with shown:
        if pressed:
            st.session_state.pop("flash_sheet", None)
        if pressed and not pictures:
            st.warning("Tick at least one picture.")
        elif pressed:
            try:
                with st.spinner("Laying it out"):
                    pages = make_pages(pictures, [width_mm] * len(pictures), captions, page, title.strip())
                st.session_state["flash_sheet"] = [small(page) for page in pages], to_pdf(pages, title.strip())
            except UserError as error:
                show_error("No sheet can be made of these.", error)
        if sheet := st.session_state.get("flash_sheet"):
            previews, pdf = sheet
            label, icon = "Flash sheet as PDF", ":material/download:"
            st.download_button(label, pdf, "flash.pdf", "application/pdf", on_click="ignore", icon=icon)
            st.text("Print it at 100%: each drawing then has the size that stands below it.")
            for number, preview in enumerate(previews, start=1):
                st.image(preview, width=PREVIEW_WIDTH, alt=f"page {number} of the sheet")


def small(page):
    """The page as it is shown."""
    page = page.copy()
    page.thumbnail((PREVIEW_WIDTH * 2, PREVIEW_WIDTH * 4))
    return page
