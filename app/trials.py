"""One trial of a sweep: DVC experiments of the same params, one a seed, each in a folder of its own (`--temp`).

A trial is followed by its logs. One that is stopped leaves its snapshot, from which the same trial goes on.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from app.checks import git
from app.jobs import MARK, started_by
from app.run_tables import parse_log
from app.runs import Run, being_written, executor_files, read_executors
from tattoo_lora.errors import UserError

POLL = 0.5  # seconds between looks at a log
PATIENCE = 30  # seconds that DVC and a stage have to end by themselves
DIVERGED = "; lower learning_rate"  # in the error of a training that failed by its params
Row = tuple[int, int, float]  # which training of the trial, step, val_loss


@dataclass(frozen=True)
class Trial:
    """`seeds` gives each experiment's name its seed; `settings` are as `-S` takes them."""

    commit: str
    seeds: dict[str, int]
    settings: tuple[str, ...]
    variants: tuple[str, ...]
    logs: Path  # a folder for what DVC and the stages print
    options: tuple[str, ...] = ()  # of `dvc exp run`


class Diverged(Exception):
    """The trial's params let the loss grow beyond all numbers."""


def log_path(variant: str) -> str:
    return f"runs/logs/{variant}.csv"


def find_experiment(commit: str, name: str) -> str | None:
    """The commit of an experiment that started from `commit`; None if there is none of that name."""
    with suppress(UserError):
        return git("rev-parse", "-q", "--verify", f"{experiment_ref(commit, name)}^{{commit}}")
    return None


def experiment_ref(commit: str, name: str) -> str:
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def run_trial(trial: Trial) -> Iterator[Row]:
    """Train what is not trained yet, and give each val_loss once it is in a log, in the order of seeds and variants.

    To close the iterator stops the training. Diverged or UserError where one fails.
    """
    for i, (name, seed) in enumerate(trial.seeds.items()):
        first = i * len(trial.variants)
        targets = [f"train@{variant}" for variant in trial.variants]
        for number, step, val_loss in run_experiment(trial, name, seed, targets):
            yield first + number, step, val_loss


def run_experiment(trial: Trial, name: str, seed: int, targets: list[str]) -> Iterator[Row]:
    """The rows of one experiment, which runs `targets`; those of an experiment that is there already come at once."""
    given = dict.fromkeys(trial.variants, 0)  # rows of each log
    end_remains(trial.commit, name)
    if find_experiment(trial.commit, name) is None:
        before = {variant: Run("", trial.commit).read(log_path(variant)) for variant in trial.variants}
        process, log = start(trial, name, seed, targets)
        try:
            begun = set()
            while process.poll() is None:
                yield from live_rows(name, trial.variants, before, begun, given)
                time.sleep(POLL)
        finally:
            stop(process)
        if process.returncode != 0:
            raise failure(name, log.read_text(encoding="utf-8", errors="replace"))
        assert find_experiment(trial.commit, name), f"{name}: DVC ended well and left no experiment"
    rev = drop_other_metrics(trial.commit, name, targets)  # also of one that a killed sweep left whole
    for number, variant in enumerate(trial.variants):
        yield from new_rows(number, Run(name, rev).read(log_path(variant)) or b"", given, variant)


def evaluate(trial: Trial) -> list[dict[str, float]]:
    """The metrics of each training of a finished trial, from metrics/*.json; measured where they are not there yet.

    The experiment is made again with its evaluations, and keeps its name; its training comes from the run-cache.
    """
    targets, metrics = [f"evaluate@{variant}" for variant in trial.variants], []
    for name, seed in trial.seeds.items():
        paths = [f"metrics/{variant}.json" for variant in trial.variants]
        rev = find_experiment(trial.commit, name)
        if rev and None in [Run(name, rev).read(path) for path in paths]:
            remove_experiment(trial.commit, name)
        deque(run_experiment(trial, name, seed, targets), maxlen=0)
        run = Run(name, find_experiment(trial.commit, name))
        metrics += [json.loads(run.read(path)) for path in paths]
    return metrics


def remove_experiment(commit: str, name: str) -> None:
    git("update-ref", "-d", experiment_ref(commit, name))


