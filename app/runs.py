"""Read what runs have left behind: the workspace, experiments, logs, metrics, pictures, states of stages.

A run may be half-way, its files cut, broken or deleted while they are read: what cannot be read is None or left out.
Nothing here computes a metric, writes a file or takes a lock of DVC's.
"""

import csv
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

import psutil
import yaml

from app.checks import git, inside
from tattoo_lora.data.texts import read_text
from tattoo_lora.errors import UserError

BASE = "base"
PICTURE_COLUMNS = ["name", "prompt", "seed", "clip_score", "copy", "path"]
FINDINGS = {"headline", "better", "scores", "differences", "line_art", "copies"}  # what the pages show of them
WORKSPACE = "workspace"
ONE_READER = threading.Lock()  # the file systems of DVC are not made for several threads


@dataclass(frozen=True)
class Run:
    """The files of a folder or, if `rev` is given, of a commit, with what DVC's cache holds for it."""

    name: str
    rev: str | None = None
    folder: Path = Path()
    state: str = ""  # of an experiment: Success, Running, Queued or Failed
    params: dict = field(default_factory=dict, compare=False)  # flat: {"train.rank": 8}
    metrics: dict = field(default_factory=dict, compare=False)  # {"blip": {"val_loss": 0.09}}

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None if it cannot be had."""
        if self.rev is None:
            try:
                return (self.folder / path).read_bytes()
            except OSError:
                return None
        return read_at(self.rev, path)

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        if self.rev is None:
            try:
                return sorted(path.name for path in (self.folder / folder).iterdir())
            except OSError:
                return []
        return names_at(self.rev, folder)


def open_files(rev: str, **options) -> tuple:
    """Git's and DVC's files of a commit, and what comes before a path of the project there: its folder in a larger one.

    UserError where Git does not answer.
    """
    import dvc.api

    prefix = git("rev-parse", "--show-prefix")
    return dvc.api.DVCFileSystem(rev=rev, subrepos=bool(prefix), **options), f"/{prefix}" if prefix else ""


@lru_cache(maxsize=8)
def files_at(rev: str) -> tuple:
    """The same as `open_files`; the last few stay open, since opening takes half a second.

    No remote is asked, so that a page neither waits for a network nor fails without one.
    """
    return open_files(rev, config={"core": {"remote": ""}})


@contextmanager
def missing_is_none() -> Iterator[None]:
    """Leave the block if a commit, or the results that DVC's cache should hold for it, are not there (any more)."""
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexError
    from scmrepo.exceptions import SCMError

    with suppress(OSError, DvcException, DataIndexError, SCMError, UserError), ONE_READER:
        yield


@lru_cache(maxsize=2048)
def _read_at(rev: str, path: str) -> bytes:
    files, prefix = files_at(rev)
    return files.read_bytes(prefix + path)


@lru_cache(maxsize=2048)
def _names_at(rev: str, folder: str) -> list[str]:
    files, prefix = files_at(rev)
    return sorted(PurePosixPath(path).name for path in files.ls(prefix + folder, detail=False))


def read_at(rev: str, path: str) -> bytes | None:
    """The file's bytes at a commit, which never change; None if neither Git nor DVC's cache has it."""
    with missing_is_none():
        return _read_at(rev, path)
    return None


def names_at(rev: str, folder: str) -> list[str]:
    """The names in a folder at a commit, from Git or DVC's cache."""
    with missing_is_none():
        return _names_at(rev, folder)
    return []


def workspace(root: Path = Path()) -> Run:
    """The files of this folder, with the params of params.yaml and its profile if they can be read now."""
    params: dict = {}
    try:
        values = yaml.safe_load(read_text(root / "params.yaml"))
        params = dict(flatten(values))
        profile = f"profiles/{params['profile']}.yaml"
        profile_params = yaml.safe_load(read_text(root / profile))
        params |= flat_params({"params": {profile: {"data": profile_params}}})
    except (OSError, UserError, yaml.YAMLError, AttributeError, KeyError, TypeError):  # being edited
        pass
    return Run(WORKSPACE, folder=root, params=params)


# Experiments


def show_experiments() -> list[Run]:
    """The last commit and the experiments of all commits, from `dvc exp show`."""
    listed = ["git", "for-each-ref", "--format=%(refname)", "refs/exps"]
    refs = subprocess.run(listed, capture_output=True, text=True).stdout.splitlines()
    baselines = {"".join(ref.split("/")[2:4]) for ref in refs if re.fullmatch(r"refs/exps/\w\w/\w{38}/.+", ref)}
    executors = read_executors()
    baselines |= {executor["baseline_rev"] for executor in executors.values()}
    revs = [option for baseline in sorted(baselines) for option in ("--rev", baseline)]
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json", "--hide-workspace", "--rev", "HEAD", *revs]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    try:
        return parse_runs(json.loads(shown), {name: Path(executor["root_dir"]) for name, executor in executors.items()})
    except json.JSONDecodeError:  # no repository, or no commit in it yet
        return []


