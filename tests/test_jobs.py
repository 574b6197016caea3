"""A training that a page started outlives it, waits its turn, and is found again by whoever looks."""

import json
import os
import signal
import time

import psutil
import pytest
from conftest import ROOT, run

from app import jobs
from app.jobs import read_jobs, start, started_by, stop
from tattoo_lora.errors import UserError

# A main.py that does what it is told: the names and the sleep stand for those of a training.
MAIN = """
import subprocess, sys

def main():
    print("asked for", sys.argv[1:], flush=True)
    for word in sys.argv[1:]:
        if word == "sleep":
            subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"])
        if word == "fail":
            print("error: no drawings", file=sys.stderr)
            sys.exit(1)
        if word == "bug":
            raise ValueError("a bug")
"""


@pytest.fixture
def root(tmp_path):
    for name in ("app", "tattoo_lora", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "main.py").write_text(MAIN)
    yield tmp_path
    for job in read_jobs(tmp_path):
        for process in started_by(job.id):
            process.kill()


def wait_for(root, job, *statuses):
    """The job once it has one of these."""
    deadline = time.monotonic() + 60
    while (now := next(each for each in read_jobs(root) if each.id == job.id)).status not in statuses:
        assert time.monotonic() < deadline, (now, now.log())
        time.sleep(0.1)
    return now


def finished_job(root):
    """A job that is done, its process gone."""
    job = wait_for(root, start(root, []), "done")
    while started_by(job.id):
        time.sleep(0.05)
    return job


def wait_for_child(job):
    """All of the job's processes, once its own child sleeps."""
    deadline = time.monotonic() + 60
    while len(processes := started_by(job.id)) < 2:
        assert time.monotonic() < deadline, job.log()
        time.sleep(0.1)
    return processes


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--dataset", "my set"], "done", "asked for ['--dataset', 'my set']"),
        (["fail"], "failed", "error: no drawings"),
        (["bug"], "failed", "ValueError: a bug"),
    ],
)
def test_a_job_says_how_it_ended_and_what_it_printed(root, arguments, status, said):
    job = start(root, arguments)
    assert job.status == "waiting"
    job = wait_for(root, job, "done", "failed")
    assert job.status == status and said in job.log() and job.is_over
    assert job.begun <= job.ended


def test_the_command_is_what_a_shell_takes(root):
    assert start(root, ["-S", "a=my hand"]).command == "python main.py -S 'a=my hand'"


def test_one_runs_at_a_time_and_stop_makes_room_for_the_next(root):
    first, second = start(root, ["sleep"]), start(root, ["second"])
    wait_for_child(first)
    assert [job.status for job in read_jobs(root)] == ["running", "waiting"]
    stop(wait_for(root, first, "running"))
    assert wait_for(root, first, "stopped", "failed").status == "stopped"
    assert wait_for(root, second, "done").begun >= wait_for(root, first, "stopped").ended


def test_a_job_that_waits_can_be_stopped(root):
    first, second = start(root, ["sleep"]), start(root, ["second"])
    wait_for_child(first)
    time.sleep(2)  # its imports
    stop(second)
    assert wait_for(root, second, "stopped", "interrupted").begun is None
    assert wait_for(root, first, "running")


def test_it_outlives_whoever_started_it(root):
    code = "import pathlib; from app.jobs import start; print(start(pathlib.Path(), ['sleep']).id)"
    name = run("python", "-c", code, cwd=root).stdout.strip()
    assert [job.id for job in read_jobs(root)] == [name]
    wait_for_child(read_jobs(root)[0])
    assert read_jobs(root)[0].status == "running"


def test_killed_without_a_word_it_runs_as_long_as_something_of_it_does(root):
    job = start(root, ["sleep"])
    wait_for_child(job)
    keeper = json.loads((job.folder / "state.json").read_text())["pid"]
    os.kill(keeper, signal.SIGKILL)
    after = start(root, ["after"])
    assert wait_for(root, job, "running")
    time.sleep(2)
    assert [each.status for each in read_jobs(root)] == ["running", "waiting"]
    stop(read_jobs(root)[0])
    assert wait_for(root, job, "interrupted")
    assert not started_by(job.id)
    assert wait_for(root, after, "done")


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_it(root):
    job = finished_job(root)
    state = {"pid": os.getpid(), "started": psutil.Process().create_time() - 100, "status": "running"}
    (job.folder / "state.json").write_text(json.dumps(state))
    assert read_jobs(root)[0].status == "interrupted"
    state["started"] += 100
    (job.folder / "state.json").write_text(json.dumps(state))
    assert read_jobs(root)[0].status == "running"


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"pid": "x", "status": "running"}'])
def test_a_state_that_is_half_written_is_no_running_job(root, broken):
    job = finished_job(root)
    (job.folder / "state.json").write_text(broken)
    assert read_jobs(root)[0].status == "interrupted"


def test_a_run_in_a_terminal_is_waited_for(root):
    (root / ".dvc/tmp").mkdir(parents=True)
    lock = root / ".dvc/tmp/rwlock"
    lock.write_text(json.dumps({"write": {str(root / "runs/lora/blip"): {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    job = start(root, [])
    time.sleep(3)
    assert read_jobs(root)[0].status == "waiting"
    lock.write_text("{}")
    assert wait_for(root, job, "done")


def test_the_queue_is_bounded_and_old_jobs_go(root, monkeypatch):
    monkeypatch.setattr(jobs, "LONGEST_QUEUE", 1)
    monkeypatch.setattr(jobs, "KEPT", 1)
    old = [wait_for(root, start(root, []), "done") for _ in range(2)]
    first = start(root, ["sleep"])
    assert [job.id for job in read_jobs(root)] == [old[1].id, first.id]
    wait_for(root, first, "running")
    start(root, [])
    with pytest.raises(UserError, match="1 trainings wait already, allowed are 1; stop one of them first"):
        start(root, [])


def test_a_job_that_is_not_there_is_refused(root):
    done = run("python", "-m", "app.jobs", "1", cwd=root, check=False)
    assert done.returncode == 1 and "jobs/1: no such job" in done.stderr


def test_a_page_is_given_the_end_of_a_long_log(root):
    job = finished_job(root)
    (job.folder / "log.txt").write_bytes(b"x" * jobs.LONGEST_LOG + b"\xff the end")
    assert len(job.log()) <= jobs.LONGEST_LOG and job.log().endswith("� the end")
