"""Draw from a prompt with the base model and the variants, side by side, and take the pictures away."""

from pathlib import Path

import streamlit as st

from app import OUT
from app.generate import Settings, Studio, adapter_path, adapter_sha256, save
from app.runs import BASE, Run, workspace
from app.ui import current_params, show_error, show_picture
from tattoo_lora.errors import UserError
from tattoo_lora.params import Params, Profile, load_profile

LONGEST_PROMPT = 1000  # characters; the text encoder reads 77 tokens of it


@st.cache_resource
def studio() -> Studio:
    """One studio for all visitors: the model is loaded once, when the first of them draws."""
    return Studio()


def ask(params: Params, profile: Profile) -> tuple[list[str], dict, bool]:
    """The form: columns to draw, what they share of their settings and the strength, and whether to draw now."""
    trained = [name for name in params.variants if adapter_path(name).is_file()]
    side, step = profile.resolution, max(8, profile.resolution // 8)
    sizes = list(range(max(8, side // 2), 2 * side + 1, step))
    with st.form("drawing"):
        prompt = st.text_area("Prompt", params.evaluate.prompts[0], max_chars=LONGEST_PROMPT, height=80)
        negative = st.text_input("Negative prompt: what not to draw", max_chars=LONGEST_PROMPT)
        columns = st.multiselect("Draw with", [BASE, *trained], default=[BASE, *trained])
        left, middle, right = st.columns(3)
        strength = left.slider("LoRA strength", 0.0, 1.5, 1.0, 0.05)
        seed = left.number_input("Seed", 0, 2**31 - 1, 7)
        steps = middle.slider("Steps", 1, 100, min(profile.sampling.sampler_steps, 100))
        guidance = middle.slider("Guidance", 0.0, 20.0, min(profile.sampling.guidance_scale, 20.0), 0.5)
        width = right.select_slider("Width, px", sizes, value=side)
        height = right.select_slider("Height, px", sizes, value=side)
        pressed = st.form_submit_button("Draw", type="primary", icon=":material/brush:")
    if not trained:
        st.text("No adapter has been trained yet: only the base model can draw.")
    shared = {
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance,
        "width": width,
        "height": height,
        "base_model": profile.base.id,
        "base_vae": profile.base.vae,
        "base_revision": profile.base.revision,
        "dtype": profile.inference.dtype,
    }
    return columns, shared | {"strength": strength}, pressed


def column_settings(column: str, shared: dict) -> Settings:
    """UserError where the variant's adapter is no longer there."""
    if column == BASE:
        return Settings(**shared | {"lora": None, "lora_sha256": None, "strength": 1.0})
    path = adapter_path(column)
    return Settings(**shared, lora=str(path), lora_sha256=adapter_sha256(path))


def draw(columns: list[str], shared: dict, profile: Profile) -> dict[str, str]:
    """The path of each column's picture, written to OUT; waits while another visitor draws."""
    with st.status("Drawing", expanded=True) as status:
        if studio().lock.locked():
            st.text("Another visitor's pictures are being drawn; yours are next.")
        with studio().lock:
            if studio().base is None:
                st.text("Loading the model, this once.")
            paths = {}
            for number, column in enumerate(columns, start=1):
                st.text(f"{column}: picture {number} of {len(columns)}")
                settings = column_settings(column, shared)
                paths[column] = str(save(studio().draw(settings, profile), settings, OUT))
        status.update(label="Drawn", state="complete", expanded=False)
    return paths


def show_drawn(run: Run, drawn: dict[str, str]) -> None:
    for place, (column, path) in zip(st.columns(len(drawn)), drawn.items(), strict=True):
        with place:
            st.text(column)
            show_picture(run, path, f"drawn with {column}", side=512)
            raw = run.read(path)
            if raw is not None:
                name = Path(path).name.replace(".png", f"_{column}.png")
                st.download_button(
                    "PNG", raw, name, "image/png", key=f"png {column}", on_click="ignore", icon=":material/download:"
                )
    st.markdown("Each PNG holds its settings; `python -m app.generate --again FILE` draws it again to the byte.")


st.title("Draw")
params, run = current_params(), workspace()
try:
    profile = load_profile(params.profile)
    columns, shared, pressed = ask(params, profile)
    if pressed and not shared["prompt"]:
        st.warning("Write a prompt first.")
    elif pressed and not columns:
        st.warning("Choose what to draw with.")
    elif pressed:
        st.session_state["drawn"] = draw(columns, shared, profile)
        st.session_state.pop("made", None)
except UserError as error:
    show_error("Nothing was drawn.", error)
if drawn := st.session_state.get("drawn"):
    from app.stencil.form import show_stencil  # takes a second, which the page need not wait for

    show_drawn(run, drawn)
    show_stencil(run, drawn)
