"""Would the tests notice? Plants one defect at a time in a copy of the project and runs the tests that should fail.

    python tests/plant_defects.py                    all that were not tried yet, then the score
    python tests/plant_defects.py --only train.ema   those whose id begins so
    python tests/plant_defects.py --jobs 2

A defect is an id, a file, a text that stands in it once, what stands there instead, and the tests to run, as pytest
takes them. Results lie in .scratch/planted.json, by the defect, its file and its tests: interrupted, it goes on; what
changed since is tried again. Tests that need the whole DAG (the fixture `finished`) are left out: they take minutes.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
LONGEST = 300  # s that the tests of one defect may take


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


def pytest_collection_modifyitems(items: list) -> None:
    """As a plugin of the pytest that is run below: without the tests that run the DAG."""
    items[:] = [item for item in items if "finished" not in item.fixturenames]


def copy_project(target: Path) -> Path:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def tests_fail(tests: Iterable[str], project: Path, longest: float = LONGEST) -> bool:
    """Whether one of the tests fails, or none ends; RuntimeError where none could be run."""
    options = ["-n", "0", "-x", "-q", "-m", "not slow", "-p", "plant_defects", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(project / "tests"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=longest)
    except subprocess.TimeoutExpired:
        return True
    # 0: all passed, 1: some failed, 2: some could not be imported.
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode != 0


def is_caught(defect: Defect, project: Path) -> bool:
    """Whether a test fails with the defect in the project, which is as before afterwards."""
    path, before = project / defect.file, (project / defect.file).read_text(encoding="utf-8")
    path.write_text(defect.planted(project), encoding="utf-8")
    try:
        return tests_fail(defect.tests, project)
    finally:
        path.write_text(before, encoding="utf-8")


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
    for defect in remaining:
        defect.planted(ROOT)  # says at once which entries the code has left behind

    with tempfile.TemporaryDirectory() as folder:
        projects: Queue[Path] = Queue()
        for job in range(args.jobs):
            projects.put(copy_project(Path(folder) / str(job)))
        tests = sorted({test for defect in remaining for test in defect.tests})
        if tests and not args.only and tests_fail(tests, projects.queue[0], 10 * LONGEST):
            sys.exit("tests fail with no defect planted")

        def attempt(defect: Defect) -> None:
            project, started = projects.get(), time.monotonic()
            try:
                results[keys[defect]] = is_caught(defect, project)
            finally:
                projects.put(project)
            said = "caught" if results[keys[defect]] else "SURVIVED"
            print(f"{said:<9} {time.monotonic() - started:4.0f} s  {defect.id}", flush=True)
            results_path.parent.mkdir(exist_ok=True)
            results_path.write_text(json.dumps(results, indent=0))

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(attempt, remaining))
    survived = [defect.id for defect in defects if not results[keys[defect]]]
    caught = len(defects) - len(survived)
    print(f"{caught} of {len(defects)} caught ({caught / max(len(defects), 1):.0%}); survived: {survived or 'none'}")


if __name__ == "__main__":
    main()
