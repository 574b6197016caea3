"""What the page Draw does: settings from its form, variations, strips of strengths, drawing, contact sheets."""

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlit as st

from app import OUT
from app.favourites import is_favourite, mark, settings_in, unmark
from app.generate import (
    STRENGTHS,
    Settings,
    Studio,
    adapter_path,
    check_unchanged,
    chosen_adapter,
    read_settings,
    save,
    with_strength,
)
from app.runs import BASE, Run, workspace
from app.sketch import sketch_sha256
from app.ui import show_error, show_picture
from tattoo_lora.errors import UserError
from tattoo_lora.params import Profile

NEAR = {"very near": 0.3, "near": 0.5, "less near": 0.7}  # how much of a picture is drawn anew for another like it
VARIATIONS = 8
PICTURE_SIDE, LARGE_SIDE = 320, 640  # px
SHOWN = {  # settings as they are said to a person
    "prompt": "Prompt",
    "negative_prompt": "Not to draw",
    "adapters": "Drawn with",
    "strength": "Strength",
    "seed": "Seed",
    "steps": "Steps",
    "guidance_scale": "Guidance",
    "sketch": "Drawn over",
    "change": "Drawn anew",
}


@st.cache_resource
def studio() -> Studio:
    """One studio for all visitors: the model is loaded once, when the first of them draws."""
    return Studio()


def column_settings(shared: dict, columns: dict[str, float]) -> Settings:
    """The settings of one variant, or of several at their strengths; the base model is none of them.

    UserError where a variant's adapter is no longer there.
    """
    adapters = (chosen_adapter(adapter_path(name), strength) for name, strength in columns.items() if name != BASE)
    return Settings(**shared, adapters=tuple(adapters))


def seeds_from(settings: Settings, count: int) -> list[Settings]:
    """The same picture with so many seeds, from the settings' own on."""
    return [replace(settings, seed=settings.seed + i) for i in range(count)]


def variations(picture: Path, change: float) -> list[Settings]:
    """Other seeds near a picture: it is drawn over, from the seeds after its own."""
    settings = read_settings(picture)
    over = {"sketch": str(picture), "sketch_sha256": sketch_sha256(picture), "change": change}
    return seeds_from(replace(settings, seed=settings.seed + 1, **over), VARIATIONS)


def strip(settings: Settings) -> list[Settings]:
    """The same picture with its adapters at each of STRENGTHS, the strongest of them so strong and the others in
    proportion; UserError where only the base model draws.
    """
    if not settings.adapters:
        raise UserError("the base model alone has no strength; draw with a variant")
    strongest = max(abs(adapter.strength) for adapter in settings.adapters) or 1
    return [with_strength(settings, strength / strongest) for strength in STRENGTHS]


def labels(many: list[Settings | None]) -> list[str]:
    """What tells the pictures of a sheet apart: the settings that differ between them; the seed of a single one."""
    said = [said_settings(settings) for settings in many if settings is not None]
    differ = [name for name in SHOWN.values() if len({one.get(name) for one in said}) > 1] or [SHOWN["seed"]]
    texts = []
    for settings in many:
        one = {} if settings is None else said_settings(settings)
        texts.append(", ".join(f"{name.lower()} {one[name]}" for name in differ if name in one))
    return texts


def said_settings(settings: Settings) -> dict[str, str]:
    """The settings that count, by the names that a person knows; what is not used is left out."""
    values = asdict(settings)
    values["adapters"] = " + ".join(adapter_name(adapter.path) for adapter in settings.adapters) or BASE
    values["strength"] = " + ".join(f"{adapter.strength:g}" for adapter in settings.adapters)
    unused = {"negative_prompt": not settings.negative_prompt, "strength": not settings.adapters}
    unused |= {"sketch": settings.sketch is None, "change": settings.sketch is None}
    said = {SHOWN[name]: f"{values[name]}" for name in SHOWN if not unused.get(name)}
    return said | {"Size": f"{settings.width} × {settings.height} px"}


def adapter_name(path: str) -> str:
    """A variant's name, or the file's."""
    return Path(path).parent.name if path == str(adapter_path(Path(path).parent.name)) else Path(path).name


