"""What the dashboard's pages share: slow work in the background, texts shown as texts, pictures.

Names, captions and prompts come from files and from visitors. They go through st.text, tables and options of select
boxes, which show them as they are: in Markdown they could become pictures, links or HTML.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Hashable
from functools import lru_cache
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from app.checks import git
from app.runs import Run, StageState, being_written, other_datasets, show_experiments, states, workspace
from tattoo_lora.errors import UserError
from tattoo_lora.params import Params, load_params

SIDE = 320  # px of a picture in a grid
LIVE = 3  # seconds between looks at files that a run may be writing
LONGEST_LOOK = 300  # seconds; the first look at thousands of new drawings hashes them all
OLD = 30  # seconds after which DVC is asked again even if nothing seems to have changed


class Background:
    """Work that takes seconds, done in a thread for all visitors: pages show the last result at once."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.look, self.result, self.mark, self.since = look, None, None, 0.0
        self.lock, self.thread = threading.Lock(), None

    def latest(self, mark: Hashable, wait: float = 0) -> Any:
        """The last result, None before the first; works again if `mark` changed or the result is old.

        With `wait`, waits up to so many seconds for work that is under way.
        """
        with self.lock:
            idle = self.thread is None or not self.thread.is_alive()
            if idle and (mark != self.mark or time.monotonic() - self.since > OLD):
                self.mark = mark
                self.thread = threading.Thread(target=self._look, daemon=True)
                self.thread.start()
            thread = self.thread
        if wait and thread is not None:
            thread.join(wait)
        return self.result

    def _look(self) -> None:
        self.result = self.look()
        self.since = time.monotonic()


@st.cache_resource
def backgrounds(root: Path) -> tuple[Background, Background]:
    return Background(changed_stages), Background(show_experiments)


def changed_stages() -> list[dict] | None:
    """What app.stage_states prints, None where dvc.yaml or params.yaml cannot be read now."""
    command = [sys.executable, "-m", "app.stage_states"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_LOOK)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(run.stdout) if run.returncode == 0 else None


def stamp(*patterns: str) -> Hashable:
    """Changes when one of the files does."""
    paths = [path for pattern in patterns for path in sorted(glob(pattern, recursive=True))]
    times = []
    for path in paths:
        try:
            times.append((path, os.stat(path).st_mtime_ns))
        except OSError:
            continue
    return tuple(times)


def stage_states() -> list[StageState] | None:
    """Each stage's state; None until the first look has ended."""
    written = being_written()
    watched = stamp("dvc.*", "params.yaml", "profiles/*.yaml", "stages/**/*.py", "tattoo_lora/**/*.py", "data/raw/*")
    stages, _ = backgrounds(Path.cwd())
    latest = stages.latest((watched, frozenset(written)))
    return None if latest is None else states(latest, written)


def all_runs(wait: float = 0) -> dict[str, Run]:
    """The workspace and all experiments by name. `wait`: the seconds that DVC may take to list them."""
    _, experiments = backgrounds(Path.cwd())
    refs = [f"{git_folder(Path.cwd())}/{name}" for name in ("HEAD", "packed-refs", "logs/HEAD", "refs/exps/*/*/*")]
    latest = experiments.latest(stamp(*refs, ".dvc/tmp/exps/run/*/*"), wait) or []
    return {run.name: run for run in [workspace(), *latest]}


@lru_cache
def git_folder(root: Path) -> str:
    """Git's folder, which is not below the project's where that is a part of a larger one."""
    try:
        return git("rev-parse", "--git-common-dir", root=root)
    except UserError:
        return ".git"


def say_other_dataset(run: Run, *stages: str) -> None:
    """Warn if the results of these stages belong to another dataset than params.yaml names."""
    others = {stage: name for stage, name in other_datasets(run).items() if stage.startswith(stages)}
    if others:
        st.warning(
            "These results belong to another dataset than params.yaml names; new ones appear when their stage is done:"
        )
        st.text(", ".join(f"{stage}: {name}" for stage, name in others.items()))


def experiments_listed() -> bool:
    """Whether DVC has answered since the dashboard started."""
    return backgrounds(Path.cwd())[1].result is not None


