import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from stages.report import (
    data_facts,
    differences_table,
    findings_json,
    findings_table,
    headline,
    line_art_table,
    read_steps,
    scores_table,
    times_table,
    write_timesteps,
)
from tattoo_lora import times
from tattoo_lora.bootstrap import Difference
from tattoo_lora.errors import UserError
from tattoo_lora.evaluation import Evaluation, Finding, compare, compare_all, read_evaluation, unbeaten, winner
from tattoo_lora.figures import (
    by_timestep,
    comparison,
    difference_plot,
    line_art_plot,
    nearest_pairs,
    sample_grid,
    save_figure,
    shared_part,
    step_strip,
    training_curves,
)
from tattoo_lora.line_art import LineArt
from tattoo_lora.manifest import Found

TARGET = LineArt(0.1, 0.0, 0.1, 3.0, 0.5, 2.0, 0.0)


def evaluation(val_losses, scores, saturation=0.0, copies=()):
    """One drawing a loss, one picture a score; the pictures in `copies` count as copies."""
    drawings = pd.DataFrame({"file": [f"{i}.png" for i in range(len(val_losses))], "val_loss": val_losses})
    drawings["timestep"] = 500
    prompts = [f"picture {i}" for i in range(len(scores))]
    pictures = pd.DataFrame({"prompt": prompts, "seed": 7, "clip_score": scores})
    pictures["copy"] = [int(i in copies) for i in range(len(scores))]
    pictures["correlation"] = [0.95 if i in copies else 0.5 for i in range(len(scores))]
    pictures["nearest_by_pixels"] = "owl.png"
    for measured in dataclasses.fields(LineArt):
        pictures[measured.name] = 0.1
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
    row = differences_table(compare_all(EVALUATIONS, 0.01)).splitlines()[2]
    assert row.startswith("| blip - base | -0.1025 [-0.1")
    assert (
        "| better | +0.00 [-" in row
    )  # the loss is paired by drawing, so that its spread over drawings does not matter
    assert row.endswith("| no difference |")  # of the scores
    assert " better " not in differences_table(compare_all(EVALUATIONS, 0.5))  # less than half of the loss is nothing


def test_a_prompt_that_one_adapter_cannot_draw_is_one_item_not_as_many_as_its_seeds():
    def scored(scores):
        found = evaluation(EASY, scores)
        prompts = pd.Series(["an owl", "a key", "a rose", "a wolf"]).repeat(4).to_numpy()
        return dataclasses.replace(found, pictures=found.pictures.assign(prompt=prompts, seed=[7, 8, 9, 10] * 4))

    one, other = scored([50.0, 51.0, 49.0, 50.0] * 4), scored([50.1, 50.9, 49.2, 49.8] * 3 + [20.0, 21.0, 19.0, 20.0])
    assert not compare(one, other, 0.0)["clip_score"].difference.is_real()


def found(**verdicts):
    """Findings of pairs, each as `one_other="val_loss's verdict, clip_score's"` with b, w or n for its verdict."""
    words, nothing = {"b": "better", "w": "worse", "n": "no difference"}, Difference(0, 0, 0)
    return {
        tuple(pair.split("_")): {
            column: Finding(nothing, words[letter])
            for column, letter in zip(("val_loss", "clip_score", "val_loss_common"), letters + "w", strict=True)
        }
        for pair, letters in verdicts.items()
    }


@pytest.mark.parametrize(
    ("of_pairs", "best", "says"),
    [
        (found(x_y="bn", x_z="bb", y_z="nn"), "x", "Winner: x"),
        (found(y_x="wn", z_x="ww", z_y="bn"), "x", "Winner: x"),  # as the other way round
        (found(x_y="nn", x_z="bb", y_z="bn"), None, "No winner: open between x and y"),
        (found(x_y="bw", x_z="bb", y_z="bb"), None, "No winner: open between x and y"),  # better at one, worse at other
        (found(x_y="bn", y_z="bn", x_z="wn"), None, "No winner: each is beaten by another"),
    ],
)
def test_a_winner_is_better_than_each_other_and_worse_in_nothing(of_pairs, best, says):
    assert winner(["x", "y", "z"], of_pairs) == best
    assert headline(["x", "y", "z"], of_pairs) == says


def test_one_variant_alone_does_not_win():
    assert unbeaten(["x"], {}) == ["x"] and headline(["x"], {}) == "One variant, nothing to choose from"


def test_the_findings_say_what_each_variant_is_better_than():
    assert findings_table(EVALUATIONS, compare_all(EVALUATIONS, 0.01), TARGET).splitlines()[2:] == [
        "| **blip** | better than base | level with base | yes | 1 of 3 |"
    ]