def executor_files(root: Path = Path()) -> Iterator[tuple[Path, dict]]:
    """Each file in which DVC notes an experiment that runs or ran, and name, baseline_rev, location, root_dir in it."""
    for path in (root / ".dvc/tmp/exps/run").glob("*/*.run"):
        try:
            executor = json.loads(path.read_text(encoding="utf-8"))
            if {"name", "baseline_rev", "location", "root_dir", "status"} <= executor.keys():
                yield path, executor
        except (OSError, ValueError, AttributeError):  # just being written, or just deleted
            continue


def read_executors(root: Path = Path()) -> dict[str, dict]:
    """What DVC notes of the experiments that run outside of the workspace, by name."""
    return {
        executor["name"]: executor
        for _, executor in executor_files(root)
        if executor["status"] < 3  # 3 and above: over
        and executor["location"] != "workspace"
        and re.fullmatch(r"[0-9a-f]{40}", executor["baseline_rev"])
    }


def parse_runs(shown: list[dict], folders: dict[str, Path]) -> list[Run]:
    """The runs in what `dvc exp show --json` prints; those that run now are in `folders`, where they have one."""
    runs: dict[str, Run] = {}
    for entry in shown:
        if entry["rev"] == WORKSPACE:
            continue
        experiments = [(experiment["revs"][0], experiment) for experiment in entry.get("experiments") or []]
        for state, experiment in [(entry, {}), *experiments]:
            name = experiment.get("name") or state.get("name") or state["rev"][:7]
            executor = experiment.get("executor") or {}
            status = (executor.get("state") or "success").capitalize() if experiment else ""
            data = state.get("data") or {}
            live = folders.get(name) if status == "Running" else None
            # A failed experiment, and one that waits, shows the metrics of the commit it started from.
            metrics = by_variant(data.get("metrics") or {}) if status in ("", "Success") else {}
            if name in runs:
                name = f"{name} ({state['rev'][:7]})"
            rev = None if live else state["rev"]
            runs[name] = Run(name, rev, live or Path(), status, flat_params(data), metrics)
    return list(runs.values())


def flat_params(data: dict) -> dict:
    """The params of an entry of `dvc exp show` as {"train.rank": 8, …}; a profile's bear their file's name."""
    params = {}
    for file, content in (data.get("params") or {}).items():
        prefix = "" if file == "params.yaml" else f"{PurePosixPath(file).stem}: "
        params |= {f"{prefix}{key}": value for key, value in flatten(content.get("data") or {})}
    return params


