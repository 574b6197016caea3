"""The measuring scripts run; full size takes minutes and 3 GB of disk and is left to `pytest -m slow`."""

import json

import pytest
from conftest import ROOT, run


def test_the_training_loop_is_measured_on_whatever_device_there_is(tmp_path):
    shown = run(
        *("python", "-m", "bench.train_step", "--unet", "models/embedded/base/unet", "--resolution", "64"),
        *("--batch-size", "2", "--steps", "2", "--json", str(tmp_path / "rows.json")),
        cwd=ROOT,
    ).stdout
    assert "| 2 | off |" in shown and "| 2 | on |" in shown
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["pictures_per_second"] > 0 for row in rows)


@pytest.mark.slow
def test_the_whole_dag_runs_at_full_size_in_eight_gigabytes(tmp_path):
    run("python", "-m", "bench.full_size_models", str(tmp_path), cwd=ROOT)
    shown = run(
        *("python", "-m", "bench.full_size_run", str(tmp_path), "--steps", "1", "--drawings", "4", "--json"), cwd=ROOT
    ).stdout
    rows = {row["stage"]: row for row in json.loads(shown.splitlines()[-1])}
    assert list(rows) == ["preprocess", "caption_blip", "enrich", "encode", "train", "evaluate"]
    assert max(row["peak_gb"] for row in rows.values()) <= 8
