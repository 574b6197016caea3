"""docs/experiments.md, as run: a sweep through the queue, compared and cleaned up."""

import json

import pytest
from conftest import copy_project, run

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
