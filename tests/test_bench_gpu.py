"""The command for the first card, on a CPU: one part quickly, both calls with the miniature among the slow tests."""

import json

import pytest
from conftest import ROOT, run

from bench.gpu import parts, run_part, table


def test_a_part_is_kept_at_once_whatever_became_of_it(tmp_path):
    for name, limit, code in (("a", 60, "print(1)"), ("b", 60, "raise SystemExit('no card')"), ("c", 0.01, "1")):
        run_part(name, limit, ["-c", code], tmp_path)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [result["status"] for result in results] == ["done", "failed", "out of time"]
    assert "no card" in results[1]["said"]
    shown = table(tmp_path)
    assert "| b | failed |" in shown and "### a\n\n1" in shown and "### b" not in shown


def test_both_calls_have_parts_for_all_ways_to_compile(tmp_path):
    assert sum("graphs" in name for name in parts(1, tmp_path, False, None)) == 6
    assert any("--peer" in command for _, command in parts(2, tmp_path, False, tmp_path / "peer.py").values())


def test_the_environment_is_measured(tmp_path):
    run("python", "-m", "bench.gpu", "1", "--quick", "--only", "environment", "--out", str(tmp_path), cwd=ROOT)
    assert "TFLOP/s in bfloat16" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2"])
def test_both_calls_run_with_the_miniature(tmp_path, number):
    run("python", "-m", "bench.gpu", number, "--quick", "--out", str(tmp_path), cwd=ROOT)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {result["status"] for result in results} <= {"done", "out of time"}
