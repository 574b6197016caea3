"""app.sweep with real DVC, Git and Optuna, on stages that take no time: what a training does is tested elsewhere."""

import json
import re
import shutil
import signal
import time
from collections import Counter

import pandas as pd
import pytest
from conftest import ROOT, call, commit, copy_project, made_once, run, set_value, start
from filelock import FileLock

from app import sweep
from app.search import Plan, follow, open_study, open_trials
from app.sweep_results import table_text
from app.sweep_space import grid, read_knobs
from app.trials import experiment_ref, find_experiment

ALONE = ("--at-once", "1")  # as without Ray, if it is installed

# val_loss falls towards a level that the rank and rate decide; it goes on from a snapshot, as the real one does.
TRAIN = """
import os, sys, time
from pathlib import Path
from tattoo_lora.params import load_params, load_profile
variant = sys.argv[1]
params, profile = load_params().train, load_profile("embedded").train
if params.rank == 99:
    sys.exit("error: train_loss is nan at step 3; lower learning_rate (1); nothing is saved")
if params.rank == 98:
    sys.exit("error: the disk is full")
snapshot = Path(os.environ["DVC_ROOT"], f".scratch/train/{variant}-{params.rank}-{profile.learning_rate}-{params.seed}")
snapshot.parent.mkdir(parents=True, exist_ok=True)
log = Path(f"runs/logs/{variant}.csv")
log.parent.mkdir(parents=True, exist_ok=True)
log.write_text(snapshot.read_text() if snapshot.exists() else "step,train_loss,val_loss,clip_score\\n0,,1.0,50\\n")
begun = len(log.read_text().splitlines()) - 2
with snapshot.with_name("steps.txt").open("a") as counted:
    for step in range(begun + 1, profile.steps + 1):
        level = abs(params.rank - 8) / 100 + abs(profile.learning_rate - 0.001) + (params.seed - 42) / 1000
        with log.open("a") as file:
            file.write(f"{step},0.5,{level + 0.5 ** step:.6f},50\\n")
        snapshot.write_text(log.read_text())
        counted.write(f"{variant} {params.rank} {profile.learning_rate} {params.seed} {step}\\n")
        counted.flush()
        seconds, *ranks = Path("pause.txt").read_text().split()  # of every rank, or of those that follow
        time.sleep(float(seconds) if not ranks or str(params.rank) in ranks else 0)
snapshot.unlink()
"""
EVALUATE = """
import json, sys
from pathlib import Path
variant = sys.argv[1]
rows = Path(f"runs/logs/{variant}.csv").read_text().splitlines()
lowest = min(float(row.split(",")[2]) for row in rows[1:])
Path("metrics").mkdir(exist_ok=True)
Path(f"metrics/{variant}.json").write_text(json.dumps({"val_loss": lowest, "test_loss": lowest + 1, "clip_score": 5}))
"""
DAG = """
stages:
  train:
    foreach: ${variants}
    do:
      cmd: python train.py ${key}
      params: [train, "profiles/${profile}.yaml": [train]]
      outs: ["runs/logs/${key}.csv"]
  evaluate:
    foreach: ${variants}
    do:
      cmd: python evaluate.py ${key}
      deps: ["runs/logs/${key}.csv"]
      metrics: ["metrics/${key}.json": {cache: false}]
"""


