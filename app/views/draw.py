"""Draw from a prompt: a batch of seeds as a contact sheet, favourites, variations, strengths, all that was drawn."""

from pathlib import Path

import streamlit as st

from app.drawing import column_settings, draw_all, seeds_from, show_sheet, strip
from app.favourites import favourites, history, keep_sketch
from app.generate import Settings, adapter_path
from app.newest import best_first, without_common_end
from app.runs import BASE, read_findings, workspace
from app.tryon import Upload
from app.ui import as_markdown, current_params, page_of, show_error
from tattoo_lora.errors import UserError
from tattoo_lora.params import Params, Profile, load_profile

LONGEST_PROMPT = 1000  # characters; the text encoder reads 77 tokens of it
MOST_PICTURES = 24
PAGE = 24  # pictures of the history at once
EACH = "each, side by side"
NOTHING = "nothing"


def trained_variants(params: Params) -> list[str]:
    """The variants that can draw, the one with the best value of the first score that decides first."""
    names = [name for name in params.variants if adapter_path(name).is_file()]
    return sorted(names, key=best_first(read_findings(workspace())))


def take_example(examples: dict[str, str]) -> None:
    if name := st.session_state["example"]:
        st.session_state["prompt"] = examples[name]


def ask(params: Params, profile: Profile, trained: list[str]) -> list[Settings]:
    """The form; what is to be drawn now, nothing if no button was pressed."""
    examples = without_common_end(list(dict.fromkeys([*params.evaluate.prompts, *params.train.prompts])))
    st.session_state.setdefault("prompt", params.evaluate.prompts[0])
    st.pills(
        "Examples",
        list(examples),
        format_func=as_markdown,
        key="example",
        on_change=take_example,
        args=(examples,),
    )
    side, step = profile.resolution, max(8, profile.resolution // 8)
    sizes = list(range(max(8, side // 2), 2 * side + 1, step))
    with st.form("drawing", border=False):
        prompt = st.text_area("Prompt", key="prompt", max_chars=LONGEST_PROMPT, height=80)
        column = st.selectbox("Draw with", [*trained, BASE, *([EACH] if trained else [])])
        strength = st.slider("Strength", 0.0, 1.5, 1.0, 0.05, help="How much the adapter counts.")
        left, right = st.columns(2)
        count = left.number_input("How many", 1, MOST_PICTURES, 8)
        seed = right.number_input("First seed", 0, 2**31 - 1, 7)
        with st.expander("From a sketch"):
            file = st.file_uploader("Sketch, dark on white", type="image")
            change = st.slider("How much of it is drawn anew", 0.1, 1.0, 0.6, 0.05)
        with st.expander("More settings"):
            other = st.selectbox("And with", [NOTHING, *trained], help="A second adapter, added to the first.")
            other_strength = st.slider("Its strength", 0.0, 1.5, 0.5, 0.05)
            negative = st.text_input("What not to draw", max_chars=LONGEST_PROMPT)
            steps = st.slider("Steps", 1, 100, min(profile.sampling.sampler_steps, 100))
            guidance = st.slider("Guidance", 0.0, 20.0, min(profile.sampling.guidance_scale, 20.0), 0.5)
            width = st.select_slider("Width, px", sizes, value=side)
            height = st.select_slider("Height, px", sizes, value=side)
        with st.container(horizontal=True):
            pressed = st.form_submit_button("Draw", type="primary", icon=":material/brush:")
            is_strip = st.form_submit_button("Strip of strengths", icon=":material/tune:")
    if not pressed and not is_strip:
        return []
    if not prompt.strip():
        st.warning("Write a prompt first.")
        return []
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
    if file is not None:
        path, digest = keep_sketch(Upload(file.name, file.getvalue()))
        shared |= {"sketch": path, "sketch_sha256": digest, "change": change}
    columns = [BASE, *trained] if column == EACH else [column]
    second = {} if other == NOTHING else {other: other_strength}
    settings = [column_settings(shared, second | {name: strength}) for name in columns]
    return strip(settings[-1]) if is_strip else [one for each in settings for one in seeds_from(each, count)]


def show_section(section: str, profile: Profile) -> None:
    sheet = [Path(path) for path in st.session_state.get("sheet", []) if Path(path).is_file()]
    marked, drawn = favourites(), history()
    if section == "Favourites" and not marked:
        st.info("There are no favourites yet. Press Keep below a picture; it then stays here and in Print.")
    elif section != "Favourites" and not drawn:
        st.info("Nothing has been drawn yet. Choose an example or write a prompt, and press Draw.")
    elif section == "New":
        show_sheet(workspace(), sheet or drawn[:8], profile, "new")
    else:
        paths, key = marked if section == "Favourites" else drawn, section.lower()
        show_sheet(workspace(), paths[page_of(len(paths), PAGE, key)], profile, key)


st.title("Draw")
params = current_params()
try:
    profile = load_profile(params.profile)
except UserError as error:
    show_error("The profile cannot be used as it is.", error)
    st.stop()
trained = trained_variants(params)
asked, shown = st.columns([1, 2], gap="large")
with asked:
    if not trained:
        st.info("No adapter has been trained yet: only the base model can draw. The place Train makes one.")
    try:
        wanted = ask(params, profile, trained) or st.session_state.pop("wanted", [])
        mistake = None
    except UserError as error:
        wanted, mistake = [], error
with shown:
    section = st.segmented_control(
        "Pictures", ["New", "Favourites", "History"], default="New", key="draw_section", required=True
    )
    try:
        if wanted:
            st.session_state["sheet"] = []
            draw_all(wanted, profile, st.session_state["sheet"])
            st.rerun()
    except UserError as error:
        mistake = error
    if mistake:
        show_error("Not everything was drawn.", mistake)
    show_section(section, profile)
