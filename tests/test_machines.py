"""app.machines on real Ray clusters: this machine's two cores, and two raylets of which one is killed."""

import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from conftest import ENVIRONMENT, call, commit, copy_project, run, set_value, start
from test_sweep import ALONE, plan, small, steps_with_rank, trained  # noqa: F401 (two fixtures)

from app import sweep
from app.clone import dvc
from app.jobs import started_by
from app.machines import after_death, check_address, find_places, rows_in_clone, take_in
from app.search import open_study, open_trials
from app.trials import Trial, mark
from tattoo_lora.errors import UserError


def made(project, path="runs/logs/blip.csv"):
    """DVC's hash of that output in each of the sweep's experiments, by name."""
    listed = run("git", "for-each-ref", "refs/exps", "--format=%(refname)", cwd=project).stdout.split()
    hashes = {}
    for ref in (ref for ref in listed if "-" in ref):
        stages = yaml.safe_load(run("git", "show", f"{ref}:dvc.lock", cwd=project).stdout)["stages"]
        outs = [out for stage in stages.values() for out in stage["outs"]]
        [hashes[ref.rpartition("/")[2]]] = [out["md5"] for out in outs if out["path"] == path]
    return hashes


def test_a_clone_gets_what_a_trial_needs_from_the_remotes_and_hands_its_experiment_back(small, tmp_path, monkeypatch):  # noqa: F811
    project = with_remotes(copy_project(small, tmp_path / "p"), tmp_path)
    monkeypatch.chdir(project)
    places = find_places("auto", tmp_path / "snapshots")
    head = run("git", "rev-parse", "HEAD", cwd=project).stdout.strip()
    trial = Trial(head, {"r-00": 42}, ("train.rank=6",), ("blip",), Path("runs/sweeps/r/logs"))
    place, *rows = rows_in_clone(places.job(trial))
    assert set(place) == {"place", "gpu"} and [row[1] for row in rows] == [1, 2, 3, 4]
    assert rows[-1] == pytest.approx([0, 4, 0.084])
    assert list(rows_in_clone(places.job(trial)))[1:] == rows  # handed back before: nothing runs again
    assert sum(trained(tmp_path, "snapshots").values()) == 4
    run("dvc", "exp", "pull", "--run-cache", "origin", "r-00", cwd=project)
    run("dvc", "exp", "apply", "r-00", cwd=project)  # with what lies on DVC's remote alone
    assert (project / "runs/logs/blip.csv").read_text().endswith("\n4,0.5,0.084000,50\n")
    gone = places.job(replace(trial, commit="0" * 40))
    assert "git checkout: " in list(rows_in_clone(gone))[-1]["failed"]


def test_what_other_machines_could_not_reach_is_said_before(small, tmp_path, monkeypatch):  # noqa: F811
    project = copy_project(small, tmp_path / "p")
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match="clone the project from Git's remote origin, and there is none"):
        find_places("auto", None)
    run("git", "init", "-q", "--bare", str(tmp_path / "origin.git"), cwd=tmp_path)
    run("git", "remote", "add", "origin", "../origin.git", cwd=project)
    with pytest.raises(UserError, match="the last commit is not on a remote branch; `git push` it"):
        find_places("auto", None)
    run("git", "push", "-q", "origin", "HEAD", cwd=project)
    with pytest.raises(
        UserError, match="other machines get data from DVC's remote, and there is none: docs/remotes.md"
    ):
        find_places("auto", None)
    run("dvc", "remote", "add", "-d", "store", "../store", cwd=project)
    places = find_places("auto", None)
    assert places.url == str(tmp_path / "origin.git") and places.remotes == {"store": str(tmp_path / "store")}
    with pytest.raises(UserError, match="`dvc remote modify` failed: ERROR"):
        dvc("remote", "modify", "other", "url", "x")


def test_a_trial_that_dies_wherever_it_runs_is_no_news_for_a_third_machine(plan, capsys):  # noqa: F811
    plan.folder.mkdir(parents=True)
    course = next(open_trials(open_study(plan, pruning=False), plan))
    assert not take_in(course, {"place": "here", "gpu": "1"})
    assert after_death(after_death(course, "x"), "x") is course
    assert capsys.readouterr().out.count("lr-00: its process on here, GPU 1 is gone; it starts again") == 2
    with pytest.raises(UserError, match="lr-00: its process or machine died 3 times; the last time: killed by the sys"):
        after_death(course, "Task failed.\nkilled by the system")
    with pytest.raises(UserError, match="^the disk is full$"):
        take_in(course, {"failed": "the disk is full"})
    assert take_in(course, {"diverged": "train_loss is nan"})
    assert course.study.trials[0].state.name == "FAIL"


