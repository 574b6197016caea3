"""The stages before the models, and the DAG as a whole: what DVC adds, and what it saves."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from PIL import Image, ImageOps

from bench.timing import Case
from stages.preprocess import preprocess
from tattoo_lora.params import Params, Profile

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data/raw/flash"
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "HF_HUB_OFFLINE": "1",
}


def preprocess_cases(profile: Profile, params: Params, folder: Path) -> dict[str, Case]:
    """The stage on the sample drawings, and a loop of Pillow alone: open, pad, save."""
    drawings = sorted(SAMPLE.glob("*.png"))
    size = (profile.resolution, profile.resolution)

    def ours() -> tuple[int, float]:
        started = time.perf_counter()
        knobs = params.preprocess
        preprocess(SAMPLE, folder / "ours", profile.resolution, knobs.fit, knobs.val_share, knobs.vanilla_caption)
        return len(drawings), time.perf_counter() - started

    def pillow_alone() -> tuple[int, float]:
        shutil.rmtree(folder / "plain", ignore_errors=True)
        (folder / "plain").mkdir()
        started = time.perf_counter()
        for path in drawings:
            with Image.open(path) as image:
                padded = ImageOps.pad(image.convert("RGB"), size, Image.Resampling.LANCZOS, color="white")
            padded.save(folder / "plain" / path.name)
        return len(drawings), time.perf_counter() - started

    return {"ours": ours, "reference": pillow_alone}


@contextmanager
def small_project(steps: int) -> Iterator[Path]:
    """A clone of the last commit in a temporary folder, its embedded profile with `steps` training steps."""
    with TemporaryDirectory() as name:
        project = Path(name) / "project"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(project)], check=True)
        path = project / "profiles/embedded.yaml"
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
        profile |= {"steps": steps, "eval_every": steps, "warmup_steps": 0}
        path.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
        (project / "dvc.lock").unlink()
        yield project


def repro_cases(project: Path) -> dict[str, Case]:
    """`dvc repro` from nothing, with nothing to do and after a changed suffix; and the same commands without DVC."""
    attempt = iter(range(1_000_000))

    def timed(arguments: list[str], prepare: Callable[[], None]) -> Case:
        def case() -> tuple[int, float]:
            prepare()
            started = time.perf_counter()
            subprocess.run(arguments, cwd=project, env=ENVIRONMENT, check=True, capture_output=True)
            return 1, time.perf_counter() - started

        return case

    def forget_everything() -> None:
        for name in (".dvc/cache", ".scratch", "data/processed", "runs", "metrics", "plots"):
            shutil.rmtree(project / name, ignore_errors=True)
        (project / "dvc.lock").unlink(missing_ok=True)

    def change_the_suffix() -> None:
        path = project / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        params["enrich"]["suffix"] = f"clean line tattoo, number {next(attempt)}"
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def commands() -> str:
        stages = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        order = ["preprocess", "caption_blip", "enrich", "encode", "train", "evaluate", "report"]
        return "\n".join(
            stages[name]["cmd"] for name in sorted(stages, key=lambda name: order.index(name.split("@")[0]))
        )

    def without_dvc() -> tuple[int, float]:
        script = f"set -e\n{commands()}"
        for name in ("data/processed", "runs", "metrics", "plots"):
            shutil.rmtree(project / name, ignore_errors=True)
        started = time.perf_counter()
        subprocess.run(["bash", "-c", script], cwd=project, env=ENVIRONMENT, check=True, capture_output=True)
        return 1, time.perf_counter() - started

    return {
        "from nothing": timed(["dvc", "repro"], forget_everything),
        "nothing to do": timed(["dvc", "repro"], lambda: None),
        "another enrich.suffix": timed(["dvc", "repro"], change_the_suffix),
        "reference": without_dvc,
    }
