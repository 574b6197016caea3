"""docs/experiments.md, as run: a sweep through the queue, compared and cleaned up."""

import json

import pytest
from conftest import commit, copy_project, run

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