def flatten(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each value of nested dicts under its dotted key."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def by_variant(metrics: dict) -> dict[str, dict[str, float]]:
    """{"blip": {"val_loss": …}} of the metrics of an entry of `dvc exp show`."""
    return {PurePosixPath(file).stem: content["data"] for file, content in metrics.items() if content.get("data")}


# What a run has written


def trained_variants(run: Run) -> list[str]:
    """The variants that have begun to train, in the order of params.yaml where it names them."""
    named = [*dict.fromkeys(key.split(".")[1] for key in run.params if key.startswith("variants."))]
    logged = [name.removesuffix(".csv") for name in run.names("runs/logs") if name.endswith(".csv")]
    return [name for name in named if name in logged] + [name for name in logged if name not in named]


def read_metrics(run: Run) -> dict[str, dict[str, float]]:
    """The metrics of each variant and the base, as in metrics/*.json; `held_out` is the target."""
    if run.metrics:
        return run.metrics
    metrics = {}
    for name in run.names("metrics"):
        if name == "findings.json":  # the verdicts, not one evaluation's means
            continue
        try:
            metrics[name.removesuffix(".json")] = dict(json.loads(run.read(f"metrics/{name}") or b""))
        except (ValueError, TypeError):
            continue
    return metrics


def read_findings(run: Run) -> dict:
    """What metrics/findings.json says; empty if it is missing, incomplete or of an older version."""
    try:
        findings = dict(json.loads(run.read("metrics/findings.json") or b"{}"))
    except (ValueError, TypeError):
        return {}
    return findings if findings.keys() >= FINDINGS else {}


def list_samples(run: Run) -> dict[str, dict[int, list[str]]]:
    """{variant: {step: paths of the pictures of the fixed prompts}}."""
    samples = {}
    for variant in trained_variants(run):
        steps = {}
        for name in run.names(f"runs/samples/{variant}"):
            if match := re.fullmatch(r"eval_step(\d+)", name):
                folder = f"runs/samples/{variant}/{name}"
                steps[int(match[1])] = [f"{folder}/{file}" for file in run.names(folder) if file.endswith(".png")]
        if steps:
            samples[variant] = dict(sorted(steps.items()))
    return samples


def with_base(columns: dict[str, list[str]], samples: dict[str, dict[int, list[str]]]) -> dict[str, list[str]]:
    """The variants' pictures after the base model's: those of step 0, where no adapter has learned yet."""
    return {BASE: next((by_step[0] for by_step in samples.values() if 0 in by_step), [])} | columns


def training_prompt(run: Run, row: int) -> str:
    """The prompt of a training's picture."""
    prompts = run.params.get("train.prompts") or []
    return prompts[row] if row < len(prompts) else f"prompt {row + 1}"


def csv_rows(raw: bytes | None) -> list[dict[str, str]]:
    """A CSV's complete lines, those with as many cells as the first has; an unfinished last line is left for later."""
    complete = (raw or b"")[: (raw or b"").rfind(b"\n") + 1].decode("utf-8", errors="replace")
    try:
        header, *rows = csv.reader(io.StringIO(complete.replace("\0", ""), newline=""), strict=True)
    except (ValueError, csv.Error):  # nothing in it yet, or no CSV
        return []
    return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


def last_step(run: Run, variant: str) -> int | None:
    """How far a training's log is; None where it has no step yet."""
    steps = [row.get("step", "") for row in csv_rows(run.read(f"runs/logs/{variant}.csv"))]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


def picture_rows(run: Run) -> list[dict[str, str]]:
    """The evaluations' pictures: name (base or variant), prompt, seed, clip_score, copy and the picture's path."""
    rows, names = [], run.names("runs/evaluation")
    for name in [name for name in (BASE, *trained_variants(run)) if name in names]:
        folder = f"runs/evaluation/{name}"
        for row in csv_rows(run.read(f"{folder}/pictures.csv")):
            if {*PICTURE_COLUMNS[1:-1], "file"} <= row.keys():
                path = inside(folder, row["file"]) or ""
                rows.append({key: row.get(key, "") for key in PICTURE_COLUMNS} | {"name": name, "path": path})
    return rows


# Stages


@dataclass(frozen=True)
class StageState:
    name: str
    state: str  # up to date, running, stale, not run
    why: str


def being_written(root: Path = Path()) -> set[str]:
    """Outputs, relative to root, of stages that run at this moment: what DVC's rwlock says of living processes."""
    try:
        writers = json.loads((root / ".dvc/tmp/rwlock").read_text(encoding="utf-8")).get("write", {})
    except (OSError, ValueError):  # none yet, or just being written
        return set()
    here = root.resolve()
    paths = [Path(path) for path, by in writers.items() if psutil.pid_exists(by["pid"])]
    return {path.relative_to(here).as_posix() for path in paths if path.is_relative_to(here)}


def other_datasets(run: Run) -> dict[str, str]:
    """The stages whose results belong to another dataset than params.yaml names, each with that dataset.

    While an own folder trains, the results of the dataset before stay until their stage is done. An experiment's
    results belong to its params. For a stage that runs now, dvc.lock is out of date.
    """
    if run.rev is not None:
        return {}
    lock = (run.read("dvc.lock") or b"").decode("utf-8", errors="replace")
    written = being_written(run.folder)
    others = {}
    for stage, entry in re.findall(r"(?m)^  ([\w@-]+):\n((?:    .*\n|\n)*)", lock):
        dataset = re.search(r"\bdata/processed/([\w.-]+)", entry)
        outs = re.findall(r"(?m)^    - path: (\S+)$", entry.partition("    outs:\n")[2])
        if dataset and dataset[1] != run.params.get("dataset") and not written & set(outs):
            others[stage] = dataset[1]
    return others


def states(stages: list[dict], written: set[str]) -> list[StageState]:
    """Each stage's state in the DAG's order, from what app.stage_states found and which outputs are being written."""
    by_name: dict[str, StageState] = {}
    for stage in stages:
        behind = [name for name, other in by_name.items() if name in stage["upstream"] and other.state != "up to date"]
        if written & set(stage["outs"]):
            state, why = "running", ""
        elif not stage["has_outs"]:
            state, why = "not run", f"waits for {first_two(behind)}" if behind else ""
        elif behind:
            state, why = "stale", f"waits for {first_two(behind)}"
        elif stage["changed"]:
            state, why = "stale", f"changed: {first_two(stage['changed'])}"
        else:
            state, why = "up to date", ""
        by_name[stage["name"]] = StageState(stage["name"], state, why)
    return list(by_name.values())


def first_two(names: list[str]) -> str:
    """The first two names, and how many more."""
    more = len(names) - 2
    return ", ".join(names[:2]) + (f" and {more} more" if more > 0 else "")
