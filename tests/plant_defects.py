"""Would the tests notice? Plants one defect at a time in a copy of the project and runs the tests that should fail.

    python tests/plant_defects.py                    all that were not tried yet, then the score
    python tests/plant_defects.py --only train.ema   those whose id begins so, anew
    python tests/plant_defects.py --jobs 2

A defect is an id, a file, a text that stands in it once, what stands there instead, and the tests to run. Results lie
in .scratch/planted.json, by the defect, its file and its tests: interrupted, it goes on; what changed since is tried
again. Tests that need the whole DAG (the fixture `finished`) are left out: they take minutes. Linux and macOS only.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
LONGEST = 300  # s that the tests of one defect may take
# Most of a test's time is the import of these: it is done once, before each test's process is forked.
SLOW_IMPORTS = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion transformers.models.blip.modeling_blip "
    "transformers.models.blip.processing_blip transformers.models.clip.processing_clip peft accelerate torch._dynamo "
    "torch._inductor.config torchmetrics.multimodal.clip_score pandas matplotlib.pyplot scipy.stats skimage.measure "
    "hypothesis.strategies"
).split()


@dataclass(frozen=True)
class Defect:
    id: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, root: Path) -> str:
        """The file's text with the defect in it; ValueError where `old` does not stand there once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if self.old == self.new or text.count(self.old) != 1:
            raise ValueError(f"{self.id}: {self.old!r} stands {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)

    def key(self, root: Path) -> str:
        """Of what the result depends on: the defect, its file and its tests."""
        parts = [repr(self), (root / self.file).read_text(encoding="utf-8")]
        parts += [(root / of.partition("::")[0]).read_text(encoding="utf-8") for of in self.tests]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_table() -> list[Defect]:
    """The defects of plant_defects.yaml: by file, then [id, old, new, tests], where tests lie in this folder."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [
        Defect(id, file, old, new, tuple(f"tests/{of}" for of in tests.split()))
        for file, rows in table.items()
        for id, old, new, tests in rows
    ]


class WithoutDag:
    """A plugin for pytest that leaves out the tests that run the DAG."""

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = [item for item in items if "finished" not in item.fixturenames]


def copy_project(target: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def plant(defect: Defect, pristine: Path, target: Path) -> None:
    """A copy of the pristine project with the defect in it; what is the same is linked."""
    shutil.copytree(pristine, target, copy_function=os.link)
    (target / defect.file).unlink()
    (target / defect.file).write_text(defect.planted(pristine), encoding="utf-8")


def run_tests(tests: Iterable[str], project: Path) -> None:
    """Run them as the last thing that this process does; it exits as pytest does."""
    os.chdir(project)
    with (project / "pytest.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.alarm(LONGEST)  # ends this process
    options = ["-n", "0", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    code = pytest.main([*options, *tests], [WithoutDag()])
    sys.stdout.flush()
    os._exit(code)


def in_processes(work: dict[Defect, Callable[[], None]], jobs: int):
    """Each work in a forked process, so many at once: the defects as they end, with the exit code, < 0 for a signal."""
    waiting, running = list(work), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            defect = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                work[defect]()
            running[pid] = defect
        pid, status = os.wait()
        yield running.pop(pid), os.waitstatus_to_exitcode(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="ID", help="defects whose id begins so, tried anew")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    defects = [defect for defect in read_table() if defect.id.startswith(args.only)]
    keys = {defect: defect.key(ROOT) for defect in defects}
    results_path = ROOT / ".scratch/planted.json"
    results = json.loads(results_path.read_text()) if results_path.is_file() else {}
    remaining = [defect for defect in defects if args.only or keys[defect] not in results]

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.remove(str(Path(__file__).parent))  # the tests import from their copy
    for name in SLOW_IMPORTS if remaining else ():
        import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        pristine = Path(folder) / "pristine"
        copy_project(pristine)

        def attempt(defect: Defect) -> Callable[[], None]:
            def work() -> None:
                project = Path(folder) / defect.id
                plant(defect, pristine, project)
                run_tests(defect.tests, project)

            return work

        started = time.monotonic()
        for defect, code in in_processes({defect: attempt(defect) for defect in remaining}, args.jobs):
            log = Path(folder) / defect.id / "pytest.log"
            # 0: all passed, 1: some failed, 2: some could not be imported, or the alarm rang.
            if code not in (0, 1, 2, -signal.SIGALRM):
                sys.exit(f"{defect.id}: pytest ended with {code}\n{log.read_text() if log.is_file() else ''}")
            results[keys[defect]] = code != 0
            print(f"{time.monotonic() - started:5.0f} s  {'caught' if code else 'SURVIVED':<9} {defect.id}", flush=True)
            results_path.parent.mkdir(exist_ok=True)
            results_path.write_text(json.dumps(results, indent=0))
            shutil.rmtree(Path(folder) / defect.id)
    survived = [defect.id for defect in defects if not results[keys[defect]]]
    caught = len(defects) - len(survived)
    print(f"{caught} of {len(defects)} caught ({caught / max(len(defects), 1):.0%}); survived: {survived or 'none'}")


if __name__ == "__main__":
    main()