def test_the_findings_are_there_as_json_too():
    found = json.loads(findings_json(EVALUATIONS, compare_all(EVALUATIONS, 0.01), TARGET))
    assert (found["winner"], found["base"], found["variants"]) == (None, "base", ["blip"])
    assert found["scores"]["blip"] == {"val_loss": 0.15, "val_loss_common": 0.15, "clip_score": 30.0}
    assert found["better"]["val_loss"] == "lower" and found["line_art"] == {"base": False, "blip": True}
    first = found["differences"][0]
    assert (first["one"], first["other"], first["score"], first["verdict"]) == ("blip", "base", "val_loss", "better")
    assert first["low"] < first["mean"] == -0.1025 < first["high"] < 0


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
    found = compare_all(EVALUATIONS, 0.01)
    for folder in ("a", "b"):
        for name, figure in {
            "comparison": comparison(["an owl, ink", "an owl, ink"], {"base": pictures_of(2)}),
            "curves": training_curves({"blip": log}),
            "differences": difference_plot(found),
            "line_art": line_art_plot(EVALUATIONS, TARGET),
            "nearest": nearest_pairs(EVALUATIONS, tmp_path),
            "steps": step_strip("an owl", {"blip": dict(enumerate(pictures_of(3)))}),
            "timesteps": by_timestep(EVALUATIONS),
        }.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            save_figure(figure, tmp_path / folder / f"{name}.png")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 7


def test_a_strip_of_many_steps_shows_the_first_the_last_and_some_between():
    figure = step_strip("an owl", {"x": dict(enumerate(pictures_of(20))), "y": {0: pictures_of(1)[0]}})
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 8 and titles[0] == "step 0" and titles[-1] == "step 19"
    assert len(figure.axes) == 16 and sum(axis.axison for axis in figure.axes) == 9  # y was drawn once


def test_the_pictures_of_a_training_are_found_by_step(tmp_path):
    for step in (0, 60, 1000):
        (tmp_path / f"eval_step{step:04d}").mkdir()
        for image, prompt in zip(pictures_of(2), range(2), strict=True):
            image.save(tmp_path / f"eval_step{step:04d}/prompt{prompt:02d}.png")
    assert sorted(read_steps(tmp_path)) == [0, 60, 1000] and read_steps(tmp_path / "nothing") == {}


def test_losses_by_timestep_leave_no_other_evaluation_behind(tmp_path):
    write_timesteps(tmp_path / "timesteps", {"gone": EVALUATIONS["base"]})
    write_timesteps(tmp_path / "timesteps", EVALUATIONS)
    assert {path.name for path in (tmp_path / "timesteps").iterdir()} == {"base.csv", "blip.csv"}
    expected = "timestep,val_loss,val_loss_common\n500,0.150000,0.150000\n"
    assert (tmp_path / "timesteps/blip.csv").read_text() == expected


def test_the_drawings_are_counted_and_their_licences_shown_as_text(tmp_path):
    (tmp_path / "drawings.csv").write_text("file,sha256,split\n")
    rows = [
        Found("a.png", "kept", width=300, height=200, split="train", license="<b>mine|yours</b>"),
        Found("b.png", "kept", width=100, height=500, split="val"),
        Found("c.png", "duplicate"),
        Found("d.png", "rejected"),
    ]
    captions = pd.DataFrame({"origin": ["blip", "user"], "tokens": [5, 9], "enriched_tokens": [15, 19]})
    text = data_facts("flash", tmp_path, rows, captions)
    assert "| drawings | 2, 1 of them held out |" in text and "| left out | 1 duplicates, 1 rejected files |" in text
    assert "300 to 500 px" in text and r"&lt;b&gt;mine\|yours&lt;/b&gt; (1), unknown (1)" in text
    assert "1 by BLIP, 1 your own" in text and "at most 9; with the suffix 17 and 19" in text


def test_times_are_those_of_stages_that_dvc_ran_and_that_ended_well(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "FOLDER", tmp_path / "times")
    assert "Not known" in times_table(["blip"])
    monkeypatch.delenv("DVC_STAGE", raising=False)
    with times.recorded_time():
        pass  # by hand
    for stage in ("encode", "train@blip", "train@gone", "report"):
        monkeypatch.setenv("DVC_STAGE", stage)
        with times.recorded_time():
            pass
    monkeypatch.setenv("DVC_STAGE", "enrich")
    with pytest.raises(SystemExit), times.recorded_time():
        raise SystemExit(1)
    assert set(times.read_times()) == {"encode", "train@blip", "train@gone", "report"}
    assert [row.split(" |")[0] for row in times_table(["base", "blip"]).splitlines()[2:5]] == [
        "| encode", "| train@blip", "| all"
    ]  # fmt: skip


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
