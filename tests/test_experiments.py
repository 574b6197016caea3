"""docs/experiments.md, as run: a sweep through the queue, compared and cleaned up."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import commit, copy_project, run, set_value, start

from app.seeds import SCORES


@pytest.fixture
def copy(finished, tmp_path):
    return copy_project(finished, tmp_path / "p")


def names(project):
    shown = json.loads(run("dvc", "exp", "show", "--json", cwd=project).stdout)
    return {exp["name"]: exp for entry in shown for exp in entry.get("experiments") or []}


@pytest.mark.slow  # four trainings of three variants each
def test_a_sweep_through_the_queue_is_compared_and_cleaned_up(copy):
    run("dvc", "exp", "run", "--queue", "-S", "train.rank=2,4", "-S", "train.seed=1,2", cwd=copy)
    run("dvc", "queue", "start", "-j", "2", cwd=copy)
    run("dvc", "queue", "logs", *names(copy), "-f", cwd=copy, check=False)
    for _ in range(600):
        if "Running" not in (status := run("dvc", "queue", "status", cwd=copy).stdout) and "Queued" not in status:
            break
    swept = names(copy)
    assert len(swept) == 4
    shown = run("dvc", "exp", "show", "--csv", "--drop", ".*", "--keep", "Experiment|rank|.*val_loss$", cwd=copy).stdout
    assert len([line for line in shown.splitlines() if any(name in line for name in swept)]) == 4

    one, other = list(swept)[:2]
    plots = json.loads(run("dvc", "plots", "diff", one, other, "--json", cwd=copy).stdout)["data"]
    assert set(plots["val_loss"][0]["revisions"]) == {one, other}
    assert {picture["revisions"][0] for picture in plots["plots/samples/blip.png"]} == {one, other}
    assert json.loads(run("dvc", "metrics", "diff", one, other, "--json", cwd=copy).stdout)

    seeds = run("python", "-m", "app.seeds", cwd=copy).stdout
    assert seeds.count("Seeds 1, 2:") == 2 and all(score in seeds for score in SCORES)

    run("dvc", "exp", "apply", one, cwd=copy)
    run("dvc", "exp", "branch", other, "kept", cwd=copy)
    assert "kept" in run("git", "branch", cwd=copy).stdout
    run("dvc", "exp", "remove", "--all-commits", cwd=copy)
    assert names(copy) == {}


@pytest.mark.slow  # two times three trainings, side by side
def test_two_experiments_of_the_same_trainings_succeed_side_by_side_with_models_outside_of_the_project(copy, tmp_path):
    shutil.copytree(copy / "models/embedded", tmp_path / "models")
    text = (copy / "profiles/embedded.yaml").read_text(encoding="utf-8")
    outside = text.replace("id: models/embedded/", f"id: {tmp_path / 'models'}/")
    (copy / "profiles/embedded.yaml").write_text(outside, encoding="utf-8")
    for key, value in {"steps": 12, "eval_every": 6}.items():
        set_value(copy / "profiles/embedded.yaml", key, value)
    set_value(copy / "params.yaml", "checkpoint_every", 1)
    commit(copy)
    for seeds in ("[7,8]", "[8,9]"):  # read after the trainings, which are the same
        run("dvc", "exp", "run", "--queue", "-S", "train.rank=4", "-S", f"evaluate.seeds={seeds}", cwd=copy)
    run("dvc", "queue", "start", "-j", "2", cwd=copy)
    run("dvc", "queue", "logs", *names(copy), "-f", cwd=copy, check=False)
    deadline = time.monotonic() + 600
    while any(state in run("dvc", "queue", "status", cwd=copy).stdout for state in ("Running", "Queued")):
        assert time.monotonic() < deadline
        time.sleep(1)
    status = run("dvc", "queue", "status", cwd=copy).stdout
    assert status.count("Success") == 2, status
    commits = run("git", "for-each-ref", "refs/exps", "--format=%(objectname) %(refname)", cwd=copy).stdout.splitlines()
    commits = [
        commit for commit, _, name in (line.partition(" ") for line in commits) if Path(name).name in names(copy)
    ]
    metrics = [json.loads(run("git", "show", f"{commit}:metrics/blip.json", cwd=copy).stdout) for commit in commits]
    assert len(metrics) == 2 and metrics[0]["val_loss"] == metrics[1]["val_loss"]
    assert metrics[0]["clip_score"] != metrics[1]["clip_score"]
    assert not list((copy / ".scratch/train").glob("*/step*"))


@pytest.mark.slow
def test_an_experiment_in_a_temporary_folder_goes_on_where_it_was_stopped_and_knows_its_captions(copy):
    for key, value in {"steps": 40, "eval_every": 40}.items():
        set_value(copy / "profiles/embedded.yaml", key, value)
    set_value(copy / "params.yaml", "checkpoint_every", 10)
    commit(copy)
    command = ["dvc", "exp", "run", "--temp", "-f", "-S", "caption_blip.max_new_tokens=20"]  # -f: every stage runs
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start(*command, cwd=copy, start_new_session=True, **quiet)
    deadline = time.monotonic() + 300
    while not list((copy / ".scratch/train").glob("*/step00000020")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    again = run(*command, cwd=copy).stdout
    assert "12 captions: 0 the user's own, 0 from names, 0 by BLIP, 12 known from before" in again
    assert "going on after step 20" in again or "going on after step 30" in again


@pytest.fixture
def one_stage(tmp_path):
    """A project of one stage that copies params.yaml, committed with its results."""
    project = tmp_path / "small"
    project.mkdir()
    run("git", "init", "-q", cwd=project)
    run("dvc", "init", "-q", cwd=project)
    (project / "params.yaml").write_text("rank: 8\n")
    (project / "README.md").write_text("as committed\n")
    stage = "stages:\n  train:\n    cmd: cp params.yaml out.txt\n    deps: [params.yaml]\n    outs: [out.txt]\n"
    (project / "dvc.yaml").write_text(stage)
    run("dvc", "remote", "add", "-d", "beside", "../store", cwd=project)
    run("dvc", "repro", "-q", cwd=project)
    commit(project)
    run("dvc", "exp", "run", "-n", "rank4", "-S", "rank=4", cwd=project)
    return project


def test_edits_that_apply_wrote_over_come_back_as_the_document_says(one_stage):
    run("git", "checkout", "-q", ".", cwd=one_stage)
    mine = {"README.md": "as I wrote it\n", "params.yaml": "rank: 8\nmine: 1\n"}
    for name, text in mine.items():
        (one_stage / name).write_text(text)
    run("dvc", "exp", "apply", "rank4", cwd=one_stage)
    assert (one_stage / "README.md").read_text() == "as committed\n"
    run("git", "restore", "--source", "refs/exps/apply/stash", ".", cwd=one_stage)
    run("dvc", "checkout", cwd=one_stage)
    assert {name: (one_stage / name).read_text() for name in mine} == mine
    assert (one_stage / "out.txt").read_text() == "rank: 8\n"


def test_after_an_experiment_a_push_sends_the_files_of_the_commit_only_from_a_clean_workspace(one_stage, tmp_path):
    run("git", "clone", "-q", str(one_stage), "clone", cwd=tmp_path)
    run("dvc", "push", "--all-branches", cwd=one_stage)
    assert run("dvc", "pull", cwd=tmp_path / "clone", check=False).returncode != 0
    run("git", "checkout", "-q", ".", cwd=one_stage)
    run("dvc", "checkout", cwd=one_stage)
    run("dvc", "push", cwd=one_stage)
    run("dvc", "pull", cwd=tmp_path / "clone")
    assert (tmp_path / "clone/out.txt").read_text() == "rank: 8\n"
