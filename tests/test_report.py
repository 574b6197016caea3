import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from stages.report import (
    Evaluation,
    comparison,
    difference_plot,
    differences,
    differences_table,
    line_art_table,
    nearest_pairs,
    read_evaluation,
    sample_grid,
    save_figure,
    scores_table,
    shared_part,
    training_curves,
)
from tattoo_lora.errors import UserError
from tattoo_lora.line_art import LineArt

TARGET = LineArt(0.1, 0.0, 0.1, 3.0, 0.5, 2.0, 0.0)


def evaluation(val_losses, scores, saturation=0.0, copies=()):
    """One drawing a loss, one picture a score; the pictures in `copies` count as copies."""
    drawings = pd.DataFrame({"file": [f"{i}.png" for i in range(len(val_losses))], "val_loss": val_losses})
    prompts = [f"picture {i}" for i in range(len(scores))]
    pictures = pd.DataFrame({"prompt": prompts, "seed": 7, "clip_score": scores})
    pictures["copy"] = [int(i in copies) for i in range(len(scores))]
    pictures["correlation"] = [0.95 if i in copies else 0.5 for i in range(len(scores))]
    pictures["nearest_by_pixels"] = "owl.png"
    metrics = {"val_loss": np.mean(val_losses), "val_loss_common": np.mean(val_losses), "clip_score": np.mean(scores)}
    metrics |= {"ink": 0.1, "saturation": saturation, "grey": 0.1, "stroke": None, "spread": 0.5, "pieces": 2.0}
    metrics |= {"specks": 0.0, "copies": len(copies) / len(scores)}
    return Evaluation(metrics, drawings.assign(val_loss_common=val_losses), pictures, pictures_of(len(scores)))


def pictures_of(count):
    return [Image.new("RGB", (64, 64), (10 * i, 0, 0)) for i in range(count)]


EASY, HARD = np.array([0.1, 0.2, 0.1, 0.2]), np.array([0.2, 0.3, 0.21, 0.3])
EVALUATIONS = {
    "base": evaluation(HARD, [20.0, 30.0, 40.0], saturation=0.3),
    "blip": evaluation(EASY, [30.0, 20.0, 40.0], copies=(1,)),
}


def test_the_table_marks_the_lowest_loss_and_the_highest_score():
    assert scores_table(EVALUATIONS).splitlines()[2:] == [
        "| base | 0.2525 | 0.2525 | **30.00** |",
        "| blip | **0.1500** | **0.1500** | **30.00** |",
    ]


def test_the_line_art_table_holds_the_variants_against_the_held_out_drawings():
    assert line_art_table(EVALUATIONS, TARGET).splitlines()[2:] == [
        "| held-out drawings | the target | 0.100 | 0.000 | 0.100 | 3.0 | 0.50 | 2.0 | 0.0 |  |",
        "| base | no | 0.100 | 0.300 | 0.100 | nan | 0.50 | 2.0 | 0.0 | 0% |",
        "| blip | yes | 0.100 | 0.000 | 0.100 | nan | 0.50 | 2.0 | 0.0 | 33% |",
    ]


def test_differences_name_the_better_one_only_where_they_are_real():
    found = {("blip", "base"): differences(EVALUATIONS["blip"], EVALUATIONS["base"])}
    row = differences_table(found, EVALUATIONS, 0.01).splitlines()[2]
    assert row.startswith("| blip - base | -0.1025 [-0.1")
    assert (
        "| better | +0.00 [-" in row
    )  # the loss is paired by drawing, so that its spread over drawings does not matter
    assert row.endswith("| no difference |")  # of the scores
    assert " better " not in differences_table(found, EVALUATIONS, 0.5)  # less than half of the loss does not count


def test_a_prompt_that_one_adapter_cannot_draw_is_one_item_not_as_many_as_its_seeds():
    def scored(scores):
        found = evaluation(EASY, scores)
        prompts = pd.Series(["an owl", "a key", "a rose", "a wolf"]).repeat(4).to_numpy()
        return dataclasses.replace(found, pictures=found.pictures.assign(prompt=prompts, seed=[7, 8, 9, 10] * 4))

    one, other = scored([50.0, 51.0, 49.0, 50.0] * 4), scored([50.1, 50.9, 49.2, 49.8] * 3 + [20.0, 21.0, 19.0, 20.0])
    assert not differences(one, other)["clip_score"].is_real()


def test_a_grid_holds_the_pictures_in_reading_order():
    grid = np.asarray(sample_grid(pictures_of(5), 4))
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
    drawing = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(drawing).line((0, 0, 64, 64))
    drawing.save(tmp_path / "owl.png")
    found = {("blip", "base"): differences(EVALUATIONS["blip"], EVALUATIONS["base"])}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_figure(comparison(["an owl, ink"], {"base": pictures_of(1)}), tmp_path / folder / "comparison.png")
        save_figure(training_curves({"blip": log}), tmp_path / folder / "curves.png")
        save_figure(difference_plot(found, EVALUATIONS, 0.01), tmp_path / folder / "differences.png")
        save_figure(nearest_pairs(EVALUATIONS, tmp_path), tmp_path / folder / "nearest.png")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_an_evaluation_that_did_not_run_is_named(tmp_path):
    with pytest.raises(UserError, match="no metrics.json; run `dvc repro evaluate`"):
        read_evaluation(tmp_path)


def test_pictures_are_read_in_the_order_of_their_table(tmp_path):
    """Not in that of their names: 10 comes after 7."""
    (tmp_path / "metrics.json").write_text(json.dumps({"val_loss": 0.1}))
    (tmp_path / "drawings.csv").write_text("file,val_loss\na.png,0.1\n")
    (tmp_path / "pictures.csv").write_text("file\nprompt00_seed7.png\nprompt00_seed10.png\n")
    for image, seed in zip(pictures_of(2), (7, 10), strict=True):
        image.save(tmp_path / f"prompt00_seed{seed}.png")
    assert [image.getpixel((0, 0))[0] for image in read_evaluation(tmp_path).images] == [0, 10]
