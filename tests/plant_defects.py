"""Would the tests notice? Plants one defect at a time in a copy of the project and runs the tests that should fail.

    python tests/plant_defects.py                    all that were not tried yet, then the score
    python tests/plant_defects.py --only train.ema memo   those whose ids begin so, anew
    python tests/plant_defects.py --jobs 2

A defect is an id, a file, a text that stands in it once, what stands there instead, and the tests to run. Results lie
in .scratch/planted.json, by the defect, its file and its tests: interrupted, it goes on; what changed since is tried
again. Only a test that fails catches a defect: where the time ran out, or nothing could be imported, it has no result
yet. Tests that need the whole DAG (the fixture `finished`) are left out: they take minutes. Linux and macOS only.
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
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
LONGEST = 600  # s that the tests of one defect may take
AS_IT_IS = "no defect, "
BROKEN = 70  # an exit code that pytest has not
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
        parts += [(root / test.partition("::")[0]).read_text(encoding="utf-8") for test in self.tests]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_table() -> list[Defect]:
    """The defects of plant_defects.yaml: by file, then [id, old, new, tests], where tests lie in this folder."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [
        Defect(id, file, old, new, tuple(f"tests/{test}" for test in tests.split()))
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
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)


def attempt(defect: Defect | None, tests: Iterable[str], pristine: Path, project: Path) -> None:
    """Run the tests in a new copy with the defect in it, as the last thing of this process; it exits as pytest does."""
    shutil.copytree(pristine, project, copy_function=os.link)
    if defect:
        (project / defect.file).unlink()  # what is the same is linked
        (project / defect.file).write_text(defect.planted(pristine), encoding="utf-8")
    os.chdir(project)
    with (project / "pytest.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.alarm(LONGEST)  # ends this process
    options = ["-n", "0", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    code = pytest.main([*options, *tests], [WithoutDag()])
    sys.stdout.flush()
    os._exit(code)


def attempts(work: list[tuple[str, Defect | None, Iterable[str]]], jobs: int) -> Iterator[tuple[str, int]]:
    """The names of the work as it ends and pytest's exit codes, each in a copy and a forked process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        pristine, running, waiting = Path(folder) / "pristine", {}, work[::-1]
        copy_project(pristine)
        while waiting or running:
            while waiting and len(running) < jobs:
                name, defect, tests = waiting.pop()
                copy = Path(folder) / name.replace(" ", "_")  # tests split commands at blanks
                pid = os.fork()
                if pid == 0:
                    try:
                        attempt(defect, tests, pristine, copy)
                    finally:  # never back to what the first process does
                        traceback.print_exc()
                        os._exit(BROKEN)
                running[pid] = name, copy
            pid, status = os.wait()
            (name, copy), code = running.pop(pid), os.waitstatus_to_exitcode(status)
            log = copy / "pytest.log"
            # 0: all passed, 1: some failed, 2: some could not be imported, -SIGALRM: the time ran out.
            if code not in (0, 1, 2, -signal.SIGALRM) or code and name.startswith(AS_IT_IS):
                sys.exit(f"{name}: pytest ended with {code}\n{log.read_text() if log.is_file() else ''}")
            shutil.rmtree(copy)
            yield name, code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="defects whose id begins so, tried anew")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    defects = [defect for defect in read_table() if defect.id.startswith(tuple(args.only) or "")]
    keys = {defect: defect.key(ROOT) for defect in defects}
    results_path = ROOT / ".scratch/planted.json"
    results = json.loads(results_path.read_text()) if results_path.is_file() else {}
    remaining = [defect for defect in defects if args.only or keys[defect] not in results]
    for defect in remaining:
        defect.planted(ROOT)  # says at once what the code has left behind

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.remove(str(Path(__file__).parent))  # the tests import from their copy
    for module in SLOW_IMPORTS if remaining else ():
        import_module(module)
    # First all of these tests with no defect: they must pass.
    tests = sorted({test for defect in remaining for test in defect.tests})
    work = [
        (f"{AS_IT_IS}{Path(file).stem}", None, [file] if file in parts else parts)
        for file, parts in ((file, list(parts)) for file, parts in groupby(tests, lambda test: test.partition("::")[0]))
    ]
    work += [(defect.id, defect, defect.tests) for defect in remaining]
    ids, started = {defect.id: keys[defect] for defect in remaining}, time.monotonic()
    for name, code in attempts(work, args.jobs):
        said = "passes" if name not in ids else {0: "SURVIVED", 1: "caught"}.get(code, f"no result ({code})")
        print(f"{time.monotonic() - started:5.0f} s  {said:<9} {name}", flush=True)
        if name in ids and code in (0, 1):
            results[ids[name]] = code == 1
            results_path.parent.mkdir(exist_ok=True)
            results_path.write_text(json.dumps(results, indent=0))
    by_result = {result: [d.id for d in defects if results.get(keys[d]) is result] for result in (True, False, None)}
    caught = len(by_result[True])
    print(
        f"{caught} of {len(defects)} caught ({caught / max(len(defects), 1):.0%}); "
        f"survived: {by_result[False] or 'none'}; no result: {by_result[None] or 'none'}"
    )


if __name__ == "__main__":
    main()
