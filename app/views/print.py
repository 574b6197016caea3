"""Print what was kept: as a stencil, on a flash sheet, and first of all on a photo of skin."""

import streamlit as st

from app.print_choice import choices, choose_many, choose_one

STENCIL, FLASH, SKIN = "Stencil", "Flash sheet", "On skin"

st.title("Print")
part = st.segmented_control(
    "Print as",
    [STENCIL, FLASH, SKIN],
    default=STENCIL,
    key="print_section",
    required=True,
    label_visibility="collapsed",
)
paths = choices()
if not paths and part != SKIN:
    st.info("There is nothing to print yet. Draw something first, and press Keep below what is good.")
    if st.button("Draw", type="primary", icon=":material/brush:"):
        st.switch_page("views/draw.py")
elif part == STENCIL:
    picture = choose_one(paths)
    from app.stencil.form import show_stencil  # takes a second, which the pictures need not wait for

    show_stencil(picture)
elif part == FLASH:
    pictures = choose_many(paths)
    from app.flash_form import show_flash

    show_flash(pictures)
else:
    picture = choose_one(paths) if paths else None
    from app.on_skin import show_on_skin

    show_on_skin(picture)
