"""Trainings that a page starts: `python main.py …` in a session of its own, one at a time, the others wait.

    python -m app.jobs ID     the keeper: waits for its turn, runs main.py with the job's arguments, notes how it ended

Each job is a folder in .scratch/jobs: job.json (its arguments), state.json (the keeper's pid and when that process
started, so that a pid that was given out again is not taken for it) and log.txt. No server is asked and none is needed:
whoever reads these files after a restart sees the same.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from app.runs import being_written
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file

FOLDER = Path(".scratch/jobs")
MARK = "TATTOO_LORA_JOB"  # in the environment of all that a job starts: which are left if the keeper is killed
LONGEST_QUEUE = 10
KEPT = 20  # finished jobs
POLL = 0.5  # seconds
LONGEST_LOG = 20_000  # bytes from its end that a page shows
ENDED = {0: "done", 130: "stopped"}  # by exit status; all others: failed


@dataclass(frozen=True)
class Job:
    """`status` is waiting, running, done, failed, stopped, or interrupted: it was killed and could not say so."""

    id: str
    folder: Path
    arguments: list[str]  # of main.py
    status: str
    begun: float | None  # seconds since 1970, when its turn came
    ended: float | None

    @property
    def command(self) -> str:
        return shlex.join(["python", "main.py", *self.arguments])

    @property
    def is_over(self) -> bool:
        return self.status not in ("waiting", "running")

    def log(self) -> str:
        """The end of what main.py, DVC and the stages printed."""
        try:
            with (self.folder / "log.txt").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LOG))
                return file.read().decode("utf-8", errors="replace")
        except OSError:  # deleted
            return ""


def read_json(path: Path) -> dict:
    """Empty if the file is not there or is no JSON."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_json(path: Path, values: dict) -> None:
    with replace_file(path) as partial:
        partial.write_text(json.dumps(values), encoding="utf-8", newline="\n")


def is_alive(pid: int | None, started: float | None) -> bool:
    """Whether the process that began then still runs; one that has ended and was not asked for its status does not."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 1
    except (psutil.Error, TypeError, ValueError):
        return False


def started_by(job: str) -> list[psutil.Process]:
    """The living processes of the job, by the mark in their environment; other users' cannot be read."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == job and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


def when_parent_ends(do: Callable[[], object]) -> None:
    """Have `do` called once the process that started this one is gone: a killed one cannot say so."""
    parent = psutil.Process().parent()

    def watch() -> None:
        while parent is not None and parent.is_running() and os.getppid() == parent.pid:
            time.sleep(POLL)
        do()

    threading.Thread(target=watch, daemon=True).start()


def read_job(folder: Path) -> Job:
    state = read_json(folder / "state.json")
    status = state.get("status", "waiting")
    if status in ("waiting", "running") and not is_alive(state.get("pid"), state.get("started")):
        status = "running" if started_by(folder.name) else "interrupted"
    arguments = read_json(folder / "job.json").get("arguments", [])
    return Job(folder.name, folder, arguments, status, state.get("begun"), state.get("ended"))


def read_jobs(root: Path = Path()) -> list[Job]:
    """All jobs, the newest last."""
    return [read_job(path.parent) for path in sorted((root / FOLDER).glob("*/job.json"))]


def start(root: Path, arguments: list[str]) -> Job:
    """Start main.py with these arguments, or put it behind those that run or wait; UserError if too many wait."""
    folder = root.resolve() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        jobs = read_jobs(root)
        waiting = sum(job.status == "waiting" for job in jobs)
        if waiting >= LONGEST_QUEUE:
            raise UserError(f"{waiting} trainings wait already, allowed are {LONGEST_QUEUE}; stop one of them first")
        for job in [job for job in jobs if job.is_over][:-KEPT]:
            shutil.rmtree(job.folder, ignore_errors=True)
        made = folder / str(time.time_ns())
        made.mkdir()
        write_json(made / "job.json", {"arguments": arguments})
        with (made / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.jobs", made.name],
                cwd=root,
                env={**os.environ, MARK: made.name, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # it outlives the page and the server
            )
        write_json(made / "state.json", state_of(process.pid, "waiting"))
    return read_job(made)


def state_of(pid: int, status: str, **times: float) -> dict:
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:  # it ended at once
        started = None
    return {"pid": pid, "started": started, "status": status, **times}


def stop(job: Job) -> None:
    """End the job as Ctrl-C does: a training keeps its snapshot. If its keeper is gone, all that it left ends."""
    state = read_json(job.folder / "state.json")
    if is_alive(state.get("pid"), state.get("started")):
        os.kill(state["pid"], signal.SIGINT)
        return
    for process in started_by(job.id):
        try:
            process.send_signal(signal.SIGINT)
        except psutil.Error:
            continue


def wait_for_turn(folder: Path) -> None:
    """Return when every earlier job is over, and no other `dvc repro` writes here."""
    root = folder.parents[2]
    while any(not job.is_over for job in read_jobs(root) if job.id < folder.name) or being_written(root):
        time.sleep(POLL)


def keep(folder: Path) -> int:
    """Run the job and note how it ended; the exit status."""
    import main

    # A server in the background may ignore Ctrl-C, which all that it starts would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    times, code = {}, 1
    try:
        with FileLock(folder.parent / "lock"):  # until the one who started it has written its state
            pass
        wait_for_turn(folder)
        times = {"begun": time.time()}
        write_json(folder / "state.json", state_of(os.getpid(), "running", **times))
        sys.argv = ["main.py", *read_json(folder / "job.json")["arguments"]]
        main.main()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        status = ENDED.get(code, "failed")
        write_json(folder / "state.json", state_of(os.getpid(), status, **times, ended=time.time()))
    return code


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.jobs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("id", help="the name of a folder in .scratch/jobs")
    folder = Path(FOLDER, parser.parse_args().id).resolve()
    if not (folder / "job.json").is_file():
        print(f"error: {folder}: no such job", file=sys.stderr)
        sys.exit(1)
    sys.exit(keep(folder))


if __name__ == "__main__":
    main()
