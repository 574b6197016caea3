"""app.machines on real Ray clusters: this machine's two cores, and two raylets of which one is killed."""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import call, commit, copy_project, run, start
from test_sweep import ALONE, plan, small, trained  # noqa: F401 (two fixtures)

from app import sweep
from app.clone import dvc
from app.machines import after_death, check_address, find_places, rows_in_clone, take_in
from app.search import open_study, open_trials
from app.trials import Trial
from tattoo_lora.errors import UserError


def logs(project):
    """DVC's hash of each experiment's logs, by name."""
    listed = run("git", "for-each-ref", "refs/exps", "--format=%(refname)", cwd=project).stdout.split()
    locks = {ref.rpartition("/")[2]: run("git", "show", f"{ref}:dvc.lock", cwd=project).stdout for ref in listed}
    return {name: lock.partition("runs/logs/blip.csv")[2].split()[3] for name, lock in locks.items() if "-" in name}


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
    assert len(logs(alone)) == 4 and logs(together) == logs(alone)
    columns = ["trial", "state", "profiles/embedded.yaml:train.rank", "val_loss", "test_loss"]
    columns[2] = "train.rank"
    tables = [pd.read_csv(project / "runs/sweeps/rank/sweep.csv")[columns] for project in (alone, together)]
    pd.testing.assert_frame_equal(*tables)
    assert printed.count(" begins on ") == 4


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
    machines, second = two_machines
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
    raylet = second.all_processes["raylet"][0].process.pid
    on_it = psutil.Process(raylet).children(recursive=True)  # a machine that dies takes the trainings with it
    machines.remove_node(second, allow_graceful=False)
    for process in on_it:
        with suppress(psutil.Error):
            process.kill()
    assert begun.wait(900) == 0
    text = (tmp_path / "printed.txt").read_text()
    assert "is gone; it starts again" in text and text.count(": val_loss ") == len(ranks)
    counts = trained(tmp_path, "snapshots")
    assert len(counts) == 4 * len(ranks) and sum(counts.values()) <= 4 * len(ranks) + 1  # the step that was cut
    alone = copy_project(small, tmp_path / "alone")
    call(sweep, alone, *ALONE, *options)
    assert len(logs(alone)) == len(ranks) and logs(project) == logs(alone)
    run("dvc", "exp", "apply", "rank-02", cwd=project)
    assert "rank: 10 " in (project / "params.yaml").read_text(encoding="utf-8")
