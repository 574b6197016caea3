"""The command for the first card, on a CPU: one part quickly, both calls with the miniature among the slow tests."""

import argparse
import dataclasses
import json

import pytest
from conftest import ROOT, run

from bench import full_size_run, gpu
from bench.gpu import parts, run_call, run_part, table
from bench.gpu_parts import largest_difference, wheels, with_knobs
from tattoo_lora.errors import UserError
from tattoo_lora.params import load_params, load_profile


def test_a_part_is_kept_at_once_whatever_became_of_it(tmp_path):
    for name, limit, code in (
        ("a", 60, "print(1)"),
        ("b", 60, "raise SystemExit('no card')"),
        ("c", 5, "import time; print('so far', flush=True); time.sleep(60)"),
    ):
        run_part(name, limit, ["-c", code], tmp_path)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [result["status"] for result in results] == ["done", "failed", "out of time"]
    assert "no card" in results[1]["said"]
    shown = table(tmp_path)
    assert "| b | failed |" in shown and "### a\n\n1\n" in shown
    assert "### b\n\nno card\n" in shown and "### c\n\nso far\n" in shown


def test_both_calls_have_parts_for_all_ways_to_compile_and_to_train(tmp_path):
    first, second = parts(1, tmp_path, False, None), parts(2, tmp_path, False, tmp_path / "peer.py")
    assert sum("graphs" in name for name in first) == 6
    assert {f"losses, {kind}" for kind in ("checkpointing", "DoRA", "text encoder", "dropout")} <= set(first)
    assert first["chain"][1][-7:] == ["--cards", "4", "6", "8", "12", "16", "--json"]
    assert first["chain"][1][-9:-7] == ["--eval-every", "6"]
    assert {"profile", "deterministic", "val_loss", "sample", "encode", "caption"} <= set(second)
    assert any("--peer" in command for _, command in second.values())
    assert all("sd15" in second[name][1] for name in ("profile", "deterministic", "val_loss"))


def test_a_part_that_no_time_is_left_for_is_named(tmp_path, capsys):
    run_call({"a": (60, ["-c", "print(1)"]), "b": (60, ["-c", "1"])}, tmp_path, limit=gpu.LEAST - 1)
    assert capsys.readouterr().out.splitlines() == [f"{name}: skipped: no time left after 0 s" for name in "ab"]
    shown = (tmp_path / "results.md").read_text()
    assert "| a | skipped: no time left | 0 s |" in shown and "| b | skipped: no time left | 0 s |" in shown
    run_call({"c": (60, ["-c", "print(3)"])}, tmp_path, limit=600)
    assert (
        "| a | skipped" in (tmp_path / "results.md").read_text()
        and "### c\n\n3" in (tmp_path / "results.md").read_text()
    )


def test_parts_that_measure_no_time_run_beside_each_other_and_the_others_alone(tmp_path):
    meets = "import sys, time; from pathlib import Path; Path(sys.argv[1]).touch(); time.sleep(2); "
    meets += "print(sorted(path.name for path in Path(sys.argv[1]).parent.glob('?')))"
    chosen = {name: (60, ["-c", meets, str(tmp_path / name[-1])]) for name in ("losses, a", "losses, b", "c")}
    run_call(chosen, tmp_path, limit=600)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    said = {row["part"]: row["said"].strip() for row in rows}
    assert said == {"losses, a": "['a', 'b']", "losses, b": "['a', 'b']", "c": "['a', 'b', 'c']"}


def test_the_losses_of_two_trainings_and_params_by_name_are_compared():
    assert largest_difference([1.0, 2.2], [1.0, 2.0]) == "1.0e-01"
    params = with_knobs(["use_dora=true", "lora_dropout=0.1", "compile=off"])
    assert params == dataclasses.replace(load_params(ROOT).train, use_dora=True, lora_dropout=0.1, compile="off")
    with pytest.raises(UserError, match="train.dora: unknown key"):
        with_knobs(["dora=true"])


def test_the_full_size_run_has_params_and_a_profile_that_can_be_read(tmp_path):
    args = argparse.Namespace(resolution=256, steps=3, drawings=1, eval_every=None, accumulation=8, compile="off")
    full_size_run.prepare(tmp_path, tmp_path / "models", args)
    profile = load_profile("full_size", tmp_path)
    assert load_params(tmp_path).train.compile == "off" and profile.train.gradient_accumulation_steps == 8
    assert profile.base.id.startswith(str(tmp_path)) and profile.train.steps == 3


def test_packages_that_are_missing_are_listed(monkeypatch):
    monkeypatch.setattr("bench.gpu_parts.OPTIONAL", ("torch", "no-such-package"))
    assert wheels()[0].endswith("no-such-package") and " -" not in wheels()[0] and "pyyaml" not in wheels()[0].lower()


def test_a_training_that_does_not_fit_a_card_says_why_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def fits_eight(name, arguments, folder, card_gb=0):
        if card_gb == 4:
            raise SystemExit("train: some lines\nerror: out of memory")
        return {"stage": name, "seconds": 1.0, "peak_gb": 2.0, "allocated_gb": 3.0, "reserved_gb": 3.5}

    monkeypatch.setattr(full_size_run, "run_stage", fits_eight)
    rows = full_size_run.run_all(tmp_path, [4, 8])
    assert rows[-2] == {"stage": "train", "card_gb": 4, "failed": "error: out of memory"} and rows[-1]["card_gb"] == 8
    assert "train, 4 GB    failed: error: out of memory\n" in capsys.readouterr().out


def test_a_stage_runs_as_on_a_card(tmp_path):
    with pytest.raises(SystemExit, match="params.yaml: not found"):
        full_size_run.run_stage("train", [], tmp_path, 4)


def test_the_environment_is_measured(tmp_path):
    run("python", "-m", "bench.gpu", "1", "--quick", "--only", "environment", "--out", str(tmp_path), cwd=ROOT)
    assert "TFLOP/s in bfloat16" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2"])
def test_both_calls_run_with_the_miniature(tmp_path, number):
    run("python", "-m", "bench.gpu", number, "--quick", "--out", str(tmp_path), cwd=ROOT)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {result["status"] for result in results} == {"done"}, results
    said = {result["part"]: result["said"] for result in results}
    if number == "1":
        assert "the same bytes" in said["resume"] and "| off |" in said["losses, DoRA"]
    else:
        assert "deterministic: True: the same bytes" in said["deterministic"] and "| bfloat16 |" in said["val_loss"]
