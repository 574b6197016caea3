"""From drawings to adapters: bring them in, caption them, train."""

import shlex
from pathlib import Path

import streamlit as st

from app.own_folder import named_drawings
from app.training import PRESETS, Choice, arguments, plan_choice, read_trigger, said_plan
from app.ui import as_markdown, current_params, show_error
from app.views.bring import choose_set, show_bring
from app.views.captions import show_captions
from app.views.progress import begin, show_jobs
from tattoo_lora.errors import UserError
from tattoo_lora.params import Params, Profile, load_profile

RANKS = [2, 4, 8, 16, 32, 64]


def ask(params: Params, profile_name: str, profile: Profile, dataset: str) -> Choice:
    """The preset, and the knobs, which begin as it says."""
    preset = st.segmented_control("How long", list(PRESETS), default="Quick look", required=True)
    with st.expander("Knobs"):
        left, right = st.columns(2)
        epochs = left.number_input("Times through the drawings", 1, 10_000, PRESETS[preset], key=f"epochs {preset}")
        steps = right.number_input(
            "Steps at most; empty: no limit", 1, 1_000_000, profile.train.steps, key=f"steps {profile_name}"
        )
        nearest = min(RANKS, key=lambda rank: abs(rank - params.train.rank))
        rank = left.select_slider("Rank: how much it can learn", RANKS, nearest)
        rate = right.number_input(
            "Learning rate",
            1e-6,
            1e-1,
            profile.train.learning_rate,
            format="%.1e",
            key=f"rate {profile_name}",
        )
    trigger = read_trigger(Path(), dataset)
    return Choice(dataset, profile_name, epochs, steps, rank, rate, trigger)


def show_train() -> None:
    show_jobs()
    if error := st.session_state.pop("start error", None):
        show_error("The training was not started.", error)
    params = current_params()
    with st.container(horizontal=True):
        dataset = choose_set()
        profiles = sorted(path.stem for path in Path("profiles").glob("*.yaml"))
        name = st.selectbox(
            "Model",
            profiles,
            index=profiles.index(params.profile),
            format_func=as_markdown,
            help="embedded: the miniature that comes with the project; sd15: Stable Diffusion 1.5, on a graphics card",
            width=320,
        )
    try:
        profile = load_profile(name)
        choice = ask(params, name, profile, dataset)
        _, drawings = named_drawings(Path("data/raw", dataset))
        plan, seconds = plan_choice(choice, params, profile, drawings)
    except UserError as error:
        show_error("This cannot be trained.", error)
        return
    with st.container(horizontal=True):
        for label, value in said_plan(plan, len(params.variants), seconds).items():
            with st.container(width=170):
                st.caption(label)
                st.text(value)
    given = arguments(choice, params, profile)
    st.button(
        "Start training",
        type="primary",
        icon=":material/play_arrow:",
        on_click=begin,
        args=[given],
        disabled=drawings < 3,
    )
    st.caption("The same in a terminal:")
    st.code(shlex.join(["python", "main.py", *given]), language="bash", wrap_lines=True)


SECTIONS = {"Drawings": show_bring, "Captions": show_captions, "Train": show_train}

st.title("Train")
section = st.segmented_control(
    "Section", list(SECTIONS), default="Train", key="train_section", required=True, label_visibility="collapsed"
)
SECTIONS[section]()