def test_an_address_where_nothing_answers_is_said():
    with pytest.raises(UserError, match="--address 127.0.0.1:1: no Ray cluster answers there \\("):
        check_address("127.0.0.1:1")


@pytest.mark.slow
def test_more_gpus_than_there_are_would_wait_for_ever(small, tmp_path):  # noqa: F811
    pytest.importorskip("ray")
    project = copy_project(small, tmp_path / "p")
    failed = run("python", "-m", "app.sweep", "-S", "rank=4", "--gpus-per-trial", "9", cwd=project, check=False)
    assert failed.returncode == 1
    assert "error: --gpus-per-trial 9: there are 0 GPUs, so no trial would ever begin" in failed.stderr


@pytest.mark.slow
def test_trials_at_once_give_what_they_give_one_after_another(small, tmp_path):  # noqa: F811
    pytest.importorskip("ray")
    options = ["-S", "rank=4,6,8,10", "--variants", "blip", "--best", "1", "--no-pruning"]
    alone, together = (copy_project(small, tmp_path / name) for name in ("alone", "together"))
    call(sweep, alone, *ALONE, *options)
    printed = run("python", "-m", "app.sweep", "--at-once", "2", *options, cwd=together).stdout
    assert len(made(alone)) == 4 and made(together) == made(alone)
    columns = ["trial", "state", "train.rank", "val_loss", "test_loss"]
    tables = [pd.read_csv(project / "runs/sweeps/rank/sweep.csv")[columns] for project in (alone, together)]
    pd.testing.assert_frame_equal(*tables)
    assert printed.count(" begins on ") == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_trials_at_once_whose_sweep_ends_go_on_later(small, tmp_path, number, monkeypatch):  # noqa: F811
    pytest.importorskip("ray")
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(tmp_path))  # where clones are
    monkeypatch.setitem(ENVIRONMENT, "RAY_TMPDIR", "/tmp")  # the names of sockets must be short
    project = copy_project(small, tmp_path / "p")
    (project / "pause.txt").write_text("8")
    commit(project)
    options = ["--at-once", "2", "-S", "rank=4,12", "--variants", "blip", "--best", "0", "--no-pruning"]
    begun = start("python", "-m", "app.sweep", *options, cwd=project)
    deadline = time.monotonic() + 240
    while not all(steps_with_rank(project, rank) for rank in (4, 12)):
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    begun.send_signal(number)
    assert begun.wait(60) == {signal.SIGKILL: -9, signal.SIGINT: 130}[number]
    # As of a sweep of one at a time: one that is stopped ends all, what a killed one leaves is ended by the next.
    left = started_by(mark(run("git", "rev-parse", "HEAD", cwd=project).stdout.strip(), "rank-01"))
    assert (number == signal.SIGKILL) == any("train.py" in process.cmdline() for process in left)
    assert len(steps_with_rank(project, 12)) < 4
    assert run("python", "-m", "app.sweep", *options, cwd=project).stdout.count(": val_loss ") == 2
    for rank in (4, 12):
        assert steps_with_rank(project, rank) == dict.fromkeys("1234", 1)


@pytest.mark.slow
def test_of_trials_at_once_too_a_hopeless_one_is_stopped(small, tmp_path):  # noqa: F811
    pytest.importorskip("ray")
    project = copy_project(small, tmp_path / "p")
    (project / "pause.txt").write_text("60 60")
    commit(project)
    options = ["--at-once", "2", "-S", "rank=4,8,12,6,60", "--variants", "blip", "--best", "0"]
    run("python", "-m", "app.sweep", *options, cwd=project)
    table = pd.read_csv(project / "runs/sweeps/rank/sweep.csv").set_index("trial")
    assert dict(table["state"]) == {f"rank-0{i}": "done" for i in range(4)} | {"rank-04": "stopped"}
    assert table.loc["rank-04", "reason"] == "stopped at step 1" and len(steps_with_rank(project, 60)) < 4
    assert sorted(made(project)) == [f"rank-0{i}" for i in range(4)]


