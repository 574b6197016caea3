"""A sweep's trials on all GPUs of a machine or of a cluster, by Ray: each in a clone of the project.

The search stays here; a trial's rows come back as they are written. A trial whose machine or process dies starts again
on another, from its last snapshot where that place is shared.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from app.checks import git
from app.clone import ORIGIN, dvc
from app.search import Course, Plan, conclude, open_trials
from app.sweep_results import write_results
from app.trials import PATIENCE, Trial
from tattoo_lora.errors import UserError

DEATHS = 3  # of one trial, from which on it is not for the machines


@dataclass(frozen=True)
class Places:
    """Where clones come from and hand their experiments back to, and what else they share with this machine."""

    url: str
    prefix: str  # the project's folder in its repository
    cache: str | None  # DVC's, on the machine of the sweep
    remotes: dict[str, str]  # DVC's remotes that are folders, whose paths may be relative here
    snapshots: str | None

    def job(self, trial: Trial) -> dict:
        options = ("--pull", "--allow-missing") if self.cache is None else ()
        return asdict(self) | {"trial": asdict(trial) | {"logs": str(trial.logs), "options": options}}


def find_places(address: str | None, snapshots: Path | None) -> Places:
    """Of a sweep on this machine or, with an address, on others; UserError if these could not reach the project."""
    from dvc.repo import Repo

    with Repo() as repo:
        cache, remotes = repo.cache.local.path, repo.config["remote"]
    prefix = git("rev-parse", "--show-prefix")
    if address is None:
        folder = snapshots or Path(".scratch/train")
        return Places(git("rev-parse", "--show-toplevel"), prefix, cache, {}, str(folder.resolve()))
    folders = {name: remote["url"] for name, remote in remotes.items() if "://" not in remote["url"]}
    if ORIGIN not in git("remote").splitlines():
        raise UserError("--address: other machines clone the project from Git's remote origin, and there is none")
    if not git("branch", "-r", "--contains", "HEAD"):
        raise UserError("--address: the last commit is not on a remote branch; `git push` it, other machines clone it")
    if not remotes:
        raise UserError("--address: other machines get data from DVC's remote, and there is none: docs/remotes.md")
    for name, path in folders.items():  # the same place; of a commit, DVC takes a relative path as one from the root
        dvc("remote", "modify", "--local", name, "url", path)
    url, where = git("remote", "get-url", ORIGIN), None if snapshots is None else str(snapshots.resolve())
    return Places(str(Path(url).resolve()) if Path(url).exists() else url, prefix, None, folders, where)


def rows_in_clone(job: dict) -> Iterator[dict | list]:
    """Where the trial runs, then what app.clone prints, in a clone that goes afterwards.

    Ray sends this function to machines that have nothing of the project yet.
    """
    with tempfile.TemporaryDirectory(prefix="sweep") as folder:
        yield {"place": socket.gethostname(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        for command in (["clone", "-q", job["url"], "."], ["checkout", "-q", job["trial"]["commit"]]):
            done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
            if done.returncode != 0:
                yield {"failed": f"git {command[0]}: {' '.join(done.stderr.split())}"}
                return
        process = subprocess.Popen(
            [sys.executable, "-m", "app.clone"],
            cwd=os.path.join(folder, job["prefix"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
        if process.returncode != 0:
            yield {"failed": f"app.clone ended with {process.returncode}"}


def check_address(address: str) -> None:
    """UserError if nothing answers at host:port, for which Ray itself would wait minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"--address {address}: no Ray cluster answers there ({error})") from None


class Cluster:
    """Ray's machines: this one alone, or those of the cluster at the address."""

    def __init__(self, places: Places, address: str | None, gpus: float | None, at_once: int | None) -> None:
        import ray

        self.ray, self.places, self.at_once = ray, places, at_once
        if address is not None:
            check_address(address)
        ray.init(address=address or "local", log_to_driver=False, include_dashboard=False, logging_level="error")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # other machines have no app.machines
        there = ray.cluster_resources().get("GPU", 0)
        self.gpus = min(1, there) if gpus is None else gpus
        if self.gpus > there:
            ray.shutdown()
            raise UserError(f"--gpus-per-trial {self.gpus:g}: there are {there:g} GPUs, so no trial would ever begin")
        self.task = ray.remote(num_cpus=1, num_gpus=self.gpus, num_returns="streaming", max_retries=0)(rows_in_clone)

    def slots(self) -> int:
        """How many trials the machines have room for now; 1 where there is no room yet, which waits for it."""
        have = self.ray.cluster_resources()
        room = have.get("GPU", 0) / self.gpus if self.gpus else have.get("CPU", 0)
        return max(1, min(int(room), self.at_once or int(room)))

    def end(self, running: Iterable) -> None:
        """Stop these trials, where they still run, as Ctrl-C does."""
        for rows in running:
            self.ray.cancel(rows)
        if ends := [rows.completed() for rows in running]:
            self.ray.wait(ends, num_returns=len(ends), timeout=PATIENCE)


def run_on_cluster(study: optuna.Study, plan: Plan, cluster: Cluster) -> None:
    """As many trials at once as there is room for, each where Ray puts it; a line for each that begins or ends."""
    waiting, running = open_trials(study, plan), {}

    def begin(course: Course) -> None:
        trial = plan.trial(course.trial.number, course.values)
        running[cluster.task.remote(cluster.places.job(trial))] = course

    try:
        while True:
            while len(running) < cluster.slots() and (course := next(waiting, None)):
                begin(course)
            if not running:
                return
            [rows], _ = cluster.ray.wait(list(running), num_returns=1)
            course = running[rows]
            try:
                is_over = take_in(course, cluster.ray.get(next(rows)))
            except StopIteration:
                hand_over(plan, cluster.places, course)
                course.end(TrialState.COMPLETE)
                is_over = True
            except cluster.ray.exceptions.RayError as error:  # before the trial's own errors, which are no news
                del running[rows]
                begin(after_death(course, str(error)))
                continue
            if is_over:
                del running[rows]
                cluster.end([rows])
                conclude(course, plan)
                write_results(study, plan)
    finally:
        cluster.end(running)
        cluster.ray.shutdown()


def take_in(course: Course, item: dict | list) -> bool:
    """Whether the trial is over, by something that `rows_in_clone` gave; UserError if it failed."""
    match item:
        case {"place": place, "gpu": gpu}:
            course.begin(f"{place}, GPU {gpu}" if gpu else place)
            print(f"{course.label} begins on {course.place}", flush=True)
            return False
        case {"diverged": reason}:
            course.end(TrialState.FAIL, reason)
            return True
        case {"failed": reason}:
            raise UserError(f"{reason}")
    return course.take(tuple(item))


def after_death(course: Course, error: str) -> Course:
    """The trial, to be begun again; UserError if its processes die wherever it runs."""
    course.deaths += 1
    if course.deaths == DEATHS:
        reason = error.strip().splitlines()[-1]
        raise UserError(f"{course.label}: its process or machine died {DEATHS} times; the last time: {reason}")
    print(f"{course.label}: its process on {course.place or 'a machine'} is gone; it starts again", flush=True)
    return course


def hand_over(plan: Plan, places: Places, course: Course) -> None:
    """Have the experiments of a trial that is done here: with a common cache they are, else they are on the remotes."""
    if places.cache is None:
        for name in plan.trial(course.trial.number, course.values).seeds:
            dvc("exp", "pull", "--run-cache", ORIGIN, name)
