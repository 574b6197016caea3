"""The table of all runs, sweeps and intervals between two runs, without a page."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from app.experiments import coordinates, metrics_table, paired_between, runs_table
from app.runs import Run
from stages.report.findings import SCORES


def sweep():
    """Four runs: rank 2 to 16, one param of words, one the same in all."""
    return [
        Run(
            f"r{rank}",
            state="Success" if rank < 16 else "Failed",
            params={"train.rank": rank, "train.ema": None if rank < 4 else 0.9, "train.seed": 42},
            metrics={"blip": {"test_loss": 0.1 - rank / 1000}, "held_out": {"ink": 0.1}},
        )
        for rank in (2, 4, 8, 16)
    ]


def test_the_table_has_a_row_for_each_run_and_variant_and_the_params_that_differ():
    table = runs_table(sweep())
    assert list(table["run"]) == ["r2", "r4", "r8", "r16"] and list(table["variant"].unique()) == ["blip"]
    assert "train.seed" not in table and list(table["train.ema"]) == ["null", "0.9", "0.9", "0.9"]
    assert table["train.rank"].dtype.kind == "i"  # so that 16 sorts behind 8
    assert list(table["state"]) == ["done", "done", "done", "failed"]


def test_parallel_coordinates_have_each_axis_from_lowest_to_highest_and_the_score_last():
    lines = coordinates(runs_table(sweep()), "test_loss")
    assert list(lines["axis"].unique()) == ["train.rank", "train.ema", "test_loss"]
    r4 = lines[lines["run"] == "r4"].set_index("axis")["share"]
    assert (
        r4["train.rank"] == pytest.approx(2 / 14) and r4["train.ema"] == 0 and r4["test_loss"] == pytest.approx(12 / 14)
    )


def evaluated(folder, factor):
    """A run whose test losses are `factor` times those of factor 1, drawing by drawing, give or take a per mille."""
    losses = np.linspace(0.05, 0.5, 12) * factor * (1 + np.random.default_rng(int(10 * factor)).normal(0, 1e-3, 12))
    table = pd.DataFrame(
        {"file": [f"{i}.png" for i in range(12)], "split": "test", "loss": losses, "loss_common": losses}
    )
    val = table.assign(split="val", loss=9.0)
    (folder / "runs/evaluation/blip").mkdir(parents=True)
    pd.concat([table, val]).to_csv(folder / "runs/evaluation/blip/drawings.csv", index=False)
    return Run(folder.name, folder=folder, metrics={"blip": {"test_loss": float(losses.mean())}})


def test_a_difference_between_runs_is_paired_by_drawing_and_has_its_interval(tmp_path):
    one, other = evaluated(tmp_path / "one", 1.0), evaluated(tmp_path / "other", 0.9)
    difference = paired_between(one, other, "blip", SCORES["test_loss"], "test_loss")
    assert difference.mean == pytest.approx(-0.1, abs=1e-3) and -0.11 < difference.low <= difference.high < -0.09
    row = metrics_table(one, other).iloc[0]
    assert row["metric"] == "test_loss" and row["other - one"].startswith("-10.0% [-10.")
    assert paired_between(one, other, "blip", SCORES["clip_score"], "clip_score") is None
    assert paired_between(one, Run("away", folder=tmp_path), "blip", SCORES["test_loss"], "test_loss") is None


def test_the_trials_of_a_sweep_are_shown_with_what_is_known_of_them(tmp_path, monkeypatch):
    folder = tmp_path / "runs/sweeps/ranks"
    folder.mkdir(parents=True)
    (folder / "sweep.csv").write_text(
        "trial,state,val_loss,reason,place\nranks-01,done,0.07,,one\nranks-00,running,,,two\n"
    )
    Image.new("RGB", (8, 8)).save(folder / "sweep.png")
    monkeypatch.chdir(tmp_path)
    app = AppTest.from_string("from app.experiments import show_searches; show_searches()", default_timeout=60).run()
    assert not app.exception
    table = app.dataframe[0].value
    assert list(table.columns) == ["trial", "state", "val_loss", "place"]  # none is empty
    assert list(table["place"]) == ["one", "two"] and any("sweep ranks" in text.value for text in app.text)
    assert len(app.get("image")) == 1
