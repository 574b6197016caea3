"""app.machines on real Ray clusters: this machine's two cores, and two raylets of which one is killed."""

import time

import pandas as pd
import pytest
from conftest import call, commit, copy_project, run, start
from test_sweep import ALONE, small, steps_with_rank, trained  # noqa: F401 (small is a fixture)

from app import sweep


def logs(project):
    """DVC's hash of each experiment's logs, by name."""
    listed = run("git", "for-each-ref", "refs/exps", "--format=%(refname)", cwd=project).stdout.split()
    locks = {ref.rpartition("/")[2]: run("git", "show", f"{ref}:dvc.lock", cwd=project).stdout for ref in listed}
    return {name: lock.partition("runs/logs/blip.csv")[2].split()[3] for name, lock in locks.items() if "-" in name}


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
    run("dvc", "remote", "add", "-d", "store", "../../store", cwd=project)
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
    machines.remove_node(second, allow_graceful=False)
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