def drop_experiments(trial: Trial) -> None:
    """A stopped trial leaves none, however far it came while somebody looked; its snapshot stays."""
    for name in trial.seeds:
        if find_experiment(trial.commit, name):
            remove_experiment(trial.commit, name)


def start(trial: Trial, name: str, seed: int, targets: list[str]) -> tuple[subprocess.Popen, Path]:
    """DVC's process, in a session of its own so that all of it can be stopped, and the file with what it prints."""
    settings = [option for setting in (*trial.settings, f"train.seed={seed}") for option in ("-S", setting)]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", name, *trial.options, *settings, *targets]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the stages run `python`
    log = trial.logs / f"{name}.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PATH": path, MARK: mark(trial.commit, name)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, log


def mark(commit: str, name: str) -> str:
    return f"{commit} {name}"


def stop(process: subprocess.Popen) -> None:
    """End DVC and what it started as Ctrl-C does, if they still run."""
    number = signal.SIGINT
    while process.poll() is None:
        if os.name == "posix":
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        else:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        number = signal.SIGKILL if os.name == "posix" else number


def end_remains(commit: str, name: str) -> None:
    """Stop what a killed sweep left running of this experiment, and remove its folder."""
    processes = started_by(mark(commit, name))
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGINT)
    for process in psutil.wait_procs(processes, PATIENCE)[1]:
        with suppress(psutil.Error):
            process.kill()
    for path, executor in executor_files():
        if executor["name"] == name and executor["baseline_rev"] == commit:
            if executor["location"] != "workspace":
                shutil.rmtree(executor["root_dir"], ignore_errors=True)
            shutil.rmtree(path.parent, ignore_errors=True)


def live_rows(
    name: str, variants: tuple[str, ...], before: dict[str, bytes | None], begun: set[str], given: dict[str, int]
) -> Iterator[Row]:
    """What has come to the logs of an experiment that runs, up to the training that is under way.

    DVC puts the last commit's logs into the folder first, so a log counts once DVC's rwlock has it as written and it
    is another than that.
    """
    if not (executor := read_executors().get(name)):
        return
    folder = Path(executor["root_dir"])
    writing = being_written(folder)
    for number, variant in enumerate(variants):
        log = Run(name, folder=folder).read(log_path(variant))
        if log_path(variant) in writing and log != before[variant]:
            begun.add(variant)
        if log is None or variant not in begun:
            return
        yield from new_rows(number, log, given, variant)
        if log_path(variant) in writing:
            return


def new_rows(number: int, log: bytes, given: dict[str, int], variant: str) -> Iterator[Row]:
    """The rows with a val_loss of trained weights that were not given yet."""
    rows = parse_log(log).dropna(subset=["val_loss"])
    rows = rows[rows["step"] > 0]
    for step, val_loss in rows[["step", "val_loss"]].iloc[given[variant] :].itertuples(index=False):
        given[variant] += 1
        yield number, int(step), float(val_loss)


def failure(name: str, printed: str) -> Exception:
    """Why DVC failed, from what it and the stages printed."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    stage_says = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = ["DVC was killed", *lines[-1:], *stage_says[-1:]][-1]
    return Diverged(reason) if DIVERGED in reason else UserError(f"{name}: {reason}; the same command goes on here")


def drop_other_metrics(commit: str, name: str, targets: list[str]) -> str:
    """Take from the experiment the metrics that it did not measure; its new commit.

    They came with the commit that it started from, and would stand beside this experiment's params in every list.
    """
    ref = experiment_ref(commit, name)
    rev = git("rev-parse", ref)
    variants = yaml.safe_load(git("show", f"{rev}:./params.yaml"))["variants"]
    others = [f"metrics/{variant}.json" for variant in variants if f"evaluate@{variant}" not in targets]
    there = [path for path in git("ls-tree", "-r", "--name-only", rev, "--", *others).splitlines() if path]
    if not there:
        return rev
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", rev, **index)
        git("update-index", "--force-remove", "--", *there, **index)
        tree = git("write-tree", **index)
    message, who, email = git("log", "-1", "--format=%s%n%cn%n%ce", rev).splitlines()
    committer = ("-c", f"user.name={who}", "-c", f"user.email={email}")
    new = git(*committer, "commit-tree", tree, "-p", f"{rev}^", "-m", message)
    git("update-ref", ref, new, rev)
    return new
