"""The part of Print that tries a drawing on a photo of skin: the scale from a coin, then place, size, turn and bend."""

from pathlib import Path

import streamlit as st
from PIL import Image

from app.tryon import (
    BENDS,
    INKS,
    LIMITS,
    SCALES,
    Placement,
    Upload,
    jpeg,
    mark_ends,
    px_per_mm,
    read_upright,
    small,
    try_on,
)
from app.ui import click_picture, show_error
from tattoo_lora.errors import UserError

SIDE = 1400  # px of the photo as it is shown
RULER = "something else"
AT, FIRST, SECOND = "the drawing", "the scale's first end", "its second end"
NEXT = {FIRST: SECOND, SECOND: AT, AT: AT}  # what the click after this one sets


def uploaded(label: str) -> Upload | None:
    file = st.file_uploader(label, type="image")
    return None if file is None else Upload(file.name, file.getvalue())


def ask_mm(label: str, name: str, value: float, step: float) -> float:
    return st.number_input(label, float(LIMITS[name].low), float(LIMITS[name].high), value, step, format="%.1f")


def ask_placement(at: tuple[float, float]) -> Placement:
    width = ask_mm("Width of the drawing, mm", "width_mm", 80.0, 5.0)
    rotate = st.slider("Turn, degrees", -180, 180, 0)
    ink = st.segmented_control("Ink", list(INKS), default=Placement.ink, required=True)
    bend = st.segmented_control("Bend", list(BENDS), default=Placement.bend, required=True)
    girth, axis = Placement.girth_mm, Placement.axis
    if bend != Placement.bend:
        girth = ask_mm("Around the limb, mm", "girth_mm", girth, 10.0)
        axis = st.slider("The limb's direction: 0 is level, 90 upright", 0, 180, round(axis))
    return Placement(width, at, rotate, bend, girth, axis, ink)


def ask_scale() -> float:
    """How many millimetres the two ends of the scale are apart."""
    thing = st.selectbox("What lies on the skin", [*SCALES, RULER])
    return SCALES.get(thing) or ask_mm("Length between its ends, mm", "scale_mm", 50.0, 1.0)


def read_once(upload: Upload) -> Image.Image:
    """The photo, read again only if it is another one; it stays in this visitor's session and ends with it."""
    if st.session_state.get("photo_of") != upload:
        st.session_state["photo"], st.session_state["points"] = read_upright(upload, "photo"), {}
        st.session_state["photo_of"], st.session_state["sets"] = upload, FIRST
    return st.session_state["photo"]


def take_click() -> None:
    """The point that was clicked or moved, in px of the photo, for what is set now; the next click sets the next."""
    point = st.session_state["photo_clicked"].point
    photo, sets = st.session_state["photo"], st.session_state["sets"]
    x, y = point["at"]
    st.session_state["points"][sets] = (x * (photo.width - 1), y * (photo.height - 1))
    if not point["moved"]:
        st.session_state["sets"] = NEXT[sets]


def show(picture: Image.Image, photo: Image.Image, placement: Placement, mm: float) -> None:
    """The photo with the drawing on it, once its scale is set, and with the scale's ends."""
    points = st.session_state["points"]
    ends = [points[name] for name in (FIRST, SECOND) if name in points]
    scale = px_per_mm((*ends[0], *ends[1]), mm) if len(ends) == 2 else None
    view, placed, view_scale = small(photo, placement, scale or 1.0, SIDE)
    if scale:
        view = try_on(picture, view, placed, view_scale)
    mark_ends(view, [(x * view.width / photo.width, y * view.height / photo.height) for x, y in ends])
    if scale is None:
        st.info("Click on the two ends of what lies on the skin; then the drawing appears at its size.")
    sets = st.segmented_control("A click on the photo sets", list(NEXT), key="sets", required=True)
    x, y = points.get(sets, placement.at)
    alt = "the drawing on the skin" if scale else "the photo"
    click_picture(view, alt, (x / (photo.width - 1), y / (photo.height - 1)), take_click, key="photo_clicked")
    if scale is None:
        return
    st.download_button(
        "JPEG at full size",
        lambda: jpeg(try_on(picture, photo, placement, scale)),
        "tryon.jpg",
        "image/jpeg",
        on_click="ignore",
        icon=":material/download:",
    )


def show_on_skin(drawn: Path | None) -> None:
    """The form, and the photo with the drawing that was chosen, or with one that the visitor sends."""
    st.text(
        "Take the photo from straight above, with a coin, a bank card or a ruler on the skin. It stays in this "
        "session's memory, on this machine, and is not kept."
    )
    asked, shown = st.columns([1, 2], gap="large")
    with asked:
        own = uploaded("Or a drawing of yours, dark on white" if drawn else "Drawing, dark on white")
        chosen, photo_file = own or drawn, uploaded("Photo of skin")
    if chosen is None or photo_file is None:
        return
    try:
        with asked:
            picture, photo = read_upright(chosen, "picture", turn_white_ink=True), read_once(photo_file)
            mm = ask_scale()
            at = st.session_state["points"].get(AT, (photo.width / 2, photo.height / 2))
            placement = ask_placement(at)
        with shown:
            show(picture, photo, placement, mm)
    except UserError as error:
        show_error("The drawing cannot be shown on the photo.", error)
