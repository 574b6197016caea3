"""The measuring scripts run; full size takes minutes and 3 GB of disk and is left to `pytest -m slow`."""

import dataclasses
import json
import re

import pytest
from conftest import ENVIRONMENT, ROOT, run

from bench import full_size_run
from bench.peer import peer_steps, read_targets
from tattoo_lora.errors import UserError
from tattoo_lora.params import load_profile


def measured(tmp_path, *arguments):
    """The rows of one bench by case, after a look at the table it printed."""
    shown = run(*("python", "-m", "bench", *arguments), "--json", str(tmp_path / "rows.json"), cwd=ROOT).stdout
    rows = {row["case"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    for name, row in rows.items():
        assert f"| {name} |" in shown
        assert 0 < row["min"] <= row["median"] <= row["max"]
    assert rows["reference"]["ratio"] == 1
    return rows


def test_the_training_loop_is_measured_against_a_plain_one_and_the_least_there_is(tmp_path):
    few = ("--batch", "2", "--accumulation", "2", "--steps", "2", "--repeats", "1")
    rows = measured(tmp_path, "train", *few, "--checkpointing", "--more-drawings", "3000")
    expected = {"ours", "reference", "UNet and AdamW alone", "ours, checkpointing", "ours, 3000 drawings"}
    assert set(rows) == expected


PEER = """
import argparse, sys, time
parser = argparse.ArgumentParser()
for name in ("max_train_steps", "train_batch_size", "gradient_accumulation_steps"):
    parser.add_argument("--" + name, type=int)
parser.add_argument("--train_data_dir")
args, others = parser.parse_known_args()
pictures = len(open(args.train_data_dir + "/metadata.jsonl").readlines())
assert pictures == 20 * args.train_batch_size * args.gradient_accumulation_steps, "an epoch of 20 steps"
time.sleep(0.3 + 0.1 * args.max_train_steps)
"""


def test_a_peers_steps_are_counted_without_its_start(tmp_path):
    script = tmp_path / "train_text_to_image_lora.py"
    script.write_text(PEER)
    profile = load_profile("embedded", ROOT)
    train = dataclasses.replace(profile.train, batch_size=2, gradient_accumulation_steps=3)
    profile = dataclasses.replace(profile, train=train)
    pictures, seconds = peer_steps(script, profile.base, profile, 8, "no", 5)
    assert pictures == 30
    assert seconds == pytest.approx(0.5, abs=0.3)


def test_all_cases_adapt_the_layers_that_the_peer_adapts(tmp_path):
    script = tmp_path / "train_text_to_image_lora.py"
    script.write_text(PEER + 'config = dict(\n    target_modules=["to_k", "to_out.0"],\n)\n')
    assert read_targets(script) == ["to_k", "to_out.0"]
    few = ("--batch", "1", "--steps", "1", "--repeats", "1", "--peer", str(script))
    shown = run("python", "-m", "bench", "train", *few, cwd=ROOT).stdout
    assert "adapters on to_k, to_out.0" in shown and "| train_text_to_image_lora.py |" in shown
    script.write_text(PEER)
    with pytest.raises(UserError, match="lora.py: no list of target_modules; which layers it adapts has to be known"):
        read_targets(script)


ARGUMENTS = re.compile(r"error: (unrecognized arguments|the following arguments are required)")


def test_every_stage_takes_the_arguments_that_the_full_size_run_gives_it(tmp_path, monkeypatch):
    said = {}

    def fails_at_once(name, arguments, folder):
        """In a folder without params.yaml a stage stops right after it has read its arguments."""
        said[name] = run("python", "-m", f"stages.{name}", *arguments, cwd=tmp_path, check=False).stderr
        return {"stage": name, "seconds": 0.0, "peak_gb": 0.0}

    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(ROOT))
    monkeypatch.setattr(full_size_run, "run_stage", fails_at_once)
    full_size_run.run_all(tmp_path)
    assert len(said) == 6 and not any(map(ARGUMENTS.search, said.values())), said
    assert all("params.yaml: not found" in line for line in said.values())


def test_a_peer_that_fails_is_named_with_its_last_line(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("raise SystemExit('no datasets here')")
    profile = load_profile("embedded", ROOT)
    with pytest.raises(UserError, match="peer.py stopped with exit code 1: no datasets here"):
        peer_steps(script, profile.base, profile, 8, "no", 1)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["sample", "encode", "caption"])
def test_batches_are_measured_against_one_at_a_time(tmp_path, part):
    assert {"ours", "reference"} <= set(measured(tmp_path, part, "--count", "2", "--repeats", "1"))


def test_preprocess_is_measured_against_pillow_alone(tmp_path):
    assert set(measured(tmp_path, "preprocess", "--repeats", "1")) == {
        "ours, 1 process",
        "ours, 2 processes",
        "reference",
    }


def test_a_bench_of_a_profile_that_is_not_there_says_so():
    failed = run("python", "-m", "bench", "train", "--profile", "none", cwd=ROOT, check=False)
    assert failed.returncode != 0 and "there is no profiles/none.yaml" in failed.stderr


@pytest.mark.slow
def test_repro_is_measured_against_its_own_commands(tmp_path):
    rows = measured(tmp_path, "repro", "--steps", "2", "--repeats", "1")
    assert set(rows) == {"from nothing", "nothing to do", "another enrich.suffix", "reference"}


@pytest.mark.slow
def test_the_whole_dag_runs_at_full_size_in_eight_gigabytes(tmp_path):
    run("python", "-m", "bench.full_size_models", str(tmp_path), cwd=ROOT)
    shown = run(
        *("python", "-m", "bench.full_size_run", str(tmp_path), "--steps", "1", "--drawings", "4", "--json"), cwd=ROOT
    ).stdout
    rows = {row["stage"]: row for row in json.loads(shown.splitlines()[-1])}
    assert list(rows) == ["preprocess", "caption_blip", "enrich", "encode", "train", "evaluate"]
    assert max(row["peak_gb"] for row in rows.values()) <= 8
