"""A small project: a copy of this one with a dozen drawings and a few training steps, its DAG run with real DVC."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from filelock import FileLock
from PIL import Image

from stages.preprocess.raw_images import prepare
from tattoo_lora.params import Profile, load_params, load_profile

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores

ROOT = Path(__file__).resolve().parents[1]
DRAWINGS = ("owl", "skull", "anchor", "wolf", "brain", "bug", "key", "crown", "rose", "snail", "fox", "bat")
FAST = {"steps": 4, "eval_every": 2, "warmup_steps": 1, "sampler_steps": 2, "train.batch_size": 4, "threads": 1}
FAST |= {"learning_rate": 1.2e-2}  # so that four steps show
PROCESSED = "data/processed/flash"

# Nothing may ask for a network; a test that needs one to fail fails here.
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "HF_HUB_OFFLINE": "1",
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@localhost",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@localhost",
}


def start(*command: str, cwd: Path, **options: Any) -> subprocess.Popen:
    """The process of a command that heeds signals, even if a suite in the background or under nohup ignores them."""

    def heed_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, preexec_fn=heed_signals, **options)


def run(*command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command in the test environment; `python` and `dvc` are this environment's."""
    result = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
    return result


def call(program: ModuleType, project: Path, *arguments: object) -> str:
    """What the program prints, called in this process: a second instead of the six that its imports take."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # what a terminal's is
    argv = mock.patch("sys.argv", [program.__name__, *map(str, arguments)])
    with contextlib.chdir(project), argv, contextlib.redirect_stdout(printed):
        program.main()
    printed.seek(0)
    return printed.read()


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """As on a disk that is nearly full: no file grows beyond so many bytes."""
    resource = pytest.importorskip("resource")  # Windows has none
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python turns the signal into an OSError
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def preprocessed(path: Path) -> Image.Image:
    """A raw drawing as the stages after preprocess see it, at the miniature's resolution."""
    resolution = load_profile("embedded", ROOT).resolution
    return Image.open(io.BytesIO(prepare(path, load_params(ROOT).preprocess, resolution).png))


def sampler(profile: Profile, steps: int) -> Any:
    """How the profile's pictures are made, in so many steps."""
    from tattoo_lora.diffusion.sampling import Sampler  # with torch

    return Sampler(steps, profile.sampling.guidance_scale, profile.resolution, profile.inference.batch_size)


def set_value(path: Path, key: str, value: object) -> None:
    """Set `key: value` where the key, or `section.key`, stands first on its line; the rest of the file stays."""
    text = path.read_text(encoding="utf-8")
    section, _, name = key.rpartition(".")
    inside = rf"^{section}:.*\n(?:[ #].*\n)*? +" if section else r"^\s*"
    changed, count = re.subn(rf"(?m)({inside}){name}:[^\n]*", lambda m: f"{m[1]}{name}: {value}", text, count=1)
    assert count == 1, f"no {key} in {path}"
    path.write_text(changed, encoding="utf-8")


def make_project(target: Path) -> Path:
    """Copy what Git would carry, with a dozen drawings and a fast profile, and commit it there."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    kept = {"data/raw/flash/rights.csv"} | {f"data/raw/flash/{name}.png" for name in DRAWINGS}
    for name in filter(None, files.split("\0")):
        if name.startswith("data/raw/") and name not in kept or not (ROOT / name).is_file() or name == "dvc.lock":
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    shutil.rmtree(target / "metrics", ignore_errors=True)
    shutil.rmtree(target / "plots", ignore_errors=True)
    for key, value in FAST.items():
        set_value(target / "profiles/embedded.yaml", key, value)
    set_value(target / "params.yaml", "seeds", "[7, 8]")
    set_value(target / "params.yaml", "sampler_steps", 2)
    run("git", "init", "-q", cwd=target)
    commit(target)
    return target


def commit(project: Path) -> None:
    run("git", "add", "-A", cwd=project)
    run("git", "commit", "-qm", "state", cwd=project)


def copy_project(project: Path, target: Path) -> Path:
    """A copy with its cache, for a test to change."""
    shutil.copytree(project, target, symlinks=True)
    return target


def made_once(target: Path, make: Callable[[Path], object]) -> Path:
    """`target` as `make` leaves it, by the first worker that asks; the others wait."""
    with FileLock(target.with_suffix(".lock")):
        if not target.with_suffix(".made").exists():
            make(target)
            target.with_suffix(".made").touch()
    return target


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id) -> Path:
    """A folder that all workers of this run see."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def project(shared) -> Path:
    """The small project before any run. Copy it before changing it."""
    return made_once(shared / "project", make_project)


@pytest.fixture(scope="session")
def finished(project, shared) -> Path:
    """The small project after `dvc repro`, committed. Copy it before changing it."""

    def make(target: Path) -> None:
        copy_project(project, target)
        run("dvc", "repro", cwd=target)
        commit(target)

    return made_once(shared / "finished", make)


@pytest.fixture(scope="session")
def processed(shared) -> Path:
    """A folder to call stages in: params, models, a dozen drawings, preprocessed, captioned and encoded. Copy it.

    Every drawing has a caption of its own, made of its name. Seconds, where `finished` takes minutes.
    """

    def make(target: Path) -> None:
        from stages import encode
        from stages.preprocess import __main__ as preprocess
        from tattoo_lora.data.captions import write_caption
        from tattoo_lora.data.drawings import read_drawings

        (target / "data/raw/flash").mkdir(parents=True)
        for name in DRAWINGS:
            shutil.copy(ROOT / f"data/raw/flash/{name}.png", target / "data/raw/flash")
        shutil.copytree(ROOT / "profiles", target / "profiles")
        shutil.copy(ROOT / "params.yaml", target)
        (target / "models").symlink_to(ROOT / "models", target_is_directory=True)
        settings = {
            "val_share": 0.2,
            "test_share": 0.05,
            "val_drawings": 2,
            "val_timesteps": 2,
            "timesteps": 3,
            "seeds": "[7, 8]",
        }
        for key, value in settings.items():
            set_value(target / "params.yaml", key, value)
        fast = FAST | {"steps": 1, "eval_every": 1, "warmup_steps": 0, "inference.batch_size": 8}
        for key, value in fast.items():
            set_value(target / "profiles/embedded.yaml", key, value)
        call(preprocess, target, "data/raw/flash", "--out", PROCESSED, "--sheet", "sheet.png", "--processes", 1)
        call(encode, target, PROCESSED, "--out", f"{PROCESSED}/latents.safetensors")
        (target / PROCESSED / "captions_blip").mkdir()
        for drawing in read_drawings(target / PROCESSED / "drawings.csv"):
            write_caption(target / PROCESSED / "captions_blip", drawing.stem, f"a drawing of a {drawing.stem}")

    return made_once(shared / "processed", make)