@pytest.fixture(scope="session")
def small(shared):
    """A project with the params of this one, three variants and a dvc.lock."""

    def make(target):
        target.mkdir()
        for name in ("params.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, target)
        shutil.copytree(ROOT / "profiles", target / "profiles")
        for name, text in {"train.py": TRAIN, "evaluate.py": EVALUATE, "dvc.yaml": DAG, "pause.txt": "0"}.items():
            (target / name).write_text(text.lstrip())
        set_value(target / "profiles/embedded.yaml", "warmup_steps", 0)
        set_value(target / "profiles/embedded.yaml", "train.steps", 4)
        set_value(target / "profiles/embedded.yaml", "learning_rate", 2.5e-3)
        for name in ("app", "stages", "tattoo_lora"):
            (target / name).symlink_to(ROOT / name, target_is_directory=True)
        run("git", "init", "-q", cwd=target)
        run("dvc", "init", "-q", cwd=target)
        commit(target)
        run("dvc", "repro", "-q", cwd=target)
        commit(target)

    return made_once(shared / "small", make)


def trained(project, snapshots=".scratch/train"):
    """How often each step of each training was computed: (variant, rank, learning rate, seed, step)."""
    lines = (project / snapshots / "steps.txt").read_text().splitlines()
    return Counter(tuple(line.split()) for line in lines)


def steps_with_rank(project, rank, snapshots=".scratch/train"):
    return {key[-1]: count for key, count in trained(project, snapshots).items() if key[1] == str(rank)}


@pytest.fixture(scope="session")
def swept(small, shared):
    """The small project after a sweep of ranks, one of which diverges, and what that printed."""

    def make(target):
        copy_project(small, target)
        options = ["-S", "rank=4,12,99,8", "--variants", "blip", "--best", "1"]
        (target / "printed.txt").write_text(call(sweep, target, *ALONE, *options), encoding="utf-8")

    return made_once(shared / "swept", make)


def test_each_trial_is_an_experiment_with_its_params_and_only_metrics_that_were_measured(swept):
    shown = json.loads(run("dvc", "exp", "show", "--json", cwd=swept).stdout)
    experiments = {
        experiment["name"]: experiment["revs"][0]["data"]
        for entry in shown
        for experiment in entry.get("experiments") or []
    }
    ranks = {name: data["params"]["params.yaml"]["data"]["train"]["rank"] for name, data in experiments.items()}
    assert ranks == {"rank-00": 4, "rank-01": 12, "rank-03": 8}
    metrics = {
        name: {file for file, of in data["metrics"].items() if of.get("data")} for name, data in experiments.items()
    }
    assert metrics == {"rank-00": set(), "rank-01": set(), "rank-03": {"metrics/blip.json"}}


def test_the_best_trials_come_first_and_alone_have_test_scores(swept):
    table = pd.read_csv(swept / "runs/sweeps/rank/sweep.csv")
    assert list(table["trial"]) == ["rank-03", "rank-00", "rank-01", "rank-02"]
    assert list(table["state"]) == ["done", "done", "done", "failed"]
    assert list(table["val_loss"].dropna()) == pytest.approx([0.064, 0.104, 0.104])
    assert list(table["test_loss"].dropna()) == pytest.approx([1.064])
    assert "train_loss is nan at step 3; lower learning_rate" in table["reason"].iloc[-1]
    assert (swept / "runs/sweeps/rank/sweep.png").read_bytes().startswith(b"\x89PNG")
    printed = (swept / "printed.txt").read_text(encoding="utf-8")
    assert re.search(r"(?m)^4 of 4: rank-03 rank=8: val_loss 0\.0640 \(best so far\), \d+ s on ", printed)
    assert "| rank-03 | done | 8 | 0.0640 | 4 |" in printed and "dvc exp apply rank-03" in printed


def test_an_experiment_that_outlived_its_killed_sweep_keeps_no_metrics_of_another_either(swept, tmp_path):
    project = copy_project(swept, tmp_path / "p")
    run("dvc", "exp", "run", "--temp", "-n", "left-00", "-S", "train.rank=12", "train@blip", cwd=project)
    call(sweep, project, *ALONE, "-S", "rank=12", "--variants", "blip", "--best", "0", "--name", "left")
    head = run("git", "rev-parse", "HEAD", cwd=project).stdout.strip()
    listed = run("git", "ls-tree", "-r", "--name-only", experiment_ref(head, "left-00"), cwd=project).stdout
    assert "dvc.lock" in listed.split() and "metrics/" not in listed


def test_apply_brings_a_trial_back(swept, tmp_path):
    project = copy_project(swept, tmp_path / "p")
    run("dvc", "exp", "apply", "rank-01", cwd=project)
    assert "rank: 12 " in (project / "params.yaml").read_text(encoding="utf-8")
    assert (project / "runs/logs/blip.csv").read_text().endswith("\n4,0.5,0.104000,50\n")


def test_a_finished_sweep_runs_nothing_again_and_another_of_that_name_is_refused(swept, tmp_path, capsys):
    project = copy_project(swept, tmp_path / "p")
    call(sweep, project, *ALONE, "-S", "rank=4,12,99,8", "--variants", "blip", "--best", "1")
    assert trained(project) == trained(swept)
    assert set(trained(project).values()) == {1}
    with pytest.raises(SystemExit):
        call(sweep, project, *ALONE, "-S", "rank=4,12", "--variants", "blip")
    assert "error: runs/sweeps/rank: this sweep was begun with other knobs; give the" in capsys.readouterr().err


def test_a_hopeless_training_is_stopped_and_leaves_its_snapshot_and_no_experiment(swept, tmp_path):
    project = copy_project(swept, tmp_path / "p")
    (project / "pause.txt").write_text("60 60")
    commit(project)
    call(sweep, project, *ALONE, "-S", "rank=4,8,12,60", "--variants", "blip", "--best", "0", "--name", "p")
    table = pd.read_csv(project / "runs/sweeps/p/sweep.csv").set_index("trial")
    assert dict(table["state"]) == {"p-00": "done", "p-01": "done", "p-02": "done", "p-03": "stopped"}
    assert table.loc["p-03", "reason"] == "stopped at step 1" and len(steps_with_rank(project, 60)) < 4
    assert list((project / ".scratch/train").glob("blip-60-*"))
    head = run("git", "rev-parse", "HEAD", cwd=project).stdout.strip()
    listed = run("git", "for-each-ref", f"refs/exps/{head[:2]}/{head[2:]}", "--format=%(refname)", cwd=project).stdout
    assert {line.rpartition("/")[2] for line in listed.split()} == {"p-00", "p-01", "p-02"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_killed_or_stopped_goes_on_and_trains_nothing_twice(small, tmp_path, number):
    project = copy_project(small, tmp_path / "p")
    (project / "pause.txt").write_text("0.7")
    commit(project)
    options = ["-S", "rank=4,12", "--variants", "blip", "--best", "0"]
    begun = start("python", "-m", "app.sweep", *ALONE, *options, cwd=project)
    deadline = time.monotonic() + 120
    while steps_with_rank(project, 12).keys() != {"1", "2"}:
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    begun.send_signal(number)
    assert begun.wait(60) == {signal.SIGKILL: -9, signal.SIGINT: 130}[number]
    printed = call(sweep, project, *ALONE, *options)
    assert "rank-00" in printed.partition("|")[2] and not printed.startswith("1 of 2")
    assert printed.startswith("2 of 2: rank-01 rank=12: val_loss 0.1040")
    for rank in (4, 12):
        assert steps_with_rank(project, rank) == dict.fromkeys("1234", 1)
    assert not list((project / ".dvc/tmp/exps").glob("**/params.yaml"))  # the folder of the broken-off experiment


def test_other_errors_stop_the_sweep_and_the_trial_goes_on_later(small, tmp_path, capsys):
    project = copy_project(small, tmp_path / "p")
    for _ in range(2):
        with pytest.raises(SystemExit):
            call(sweep, project, *ALONE, "-S", "rank=98", "--variants", "blip")
        assert "error: rank-00: the disk is full; the same command goes on here" in capsys.readouterr().err
    assert not find_experiment(run("git", "rev-parse", "HEAD", cwd=project).stdout.strip(), "rank-00")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Of a search for a learning rate, without Git and DVC."""
    monkeypatch.chdir(tmp_path)
    knobs = read_knobs(["learning_rate=1e-5..1e-2:log", "optimizer=adamw,prodigy"], ROOT, "embedded")
    return Plan("lr", "0" * 40, knobs, grid(knobs), 14, ("blip",), (42,))


def search(plan, breaks_off):
    """The learning rates of a whole search; with `breaks_off` each trial is begun twice, the second time anew."""
    (plan.folder).mkdir(parents=True)
    rates, study = [], open_study(plan, pruning=True)
    for number in range(plan.trials):
        if breaks_off:
            next(open_trials(study, plan))
            study = open_study(plan, pruning=True)
        course = next(open_trials(study, plan))
        assert course.trial.number == number
        rate = float(course.values["profiles/embedded.yaml:train.learning_rate"])
        study.tell(course.trial, abs(rate - 1e-3))
        rates.append(rate)
    assert list(open_trials(study, plan)) == []
    return rates


def test_a_search_that_was_broken_off_at_each_trial_tries_the_same(plan, tmp_path, monkeypatch):
    rates = search(plan, breaks_off=False)
    assert len(set(rates)) == plan.trials and all(1e-5 <= rate <= 1e-2 for rate in rates)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert search(plan, breaks_off=True) == rates


def test_pruning_saves_a_third_of_the_steps_and_keeps_the_best(plan):
    """Loss curves as trainings have them: the lower the level, the better at each step, with a little noise."""
    plan.folder.mkdir(parents=True)
    study, computed = open_study(plan, pruning=True), Counter()
    levels = [0.3, 0.12, 0.5, 0.2, 0.1, 0.6, 0.4, 0.35, 0.11, 0.7, 0.8, 0.15, 0.45, 0.9]

    def rows(number):
        for step in range(60, 241, 60):
            computed[number] += 60
            yield 0, step, levels[number] + 0.5 ** (step / 60)

    for course in open_trials(study, plan):
        follow(course, rows(course.trial.number))
    assert study.best_trial.number == levels.index(min(levels))
    assert sum(computed.values()) <= 0.7 * 240 * plan.trials
    assert study.best_trial.user_attrs["steps"] == 240 and study.trials[-1].user_attrs["reason"] == "stopped at step 60"


def test_a_score_is_the_mean_of_the_lowest_losses_of_all_trainings(plan):
    plan.folder.mkdir(parents=True)
    study = open_study(plan, pruning=False)
    follow(next(open_trials(study, plan)), iter([(0, 1, 0.5), (0, 2, 0.3), (0, 3, 0.4), (1, 1, 0.2), (1, 2, 0.1)]))
    assert study.best_value == pytest.approx(0.2)
    assert study.best_trial.user_attrs["steps"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-S", "rank"], "-S rank: write KEY=4,8,16 or KEY=1e-5..1e-3:log, and FILE:KEY where FILE is not clear"),
        (
            ["-S", "rank=9..4"],
            "-S rank=9..4: a range goes from a lower number to a higher one, and with :log from above 0",
        ),
        (["-S", "noise_offset=0..0.1:log"], "a range goes from a lower number to a higher one, and with :log from abo"),
        (["-S", "rank=4,]"], "-S rank=4,]: the values are no YAML"),
        (
            ["-S", "rank=4", "-S", "train.rank=8"],
            "-S train.rank=8: train.rank stands in two -S; write all its values in",
        ),
        (["-S", "rank=4,0"], "params.yaml: train.rank: found 0, allowed: a whole number 1 to 1024"),
        (["-S", "rank=0..8"], "params.yaml: train.rank: found 0, allowed: a whole number 1 to 1024"),
        (["-S", "profiles/x.yaml:steps=4"], "profiles/x.yaml: no such profile"),
        (["-S", "rnk=4"], "-S rnk=…: params of that name in params.yaml and profiles/embedded.yaml: none; name one"),
        (["-S", "seeds=4"], "params.yaml: evaluate.seeds: found 4, allowed: some whole numbers"),
        (
            ["-S", "sampler_steps=4"],
            "params.yaml:train.sampler_steps, profiles/embedded.yaml:sampling.sampler_steps; name",
        ),
        (["-S", "rank=4,8", "--trials", "2"], "--trials: all 2 combinations of lists are tried; leave it out"),
        (["-S", "rank=4..8"], "--trials: missing; how many values to try of a range"),
        (["-S", "rank=4..8", "--trials", "0"], "--trials 0: allowed is at least 1"),
        (["-S", "rank=4", "--seeds", "0"], "--seeds 0: allowed is at least 1"),
        (["-S", "rank=4", "--gpus-per-trial", "-1"], "--gpus-per-trial -1: allowed is at least 0"),
        (["-S", "rank=4", "--gpus-per-trial", "1.5"], "--gpus-per-trial 1.5: allowed are parts of one GPU and whole"),
        (["-S", "rank=4", "--at-once", "0"], "--at-once 0: allowed is at least 1"),
        (["-S", "rank=4", "--best", "-1"], "--best -1: allowed is at least 0"),
        (
            ["-S", "rank=4", "--variants", "red"],
            "params.yaml: variants: there is no red; there are vanilla, blip, blip_pl",
        ),
        (["-S", "rank=4", "--name", "a b"], "--name a b: letters, digits, - and _ only, as the experiments are called"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_work(small, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        call(sweep, small, *ALONE, *options)
    assert stopped.value.code == 1 and message in capsys.readouterr().err
    assert not (small / "runs/sweeps").exists()


def test_uncommitted_changes_are_refused(small, tmp_path, capsys):
    project = copy_project(small, tmp_path / "p")
    set_value(project / "params.yaml", "rank", 16)
    with pytest.raises(SystemExit):
        call(sweep, project, *ALONE, "-S", "alpha=4,8")
    assert "error: params.yaml is not committed; commit first: all trials start from" in capsys.readouterr().err


def test_a_sweep_that_runs_is_not_started_twice(small, tmp_path, capsys):
    project = copy_project(small, tmp_path / "p")
    (project / "runs/sweeps/rank").mkdir(parents=True)
    with FileLock(project / "runs/sweeps/rank/lock"), pytest.raises(SystemExit):
        call(sweep, project, *ALONE, "-S", "rank=4")
    assert "error: runs/sweeps/rank: this sweep is running; wait for it, or give" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--address", "auto"), ("--gpus-per-trial", "0.5"), ("--at-once", "2")])
def test_without_ray_what_needs_it_is_refused(small, capsys, monkeypatch, option):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # of ray alone is asked
    with pytest.raises(SystemExit):
        call(sweep, small, "-S", "rank=4", *option)
    assert f"error: {option[0]}: Ray is not installed: `pip install -r requirements-ray.txt`" in capsys.readouterr().err


def test_a_knob_that_is_called_as_a_column_keeps_its_whole_name_in_the_table():
    row = {
        "trial": "a-00",
        "train.rank": "8",
        "profiles/embedded.yaml:train.steps": "60",
        "val_loss": 0.07,
        "steps": 40,
    }
    heading, _, cells = table_text(pd.DataFrame([row])).splitlines()
    assert heading == "| trial | rank | profiles/embedded.yaml:train.steps | val_loss | steps |"
    assert cells == "| a-00 | 8 | 60 | 0.0700 | 40 |"