def draw_all(wanted: list[Settings], profile: Profile, paths: list[str]) -> None:
    """Draw into OUT and add each path to `paths`, kept and shown at once; waits while another visitor draws."""
    bar = st.progress(0.0, "Another visitor's pictures are being drawn; yours are next.")
    with studio().lock, st.container(key="sheet_drawing"):
        for number, settings in enumerate(wanted, start=1):
            loading = ", after the model is loaded, this once" if studio().base is None else ""
            bar.progress((number - 1) / len(wanted), f"Drawing picture {number} of {len(wanted)}{loading}")
            paths.append(str(save(studio().draw(settings, profile), settings, OUT)))
            show_picture(workspace(), paths[-1], f"picture {number}", side=PICTURE_SIDE)
    bar.empty()


def is_same_again(picture: Path, profile: Profile) -> bool:
    """Draw the picture once more from its settings: are they the same bytes? UserError if its adapter is another."""
    settings = read_settings(picture)
    check_unchanged(settings, picture)
    with studio().lock:
        image = studio().draw(settings, profile)
    with TemporaryDirectory() as folder:  # of this visitor alone
        return save(image, settings, Path(folder)).read_bytes() == picture.read_bytes()


def star(picture: Path) -> None:
    """Mark the picture, or no longer."""
    try:
        (unmark if is_favourite(picture) else mark)(picture)
    except OSError as error:
        st.toast(f"It cannot be kept ({error.strerror}).")


@st.fragment
def show_sheet(run: Run, paths: list[Path], profile: Profile, key: str) -> None:
    """Pictures beside each other, each with its star and a button that opens it."""
    with st.container(key=f"sheet_{key}"):
        for path, label in zip(paths, labels([settings_in(path) for path in paths]), strict=True):
            with st.container():
                show_picture(run, str(path), label, side=PICTURE_SIDE)
                st.text(label)
                with st.container(horizontal=True, gap="xsmall"):
                    show_star(path, key)
                    if st.button("More", key=f"open {key} {path}", type="tertiary"):
                        show_large(run, path, profile)


def show_star(path: Path, key: str) -> None:
    try:
        label = "★ Kept" if is_favourite(path) else "☆ Keep"
    except OSError:  # just deleted
        return
    st.button(label, key=f"star {key} {path}", type="tertiary", on_click=star, args=(path,))


@st.dialog("Picture", width="large")
def show_large(run: Run, path: Path, profile: Profile) -> None:
    """The picture with all of its settings, and what can be made of it."""
    settings, raw = settings_in(path), run.read(str(path))
    if settings is None or raw is None:
        st.text("The picture is gone.")
        return
    picture, about = st.columns(2)
    with picture:
        show_picture(run, str(path), "the picture", side=LARGE_SIDE)
        st.download_button("PNG", raw, path.name, "image/png", on_click="ignore", icon=":material/download:")
    with about:
        st.text("\n".join(f"{name}: {value}" for name, value in said_settings(settings).items()))
        try:
            show_actions(path, settings, profile)
        except UserError as error:
            show_error("This cannot be done.", error)


def show_actions(path: Path, settings: Settings, profile: Profile) -> None:
    near = st.segmented_control("Other pictures", list(NEAR), default="near", required=True)
    if st.button(f"Draw {VARIATIONS} like it", icon=":material/auto_awesome_mosaic:", width="stretch"):
        draw_next(variations(path, NEAR[near]))
    if settings.adapters and st.button("Strip of strengths", icon=":material/tune:", width="stretch"):
        check_unchanged(settings, path)
        draw_next(strip(settings))
    if st.button("Draw it again to the byte", icon=":material/replay:", width="stretch"):
        with st.spinner("Drawing it again"):
            same = is_same_again(path, profile)
        st.text("The same bytes." if same else "Other bytes: another machine or another version drew it.")


def draw_next(wanted: list[Settings]) -> None:
    """Close the dialog and let the page draw these."""
    st.session_state["wanted"] = wanted
    st.session_state["draw_section"] = "New"
    st.rerun()