@pytest.fixture
def two_machines(tmp_path, monkeypatch):
    """Two raylets with one core each; they know the project only by what its remotes give."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # the names of sockets must be short
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where clones are
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield machines, machines.add_node(num_cpus=1)
    machines.shutdown()


def kill(machines, second):
    """Let the second machine die, and the trainings on it."""
    raylet = second.all_processes["raylet"][0].process.pid
    on_it = psutil.Process(raylet).children(recursive=True)
    machines.remove_node(second, allow_graceful=False)
    for process in on_it:
        with suppress(psutil.Error):
            process.kill()


def with_remotes(project, folder):
    """The project with a remote of Git's and one of DVC's, which have all that is committed."""
    run("git", "init", "-q", "--bare", str(folder / "origin.git"), cwd=folder)
    run("git", "remote", "add", "origin", str(folder / "origin.git"), cwd=project)
    run("dvc", "remote", "add", "-d", "store", "../store", cwd=project)
    commit(project)
    run("git", "push", "-q", "origin", "HEAD", cwd=project)
    run("dvc", "push", "-q", cwd=project)
    return project


@pytest.mark.slow
def test_a_trial_whose_machine_dies_goes_on_on_another_and_all_are_handed_back(small, tmp_path, two_machines):  # noqa: F811
    machines, _ = two_machines
    project = copy_project(small, tmp_path / "p")
    (project / "pause.txt").write_text("4")
    with_remotes(project, tmp_path)
    ranks = [4, 6, 10, 12]
    options = ["-S", f"rank={','.join(map(str, ranks))}", "--variants", "blip", "--best", "0", "--no-pruning"]
    cluster = ["--address", machines.address, "--snapshots", str(tmp_path / "snapshots")]
    with (tmp_path / "printed.txt").open("w") as printed:
        begun = start("python", "-m", "app.sweep", *options, *cluster, cwd=project, stdout=printed)
    deadline = time.monotonic() + 600
    while not (steps := tmp_path / "snapshots/steps.txt").exists() or steps.read_text().split()[4::5].count("2") < 2:
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    kill(*two_machines)
    assert begun.wait(900) == 0
    text = (tmp_path / "printed.txt").read_text()
    assert "is gone; it starts again" in text and text.count(": val_loss ") == len(ranks)
    counts = trained(tmp_path, "snapshots")
    assert len(counts) == 4 * len(ranks) and sum(counts.values()) <= 4 * len(ranks) + 1  # the step that was cut
    alone = copy_project(small, tmp_path / "alone")
    call(sweep, alone, *ALONE, *options)
    assert len(made(alone)) == len(ranks) and made(project) == made(alone)
    run("dvc", "exp", "apply", "rank-02", cwd=project)
    assert "rank: 10 " in (project / "params.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_eight_real_trainings_on_two_machines_of_which_one_dies_make_the_adapters_of_one_machine(
    finished, tmp_path, two_machines
):
    project = copy_project(finished, tmp_path / "p")
    set_value(project / "profiles/embedded.yaml", "train.steps", 16)
    set_value(project / "profiles/embedded.yaml", "warmup_steps", 2)
    set_value(project / "params.yaml", "checkpoint_every", 2)
    with_remotes(project, tmp_path)
    alone = copy_project(project, tmp_path / "alone")
    ranks = [1, 2, 3, 4, 5, 6, 7, 8]
    options = ["-S", f"rank={','.join(map(str, ranks))}", "--variants", "blip", "--best", "0", "--no-pruning"]
    snapshots = tmp_path / "snapshots"
    cluster = ["--address", two_machines[0].address, "--snapshots", str(snapshots)]

    def reached():
        """The step of each training's snapshot."""
        return {step.parent.name: int(step.name.removeprefix("step")) for step in sorted(snapshots.glob("*/step*"))}

    with (tmp_path / "printed.txt").open("w") as printed:
        begun = start("python", "-m", "app.sweep", *options, *cluster, cwd=project, stdout=printed)
    deadline = time.monotonic() + 900
    while len([step for step in reached().values() if step >= 4]) < 2:
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    kill(*two_machines)
    before = reached()
    while begun.poll() is None:
        now = reached()
        assert all(now.get(key, step) >= step for key, step in before.items())  # none begins anew
        time.sleep(0.2)
    assert begun.returncode == 0
    text = (tmp_path / "printed.txt").read_text()
    assert "is gone; it starts again" in text and text.count(": val_loss ") == len(ranks)
    call(sweep, alone, *ALONE, *options)
    for path in ("runs/lora/blip", "runs/logs/blip.csv"):
        assert len(made(alone, path)) == len(ranks) and made(project, path) == made(alone, path)
