"""Time the stages before the models, and the DAG as a whole: what DVC costs and what it saves."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageOps

from bench.timing import Case, timed
from stages.preprocess.__main__ import preprocess
from tattoo_lora import memo
from tattoo_lora.errors import UserError
from tattoo_lora.params import Params, Profile

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data/raw/flash"
SCANS = 40
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "HF_HUB_OFFLINE": "1",
}


def preprocess_cases(profile: Profile, params: Params, folder: Path) -> dict[str, Case]:
    """The stage on scans of the sample drawings, in one process and in two, and a loop of Pillow alone."""
    scans = folder / "scans"
    scans.mkdir()
    for i, path in enumerate(sorted(SAMPLE.glob("*.png"))[:SCANS]):
        with Image.open(path) as image:  # as large as a page of A5 at 150 dpi
            image.convert("RGB").resize((874, 1240), Image.Resampling.BICUBIC).save(scans / f"{i}.png")
    size = (profile.resolution, profile.resolution)
    runs = count()

    def ours(processes: int) -> Callable[[], None]:
        def work() -> None:
            out = folder / f"run{next(runs)}"  # a memo of its own: everything is new
            with patch.object(memo, "ROOT", out):
                preprocess(scans, out, out / "sheet.png", params.preprocess, profile.resolution, processes)

        return work

    def pillow_alone() -> None:
        for path in sorted(scans.glob("*.png")):
            with Image.open(path) as image:
                padded = ImageOps.pad(image.convert("RGB"), size, Image.Resampling.LANCZOS, color="white")
            padded.save(folder / "plain" / path.name)

    (folder / "plain").mkdir()
    cases = {"ours, 1 process": ours(1), "ours, 2 processes": ours(2), "reference": pillow_alone}
    return {name: timed(work, SCANS) for name, work in cases.items()}


def preprocess_many(drawings: int, folder: Path) -> dict[str, float]:
    """Run the stage on so many scribbles, then again: seconds of both runs, and the most memory of a process in MB."""
    raw = folder / "raw"
    raw.mkdir()
    for i in range(drawings):
        image = Image.new("L", (96, 96), 255)
        points = np.random.default_rng(i).integers(5, 91, (9, 2))
        ImageDraw.Draw(image).line([tuple(map(int, point)) for point in points], 0, 3)
        image.save(raw / f"{i}.png")
    command = [sys.executable, "-m", "stages.preprocess", str(raw), "--out", str(folder / "out")]
    command += ["--sheet", str(folder / "sheet.png")]
    figures = {}
    for name in ("seconds", "seconds again"):
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env={**ENVIRONMENT, "DVC_ROOT": str(folder)})
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise UserError("stages.preprocess stopped, see above")
        figures[name] = time.perf_counter() - started
        figures[f"MB, {name}"] = usage.ru_maxrss / 1024  # of the first process or a worker, whichever took more
    return figures


@contextmanager
def small_project(steps: int) -> Iterator[Path]:
    """A clone of the last commit in a temporary folder, its embedded profile with `steps` training steps."""
    with TemporaryDirectory() as name:
        project = Path(name) / "project"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(project)], check=True)
        path = project / "profiles/embedded.yaml"
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
        profile["train"] |= {"steps": steps, "eval_every": steps, "warmup_steps": 0}
        path.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
        (project / "dvc.lock").unlink()
        yield project


def repro_cases(project: Path) -> dict[str, Case]:
    """`dvc repro` from nothing, with nothing to do and after a changed suffix; and the same commands without DVC."""
    numbers = count()

    def in_project(*command: str) -> Callable[[], object]:
        return lambda: subprocess.run(command, cwd=project, env=ENVIRONMENT, check=True, capture_output=True)

    def forget_results() -> None:
        for name in (".scratch", "data/processed", "runs", "metrics", "plots"):
            shutil.rmtree(project / name, ignore_errors=True)

    def forget_everything() -> None:
        forget_results()
        shutil.rmtree(project / ".dvc/cache", ignore_errors=True)
        (project / "dvc.lock").unlink(missing_ok=True)

    def change_the_suffix() -> None:
        path = project / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        params["enrich"]["suffix"] = f"clean line tattoo, number {next(numbers)}"
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def write_commands() -> None:
        forget_results()
        stages = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        order = ["preprocess", "caption_blip", "caption", "enrich", "encode", "train", "evaluate", "report"]
        in_order = sorted(stages, key=lambda name: order.index(name.split("@")[0]))
        commands = "\n".join(stages[name]["cmd"] for name in in_order)
        (project / "without_dvc.sh").write_text(commands, encoding="utf-8")

    repro = in_project("dvc", "repro")
    return {
        "from nothing": timed(repro, 1, forget_everything),
        "nothing to do": timed(repro, 1),
        "another enrich.suffix": timed(repro, 1, change_the_suffix),
        "reference": timed(in_project("bash", "-e", "without_dvc.sh"), 1, write_commands),
    }
