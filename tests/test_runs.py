"""app.runs: what runs leave behind, read while it is half-written, cut, broken or gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ENVIRONMENT, commit, copy_project, run, set_value

from app.compare import fetch
from app.run_tables import parse_log, read_curves, read_drawing_rows, read_pictures, read_table, search, smoothed
from app.runs import (
    Run,
    being_written,
    inside,
    last_step,
    list_samples,
    other_datasets,
    parse_runs,
    read_executors,
    read_findings,
    read_metrics,
    show_experiments,
    states,
    trained_variants,
    workspace,
)
from app.ui import git_folder

LOG = b"step,train_loss,val_loss,clip_score\n0,,0.106172,59.458468\n10,0.073042,,\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("cut", [b"2", b"20", b"20,0.0", b"20,0.072260,0.1,6"])
def test_a_line_of_a_log_that_is_not_finished_is_left_for_later(cut):
    log = parse_log(LOG + cut)
    assert list(log["step"]) == [0, 10]
    assert list(parse_log(LOG + b"20,0.072260,0.1,60.5\n")["clip_score"].dropna()) == [59.458468, 60.5]


@pytest.mark.parametrize(
    ("raw", "step"),
    [(LOG, 10), (LOG + b"20,0.0", 10), (LOG + b"20\n30,0.1,,\n", 30), (LOG[:37], None), (b"\xff", None)],
)
def test_how_far_a_training_is_stands_in_its_last_whole_line(tmp_path, raw, step):
    write(tmp_path / "runs/logs/blip.csv", raw)
    assert last_step(Run("here", folder=tmp_path), "blip") == step
    assert last_step(Run("here", folder=tmp_path), "other") is None


@pytest.mark.parametrize("raw", [b"", b"step", LOG[:37], b"\x00\xff\n\n", b"a,b\n1,2\n"])
def test_what_is_no_log_has_no_rows(raw):
    assert parse_log(raw).empty


def test_lines_of_a_log_that_are_broken_are_left_out():
    assert list(parse_log(LOG + b"\x00\x00\n20,x,,\nstep,,,\n30,0.1,,\n")["step"]) == [0, 10, 20, 30]


def test_curves_are_of_all_variants_that_have_begun_in_the_order_of_the_params(tmp_path):
    for name in ("zebra", "blip", "vanilla"):
        write(tmp_path / f"runs/logs/{name}.csv", LOG)
    write(tmp_path / "runs/logs/blip_plus.csv", b"step,train_l")
    params = {f"variants.{name}.trigger": "" for name in ("vanilla", "blip", "blip_plus", "later")}
    here = Run("here", folder=tmp_path, params=params)
    assert trained_variants(here) == ["vanilla", "blip", "blip_plus", "zebra"]
    curves = read_curves(here)
    assert len(curves) == 9 and set(curves["variant"]) == {"vanilla", "blip", "zebra"}
    assert read_curves(Run("nothing", folder=tmp_path / "none")).empty


def test_smoothing_leaves_a_constant_as_it_is_and_calms_the_rest():
    steps = range(40)
    table = pd.DataFrame({"run": "r", "variant": "v", "curve": "c", "step": steps, "value": [5.0] * 40})
    assert smoothed(table, 0.9)["value"].round(9).eq(5).all()
    jumping = table.assign(value=[float(step % 2) for step in steps])
    assert smoothed(jumping, 0.9)["value"].iloc[20:].between(0.4, 0.6).all()
    assert smoothed(jumping, 0)["value"].equals(jumping["value"])


HOSTILE = ["../secret.png", "/etc/passwd", "a/../../b.png", "..\\b.png", "", "a\0.png"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_from_a_file_does_not_lead_out_of_its_folder(name):
    assert inside("data/raw/flash", name) is None
    assert inside("data/raw/flash", "sub/owl.png") == "data/raw/flash/sub/owl.png"


def test_evaluated_pictures_outside_of_their_folder_have_no_path_here(tmp_path):
    rows = "prompt,seed,clip_score,copy,file\nan owl,7,60.1,0,prompt00_seed7.png\nan owl,8,60.1,1,../../../x.png\n"
    write(tmp_path / "runs/evaluation/base/pictures.csv", rows)
    table = read_pictures(Run("here", folder=tmp_path))
    assert list(table["path"]) == ["runs/evaluation/base/prompt00_seed7.png", ""]
    write(tmp_path / "runs/evaluation/base/pictures.csv", "prompt,se")
    assert read_pictures(Run("here", folder=tmp_path)).empty


def test_samples_are_found_by_variant_and_step(tmp_path):
    for step in (0, 100, 20):
        write(tmp_path / f"runs/samples/blip/eval_step{step:04d}/prompt00.png", b"x")
    write(tmp_path / "runs/samples/adhoc/an-owl_7.png", b"x")
    write(tmp_path / "runs/logs/blip.csv", LOG)
    found = list_samples(Run("here", folder=tmp_path))
    assert list(found) == ["blip"] and list(found["blip"]) == [0, 20, 100]
    assert found["blip"][20] == ["runs/samples/blip/eval_step0020/prompt00.png"]


def test_metrics_that_are_half_written_are_left_out(tmp_path):
    write(tmp_path / "metrics/blip.json", '{"val_loss": 0.1}')
    write(tmp_path / "metrics/base.json", '{"val_lo')
    write(tmp_path / "metrics/odd.json", "3")
    write(tmp_path / "metrics/findings.json", '{"headline": "Winner: blip"}')  # no evaluation
    assert read_metrics(Run("here", folder=tmp_path)) == {"blip": {"val_loss": 0.1}}


@pytest.mark.parametrize("content", ["", "3", '{"headline": "Win', '{"headline": "Winner: blip"}'])
def test_findings_that_are_not_there_or_half_written_are_none(tmp_path, content):
    assert read_findings(Run("here", folder=tmp_path)) == {}
    write(tmp_path / "metrics/findings.json", content)
    assert read_findings(Run("here", folder=tmp_path)) == {}


@pytest.mark.parametrize("raw", [None, b"", b"\xff\xfe\n\n", b'a,b\n"1,2\n'])
def test_what_is_no_table_has_no_rows(raw):
    assert read_table(raw).empty


def test_drawings_are_read_with_rejects_and_captions(tmp_path):
    folder = tmp_path / "data/processed/flash"
    write(
        folder / "manifest.csv",
        "source,status,reason,note,file,sha256,width,height,split,group,license,author,url\n"
        "owl.png,kept,,inverted,owl.png,00,9,9,val,g1,CC0,<b>me</b>,\n"
        "owl2.png,duplicate,duplicate of owl.png,,,00,9,9,,g1,,,\n"
        "x.png,rejected,truncated,,,00,,,,,,,\n",
    )
    write(
        folder / "captions.csv",
        "file,origin,caption,tokens,enriched,enriched_tokens,changes\nowl.png,user,o,1,o,2,+x\nowl.png,user,b,1,b,2,+y\n",
    )
    for kind in ("vanilla", "blip", "blip_plus"):
        write(folder / f"captions_{kind}/owl.txt", f"{kind} owl\n")
    table = read_drawing_rows(Run("here", folder=tmp_path), "flash")
    owl = table.iloc[0]
    assert (owl["vanilla"], owl["blip"], owl["blip_plus"]) == ("vanilla owl", "blip owl", "blip_plus owl")
    assert (owl["origin"], owl["changes"], owl["note"]) == ("user", "+x\n+y", "inverted")
    assert list(table["status"]) == ["kept", "duplicate", "rejected"] and list(table["group"]) == ["g1", "g1", ""]
    assert list(search(table, "TRUNC")["source"]) == ["x.png"] and len(search(table, "")) == 3
    assert len(search(table, "owl.png g1")) == 2 and search(table, ".*").empty


def test_a_manifest_of_kept_drawings_alone_is_read_too(tmp_path):
    write(
        tmp_path / "data/processed/flash/manifest.csv",
        "file,source,sha256,width,height,split\na.png,a.png,0,1,1,val\na",
    )
    table = read_drawing_rows(Run("here", folder=tmp_path), "flash")
    assert list(table["status"]) == ["kept"] and table["reason"].iloc[0] == table["blip"].iloc[0] == ""
    assert read_drawing_rows(Run("none", folder=tmp_path / "none"), "flash").empty


def stage(name, upstream=(), changed=(), has_outs=True):
    return {
        "name": name,
        "outs": [f"runs/{name}"],
        "upstream": [*upstream],
        "changed": [*changed],
        "has_outs": has_outs,
    }


def test_a_stage_is_stale_when_it_or_one_before_it_changed():
    dag = [
        stage("a", changed=["x", "y", "z"]),
        stage("b", upstream=["a"]),
        stage("c"),
        stage("d", ["c"], has_outs=False),
        stage("e", ["d"]),
    ]
    found = {stage.name: (stage.state, stage.why) for stage in states(dag, set())}
    assert found == {
        "a": ("stale", "changed: x, y and 1 more"),
        "b": ("stale", "waits for a"),
        "c": ("up to date", ""),
        "d": ("not run", ""),
        "e": ("stale", "waits for d"),
    }
    assert states(dag, {"runs/c"})[2].state == "running"


def test_a_stage_counts_as_running_while_the_process_that_writes_it_lives(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    writers = {
        f"{tmp_path}/runs/lora/blip": {"pid": os.getpid(), "cmd": "dvc repro"},
        f"{tmp_path}/runs/lora/vanilla": {"pid": ended.pid, "cmd": "dvc repro"},
        "/elsewhere/runs": {"pid": os.getpid(), "cmd": "dvc repro"},
    }
    write(tmp_path / ".dvc/tmp/rwlock", json.dumps({"write": writers, "read": {}}))
    assert being_written(tmp_path) == {"runs/lora/blip"}
    write(tmp_path / ".dvc/tmp/rwlock", '{"write": {"/work')
    assert being_written(tmp_path) == set()
    assert being_written(tmp_path / "none") == set()


REV = "0123456789" * 4


def experiment(name, state=None):
    data = {
        "params": {
            "params.yaml": {"data": {"train": {"rank": 4}}},
            "profiles/tiny.yaml": {"data": {"train": {"steps": 9}}},
        }
    }
    data["metrics"] = {"metrics/blip.json": {"data": {"val_loss": 0.1}}, "metrics/odd.json": {"error": {}}}
    return {"name": name, "executor": state and {"state": state}, "revs": [{"rev": REV, "name": name, "data": data}]}


def test_experiments_are_told_apart_by_their_state(tmp_path):
    tried = [experiment("good"), *(experiment(state, state) for state in ("success", "failed", "queued", "running"))]
    shown = [
        {"rev": "workspace"},
        {"rev": REV, "name": "main", "data": None, "experiments": [*tried, experiment("good")]},
    ]
    found = parse_runs(shown, {"running": tmp_path})
    assert list(found[1].params.items()) == [("train.rank", 4), ("tiny: train.steps", 9)]
    measured = {run.name: bool(run.metrics) for run in found}
    assert measured == {
        "main": False,
        "good": True,
        "success": True,
        "failed": False,
        "queued": False,
        "running": False,
        "good (0123456)": True,
    }
    running = next(run for run in found if run.name == "running")
    assert (running.state, running.rev, running.folder) == ("Running", None, tmp_path)


def test_notes_of_running_experiments_may_be_half_written(tmp_path):
    note = {"name": "rank4", "baseline_rev": REV, "root_dir": "/x", "location": "tempdir", "status": 2}
    others = [{"name": "odd", "baseline_rev": "--all"}, {"name": "over", "status": 6}]
    notes = [json.dumps(note), '{"name": "ra', "[]", *(json.dumps(note | other) for other in others)]
    for i, content in enumerate(notes):
        write(tmp_path / f".dvc/tmp/exps/run/{i}/{i}.run", content)
    assert list(read_executors(tmp_path)) == ["rank4"]


def test_params_that_are_being_edited_are_empty(tmp_path):
    for text in ("", "a: [", "dataset: flash"):
        write(tmp_path / "params.yaml", text)
        assert workspace(tmp_path).params in ({}, {"dataset": "flash"})


def test_files_of_a_commit_come_from_git_and_from_dvc_and_what_is_gone_is_none(finished, monkeypatch):
    monkeypatch.chdir(finished)
    head = run("git", "rev-parse", "HEAD", cwd=finished).stdout.strip()
    at = Run("main", head)
    assert at.read("params.yaml") == (finished / "params.yaml").read_bytes()
    assert at.read("runs/logs/blip.csv") == (finished / "runs/logs/blip.csv").read_bytes()
    evaluations = {"base.json", "blip.json", "blip_plus.json", "held_out.json", "vanilla.json"}
    assert set(at.names("metrics")) == evaluations | {"findings.json", "report.html", "report.md"}
    assert list(list_samples(at)["blip"]) == [0, 2, 4]
    gone = Run("gone", "f" * 40)
    assert gone.read("params.yaml") is None and gone.names("metrics") == [] and read_curves(gone).empty
    assert at.read("none.txt") is None and at.names("none") == []


def test_results_that_dvcs_cache_has_lost_are_left_out_and_found_once_they_are_back(finished, tmp_path, monkeypatch):
    copy = copy_project(finished, tmp_path / "p")
    run("git", "commit", "-q", "--allow-empty", "-m", "a commit that no other test reads", cwd=copy)
    monkeypatch.chdir(copy)
    at = Run("main", run("git", "rev-parse", "HEAD", cwd=copy).stdout.strip())
    (copy / ".dvc/cache").rename(copy / "cache")
    assert read_curves(at).empty and list_samples(at) == {}
    (copy / "cache").rename(copy / ".dvc/cache")
    assert len(read_curves(at)) > 0 and list(list_samples(at)["blip"]) == [0, 2, 4]


def test_a_remote_that_does_not_answer_is_not_asked(finished, tmp_path, monkeypatch):
    copy = copy_project(finished, tmp_path / "p")
    run("dvc", "remote", "add", "-d", "there", "s3://nowhere/project", cwd=copy)
    run("dvc", "remote", "modify", "there", "endpointurl", "http://127.0.0.1:9", cwd=copy)
    commit(copy)
    shutil.rmtree(copy / ".dvc/cache")
    monkeypatch.chdir(copy)
    at = Run("main", run("git", "rev-parse", "HEAD", cwd=copy).stdout.strip())
    assert read_curves(at).empty and at.read("runs/lora/blip/best.safetensors") is None
    assert at.read("metrics/blip.json") == (copy / "metrics/blip.json").read_bytes()


def test_stage_states_answers_while_a_stage_runs_and_takes_no_lock(finished, tmp_path):
    copy = copy_project(finished, tmp_path / "p")
    set_value(copy / "params.yaml", "rank", 2)
    command = ["dvc", "repro", "train@blip"]
    with (tmp_path / "log").open("w") as log:
        repro = subprocess.Popen(command, cwd=copy, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    try:
        while repro.poll() is None and "runs/lora/blip" not in being_written(copy):
            pass
        stages = json.loads(run("python", "-m", "app.stage_states", cwd=copy).stdout)
        found = {stage.name: stage.state for stage in states(stages, being_written(copy))}
        assert repro.poll() is None, "the stage was over before it was looked at"
    finally:
        os.killpg(repro.pid, signal.SIGTERM)
        repro.wait()
    assert found["train@blip"] == "running" and found["train@vanilla"] == "stale" and found["report"] == "stale"
    assert found["preprocess"] == found["enrich"] == "up to date"


def test_stage_states_says_in_one_line_what_is_wrong_with_dvc_yaml(project, tmp_path):
    copy = copy_project(project, tmp_path / "p")
    write(copy / "dvc.yaml", "stages: 3\n")
    failed = run("python", "-m", "app.stage_states", cwd=copy, check=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: dvc.yaml: ") and "Traceback" not in failed.stderr
    assert "python -m app.stage_states" in run("python", "-m", "app.stage_states", "--help", cwd=copy).stdout


def test_a_project_in_a_folder_of_a_larger_repository_has_its_runs_and_files(finished, tmp_path, monkeypatch):
    project = shutil.copytree(finished, tmp_path / "flash", ignore=shutil.ignore_patterns(".git"), symlinks=True)
    run("git", "init", "-q", cwd=tmp_path)
    commit(tmp_path)
    monkeypatch.chdir(project)
    (head,) = show_experiments()
    assert set(head.metrics) == {"base", "vanilla", "blip", "blip_plus", "held_out"}
    assert head.names("runs/logs") == ["blip.csv", "blip_plus.csv", "vanilla.csv"]  # of DVC
    for path in ("plots/comparison.md", "runs/logs/blip.csv"):
        assert head.read(path) == (project / path).read_bytes()
    adapter = fetch("HEAD", "blip", tmp_path / "fetched").read_bytes()
    assert adapter == (project / "runs/lora/blip/best.safetensors").read_bytes()
    assert Path(git_folder(project)).resolve() == tmp_path / ".git"


def test_results_of_another_dataset_are_told_until_their_stage_is_done_or_runs(finished, tmp_path):
    shutil.copy(finished / "dvc.lock", tmp_path)
    shutil.copy(finished / "params.yaml", tmp_path)
    assert other_datasets(workspace(tmp_path)) == {}
    set_value(tmp_path / "params.yaml", "dataset", "own")
    found = other_datasets(workspace(tmp_path))
    assert set(found.values()) == {"flash"}
    assert {"report", "train@blip", "evaluate_base", "encode"} <= set(found)
    writers = {str(tmp_path / "runs/lora/blip"): {"pid": os.getpid(), "cmd": "dvc repro"}}
    write(tmp_path / ".dvc/tmp/rwlock", json.dumps({"write": writers}))
    assert set(found) - set(other_datasets(workspace(tmp_path))) == {"train@blip"}
    lock = (tmp_path / "dvc.lock").read_text()
    write(tmp_path / "dvc.lock", lock.replace("data/processed/flash", "data/processed/own"))
    assert other_datasets(workspace(tmp_path)) == {}
    assert other_datasets(Run("an experiment", "abc", params={"dataset": "own"})) == {}


def test_params_in_another_encoding_are_empty(tmp_path):
    (tmp_path / "params.yaml").write_text("dataset: flash", encoding="utf-16")
    assert workspace(tmp_path).params == {}
