import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.report import comparison, read_evaluation, sample_grid, save_figure, shared_part, table, training_curves
from tattoo_lora.errors import UserError

METRICS = {"base": {"val_loss": 0.2, "clip_score": 30.0}, "blip": {"val_loss": 0.1, "clip_score": 20.0}}


def pictures(count):
    return [Image.new("RGB", (64, 64), (10 * i, 0, 0)) for i in range(count)]


def test_the_table_marks_the_lowest_loss_and_the_highest_score():
    assert table(METRICS).splitlines()[2:] == ["| base | 0.2000 | **30.00** |", "| blip | **0.1000** | 20.00 |"]


def test_a_grid_holds_the_pictures_in_reading_order():
    grid = np.asarray(sample_grid(pictures(5)))
    assert grid.shape == (320, 640, 3)
    assert [grid[80, 80 + 160 * i, 0] for i in range(4)] == [0, 10, 20, 30]
    assert grid[240, 80, 0] == 40 and tuple(grid[240, 400]) == (255, 255, 255)


@pytest.mark.parametrize(
    ("prompts", "tail"),
    [(["an owl, line art, ink", "a key, line art, ink"], "line art, ink"), (["an owl, ink", "a key"], ""), (["x"], "")],
)
def test_what_all_prompts_share_is_said_once(prompts, tail):
    assert shared_part(prompts) == tail


def test_figures_are_written_the_same_twice(tmp_path):
    log = pd.DataFrame({"step": [0, 1, 2], "train_loss": [None, 1, 0.5], "val_loss": [1, None, 2], "clip_score": 3})
    for name in ("a", "b"):
        save_figure(comparison(["an owl, ink"], {key: pictures(1) for key in METRICS}), tmp_path / f"{name}.png")
        save_figure(training_curves({"blip": log}, METRICS), tmp_path / f"{name}_curves.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a_curves.png").read_bytes() == (tmp_path / "b_curves.png").read_bytes()


def test_an_evaluation_that_did_not_run_is_named(tmp_path):
    with pytest.raises(UserError, match="no metrics.json; run `dvc repro evaluate`"):
        read_evaluation(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS["base"]))
    pictures(1)[0].save(tmp_path / "prompt00.png")
    metrics, images = read_evaluation(tmp_path)
    assert metrics == METRICS["base"] and len(images) == 1