def page_of(count: int, size: int, key: str) -> slice:
    """Which `size` of `count` things are shown, by a field that turns the pages; without one where a page holds all."""
    pages = max(1, -(-count // size))
    number = st.number_input(f"Page, of {pages}", 1, pages, key=f"{key} of {pages}", width=160) if pages > 1 else 1
    return slice((number - 1) * size, number * size)


def choose_run(label: str, key: str) -> Run:
    """A select box of runs. If the chosen run was deleted meanwhile, the workspace takes its place."""
    runs = all_runs()
    if st.session_state.get(key) not in runs:
        st.session_state.pop(key, None)
    return runs[st.selectbox(label, list(runs), key=key)]


def current_params() -> Params:
    """The values of params.yaml. If they cannot be used, the page says what is wrong and ends."""
    try:
        return load_params()
    except UserError as error:
        show_error("params.yaml cannot be used as it is.", error)
        st.stop()


def show_error(what: str, error: UserError) -> None:
    """The sentence as an error, the details, which may hold names from files, as text."""
    st.error(what)
    st.text(str(error))


def as_markdown(text: str) -> str:
    """Markdown that shows the text as it is, where Streamlit takes nothing but Markdown.

    Words of letters and digits stand for themselves; the rest goes into a code span, in which nothing has a meaning.
    """
    if re.fullmatch(r"[A-Za-z0-9↓↑]+([ _@][A-Za-z0-9↓↑]+)*", text):
        return text
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {' '.join(text.split())} {fence}"


def nothing_yet(what: str) -> None:
    st.info(f"{what} Start the pipeline in a terminal, in the project's folder; this page fills while it runs:")
    st.code("python main.py", language="bash")


@st.cache_data(max_entries=4000, show_spinner=False)
def thumbnail(raw: bytes, side: int) -> bytes | None:
    """The picture as a PNG whose longer side is `side` px, a small one enlarged smoothly; None for no picture."""
    try:
        with Image.open(BytesIO(raw)) as image:
            scale = side / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            small = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    flat = Image.new("RGB", size, "white")
    flat.paste(small, mask=small.getchannel("A"))
    png = BytesIO()
    flat.save(png, "PNG")
    return png.getvalue()


def show_figure(run: Run, path: str, alt: str) -> None:
    """A picture of the report's as it is, as wide as its column; nothing if it is missing or half-written."""
    raw = run.read(path)
    if raw and thumbnail(raw, 1):
        st.image(raw, width="stretch", alt=alt)


def show_picture(run: Run, path: str | None, alt: str, side: int = SIDE, width: int | str = "stretch") -> None:
    """The picture in the run, as wide as its column or `width` px; a word in its place if it is broken or missing."""
    raw = run.read(path) if path else None
    png = thumbnail(raw, side) if raw else None
    if png:
        st.image(png, width=width, alt=alt)
    else:
        st.text("broken picture" if raw else "no picture")


# A picture that says where it was clicked, in shares of its width and height, or where an arrow key moved the point.
CLICKED = st.components.v2.component(
    "click_picture",
    html='<img tabindex="0">',
    css="img { max-width: 100%; max-height: 85vh; cursor: crosshair; touch-action: manipulation }",
    js="""
    export default function ({ data, parentElement, setTriggerValue }) {
        const image = parentElement.querySelector("img")
        image.src = data.url
        image.alt = data.alt
        const say = (moved, x, y) =>
            setTriggerValue("point", { moved, at: [x, y].map(share => Math.min(1, Math.max(0, share))) })
        image.onclick = event => {
            const box = image.getBoundingClientRect()
            say(false, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height)
        }
        image.onkeydown = event => {
            const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key]
            if (!way) return
            event.preventDefault()
            say(true, data.at[0] + way[0] / image.naturalWidth, data.at[1] + way[1] / image.naturalHeight)
        }
    }
    """,
)


def click_picture(
    picture: Image.Image, alt: str, at: tuple[float, float], on_click: Callable[[], None], key: str
) -> None:
    """Show the picture; a click, or an arrow key that moves the point `at`, puts `point` into the key's state."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + b64encode(file.getvalue()).decode()
    CLICKED(data={"url": url, "alt": alt, "at": at}, on_point_change=on_click, key=key)
