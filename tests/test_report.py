import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, call
from PIL import Image, ImageDraw

from stages.report import __main__ as report_main
from stages.report.__main__ import (
    add_seen_losses,
    copies_text,
    data_facts,
    differences_table,
    findings_json,
    findings_table,
    learned_table,
    line_art_table,
    losses_by_timestep,
    measured_in,
    read_steps,
    report_text,
    scores_table,
    write_by_variant,
)
from stages.report.figures import (
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
    wrapped,
)
from stages.report.findings import (
    Evaluation,
    Finding,
    compare,
    compare_all,
    headline,
    learned_by_heart,
    read_evaluation,
    thresholds,
    winner,
)
from stages.report.intervals import Difference
from tattoo_lora.data.manifest import ManifestRow, write_manifest
from tattoo_lora.diffusion.line_art import LineArt, measure
from tattoo_lora.errors import UserError

TARGET = LineArt(0.1, 0.0, 0.1, 3.0, 0.5, 2.0, 0.0)


def evaluation(test_losses, scores, saturation=0.0, copies=(), seen=1.0, **others):
    """One drawing a loss, one picture a score; the pictures in `copies` count as copies; `others` are other scores."""
    losses = pd.DataFrame({"file": [f"{i}.png" for i in range(len(test_losses))], "loss": test_losses})
    losses = losses.assign(loss_common=test_losses, split="test", timestep=500)
    seen = losses.assign(split="train", loss=losses["loss"] * seen, file=[f"seen{i}.png" for i in range(len(losses))])
    prompts = [f"picture {i}" for i in range(len(scores))]
    pictures = pd.DataFrame({"prompt": prompts, "seed": 7, "clip_score": scores})
    pictures["copy"] = [int(i in copies) for i in range(len(scores))]
    pictures["correlation"] = [0.95 if i in copies else 0.5 for i in range(len(scores))]
    pictures["nearest_by_pixels"] = "owl.png"
    for measured in dataclasses.fields(LineArt):
        pictures[measured.name] = getattr(TARGET, measured.name)
    pictures["saturation"] = saturation
    others = {"style": 1.0, "style_cosine": 0.5, "diversity": 2.0, "drift": 0.1} | others
    pictures = pictures.assign(**others)
    plain = pd.DataFrame({"prompt": prompts, "drift": others["drift"]})
    control = pd.DataFrame({"file": ["c.png", "d.png"], "correlation": [0.4, 0.7], "cosine": 0.8, "copy": [0, 1]})
    metrics = {
        "test_loss": np.mean(test_losses),
        "test_loss_common": np.mean(test_losses),
        "clip_score": np.mean(scores),
    }
    metrics |= {"ink": 0.1, "saturation": saturation, "grey": 0.1, "stroke": None, "spread": 0.5, "pieces": 2.0}
    metrics |= {"specks": 0.0, "copies": len(copies) / len(scores)}
    metrics |= others | {"val_loss": 0.2, "seen_loss": seen["loss"].mean(), "dtype": "float32"}
    losses = pd.concat([losses, seen, losses.assign(split="val", file="val.png", loss=9.0)])
    return Evaluation(metrics, losses, pictures, make_pictures(len(scores)), control, plain)


def make_pictures(count):
    return [Image.new("RGB", (64, 64), (10 * i, 0, 0)) for i in range(count)]


EASY, HARD = np.array([0.1, 0.2, 0.1, 0.2, 0.1]), np.array([0.2, 0.38, 0.21, 0.4, 0.2])
EVALUATIONS = {
    "base": evaluation(HARD, [20.0, 30.0, 40.0, 50.0, 60.0], saturation=0.3),
    "blip": evaluation(EASY, [30.0, 20.0, 40.0, 60.0, 50.0], copies=(1,), style=0.8, diversity=1.5),
}


def test_the_table_marks_the_lowest_loss_and_the_highest_score():
    assert scores_table(EVALUATIONS).splitlines()[2:] == [
        "| base | 0.2780 | 0.2780 | **40.00** | 1.000 | **0.500** | **2.00** | **0.100** |",
        "| blip | **0.1400** | **0.1400** | **40.00** | **0.800** | **0.500** | 1.50 | **0.100** |",
    ]


def test_the_report_says_in_which_precision_it_was_measured_and_whether_the_same_for_all():
    same = EVALUATIONS
    assert measured_in(same) == "All were measured in float32."
    name, *_, last = same
    mixed = same | {last: dataclasses.replace(same[last], metrics=same[last].metrics | {"dtype": "float16"})}
    assert re.search(
        rf"Measured: {name}.* in float32; {last} in float16. A difference of less than 1%", measured_in(mixed)
    )
    assert measured_in(mixed) in report_text(mixed, compare_all(mixed, 0.01), [TARGET], "", "", 0.01, "plots")


def test_the_line_art_table_holds_the_variants_against_the_held_out_drawings():
    assert line_art_table(EVALUATIONS, [TARGET, TARGET]).splitlines()[2:] == [
        "| held-out drawings | yes, 2 of 2 | 0.100 | 0.000 | 0.100 | 3.0 | 0.50 | 2.0 | 0.0 | 50% |",
        "| base | no, 0 of 5 | 0.100 | 0.300 | 0.100 | 3.0 | 0.50 | 2.0 | 0.0 | 0% |",
        "| blip | yes, 5 of 5 | 0.100 | 0.000 | 0.100 | 3.0 | 0.50 | 2.0 | 0.0 | 20% |",
    ]


def test_differences_name_the_better_one_only_where_they_are_real():
    row = differences_table(compare_all(EVALUATIONS, 0.01), ["test_loss", "clip_score"]).splitlines()[2]
    # The loss is paired by drawing, so that its spread over drawings does not matter: each is about half.
    assert row.startswith("| blip - base | -50.0% [-52.9%, -46.9%] better | +0.00 [-")
    assert row.endswith("] |")  # no difference in the scores
    least = differences_table(compare_all(EVALUATIONS, 0.5), ["test_loss"])
    assert " better " not in least  # less than half of the loss is nothing


def test_a_difference_in_clip_score_counts_from_a_share_of_the_others_on():
    def verdict(score):
        one, other = evaluation(EASY, [score] * 5), evaluation(EASY, [50.0] * 5)
        return compare(one, other, 0.01)["clip_score"].verdict

    assert [verdict(score) for score in (50.4, 50.6, 49.6, 49.4)] == [
        "no difference",
        "better",
        "no difference",
        "worse",
    ]


def test_one_drawing_does_not_decide_for_all():
    """19 are a tenth worse, and one, whose loss is a hundred times theirs, is half as high: the mean is lower."""
    losses = np.array([0.01] * 19 + [1.0])
    other = losses * np.array([*(1.1 + 0.002 * np.arange(19)), 0.5])
    found = compare(evaluation(other, [1.0] * 5), evaluation(losses, [1.0] * 5), 0.0)["test_loss"]
    assert other.mean() < losses.mean() and found.verdict != "better"


def test_with_few_drawings_or_prompts_there_is_no_verdict():
    few = {name: evaluation(losses[:4], [30.0, 20.0, 40.0, 60.0]) for name, losses in (("base", HARD), ("blip", EASY))}
    found = compare_all(few, 0.01)
    assert {finding.verdict for finding in found["blip", "base"].values()} == {"too few to tell"}
    assert differences_table(found, ["test_loss"]).splitlines()[2] == "| blip - base | -50.0% too few to tell |"
    assert "| too few to tell from base | too few to tell from base | too few to tell from base |" in findings_table(
        few, found, TARGET
    )
    assert headline(few, found, TARGET) == "No verdict: fewer than 5 test drawings are too few to tell"
    assert winner({name: EVALUATIONS[name] for name in ("base", "blip")}, found) is None


def test_a_prompt_that_one_adapter_cannot_draw_is_one_item_not_as_many_as_its_seeds():
    def scored(scores):
        found = evaluation(EASY, scores)
        prompts = pd.Series(["an owl", "a key", "a rose", "a wolf"]).repeat(4).to_numpy()
        return dataclasses.replace(found, pictures=found.pictures.assign(prompt=prompts, seed=[7, 8, 9, 10] * 4))

    one, other = scored([50.0, 51.0, 49.0, 50.0] * 4), scored([50.1, 50.9, 49.2, 49.8] * 3 + [20.0, 21.0, 19.0, 20.0])
    assert not compare(one, other, 0.0)["clip_score"].difference.is_real()


def found(**verdicts):
    """Findings of pairs: `one_other="bn"` is one's test_loss better, its clip_score no different; w worse, f too few.

    The pairs of x, y and z that are not named are better than o, the base, in test_loss, and no different else.
    """
    words, nothing = {"b": "better", "w": "worse", "n": "no difference", "f": "too few to tell"}, Difference(0, 0, 0)
    pairs = {"x_o": "bn", "y_o": "bn", "z_o": "bn"} | {pair: "nn" for pair in ("y_x", "z_x", "z_y")}
    named = {frozenset(pair.split("_")) for pair in verdicts}
    pairs = {pair: letters for pair, letters in pairs.items() if frozenset(pair.split("_")) not in named} | verdicts
    return {
        tuple(pair.split("_")): {
            column: Finding(nothing, words[letter])
            for column, letter in zip(
                ("test_loss", "clip_score", "style", "test_loss_common"), letters + "nw", strict=True
            )
        }
        for pair, letters in pairs.items()
    }


@pytest.mark.parametrize(
    ("verdicts", "best", "says"),
    [
        (found(x_y="bn", x_z="bb"), "x", "Winner: x"),
        (found(y_x="wn", z_x="ww", z_y="bn"), "x", "Winner: x"),  # as the other way round
        (found(x_y="nn", x_z="bb", y_z="bn"), None, "No winner: open between x and y"),
        (found(x_y="bw", x_z="bb", y_z="bb"), None, "No winner: open between x and y"),  # better at one, worse at other
        (found(x_y="bn", y_z="bn", x_z="wn"), None, "No winner: each is beaten by another"),
        (found(x_y="bn"), None, "No winner: open between x and z"),
        (found(x_y="bn", y_z="bn"), None, "No winner: x comes nearest, but is not better than each other"),
        (found(x_y="bn", z_y="bn", x_z="nb"), "x", "Winner: x"),
        (found(x_y="bf", x_z="bn"), None, "No winner: open between x and y"),  # not known to be worse in nothing
        # 25 drawings of another hand: losses lower, pictures worse.
        (
            found(x_o="bw", y_o="bw", z_o="bw"),
            None,
            "All three draw worse than the o model: clip_score 40.00, 40.00 and 40.00 against 62.00",
        ),
        (
            found(x_o="bw", y_o="bw", z_o="bw", x_y="bb", x_z="bb"),  # the best of them is no winner
            None,
            "All three draw worse than the o model: clip_score 40.00, 40.00 and 40.00 against 62.00",
        ),
        (
            found(x_o="wb", y_o="wn", z_o="wn"),
            None,
            "All three predict test drawings worse than the o model: test_loss 0.1000, 0.1000 and 0.1000 "
            "against 0.1000",
        ),
        (
            found(x_o="fw", y_o="fw", z_o="fw"),
            None,
            "All three draw worse than the o model: clip_score 40.00, 40.00 and",
        ),
        (found(x_o="bw", x_y="bb", x_z="bb"), None, "No winner: open between y and z"),  # worse than the base
        (found(x_o="bw", y_o="wb", z_o="ww"), None, "No winner: each is worse than the o model in test_loss or clip_"),
        (found(x_o="nn", y_o="nn", z_o="nw", x_y="bn", x_z="bn"), None, "No winner: none is better than the o model"),
        (found(x_o="nn", x_y="bn", x_z="bn"), None, "No winner: open between y and z"),  # level with the base
        (found(x_o="fb", y_o="fn", z_o="fn"), None, "No verdict: fewer than 5 test drawings are too few to tell"),
        (found(x_o="bf", y_o="bf", z_o="bf"), None, "No verdict: fewer than 5 prompts are too few to tell"),
    ],
)
def test_a_winner_is_better_than_the_base_and_each_other_and_worse_in_nothing(verdicts, best, says):
    evaluations = {name: evaluation([0.1] * 5, [40.0] * 5) for name in "xyz"}
    evaluations = {"o": evaluation([0.1] * 5, [62.0] * 5)} | evaluations
    assert winner(evaluations, verdicts) == best
    said = headline(evaluations, verdicts, TARGET)
    assert said.startswith(says)
    # 40 against 62 is said in any case but that of a winner.
    assert (best is not None) != said.endswith("40.00, 40.00 and 40.00 against 62.00") or "test_loss 0" in said


def test_a_variant_that_draws_one_picture_cannot_win_and_beats_nobody():
    evaluations = {"o": evaluation(HARD, [50.0] * 5)} | {name: evaluation(HARD, [50.0] * 5) for name in "xyz"}
    collapsed = evaluations | {"x": evaluation(HARD, [50.0] * 5, diversity=1.2)}  # of the base's 2.0: a fifth of 1
    best = found(x_y="bb", x_z="bb", y_z="bn")
    assert (winner(evaluations, best), winner(collapsed, best)) == ("x", "y")
    alone = {"o": collapsed["o"], "x": collapsed["x"]}
    assert headline(alone, best, TARGET) == "No winner: x draws nearly the same picture whatever the seed"
    assert winner({"o": alone["o"], "x": evaluation(HARD, [50.0] * 5, diversity=1.26)}, best) == "x"


def test_what_is_learned_by_heart_is_the_gain_on_learned_drawings_beyond_that_on_test_drawings():
    base = evaluation(HARD, [1.0] * 5, seen=np.array([0.9, 0.8, 1.0, 0.7, 0.9]))  # learned drawings are easier
    fair = evaluation(HARD * 0.9, [1.0] * 5, seen=np.array([0.9, 0.8, 1.0, 0.7, 0.9]))
    heart = evaluation(HARD * 0.9, [1.0] * 5, seen=0.5 * np.array([0.91, 0.8, 1.0, 0.7, 0.9]))
    assert learned_by_heart(fair, base).mean == pytest.approx(0)
    gap = learned_by_heart(heart, base)
    assert gap.low < gap.mean == pytest.approx(-0.5, abs=0.01) and gap.high < -0.4
    row = learned_table({"base": base, "heart": heart}).splitlines()[3]
    assert row.startswith("| heart | ") and " | -49." in row
    few = [evaluation(HARD[:4], [1.0] * 5, seen=seen) for seen in (1.0, 0.5)]
    assert not learned_by_heart(*few).has_interval


def test_the_thresholds_for_copies_are_what_few_held_out_drawings_reach():
    nearness = np.linspace(0.3, 0.9, 25)  # 5% of 25 are one
    control = pd.DataFrame({"correlation": nearness, "cosine": 0.812})
    assert thresholds(control) == {"correlation": 0.88, "cosine": 0.82}  # the second is 0.875
    assert thresholds(control.tail(3))["correlation"] == 0.91  # none of three


def test_false_alarms_stand_beside_the_copies():
    text = copies_text(EVALUATIONS)
    assert "base 0%, blip 20%. Of the 2 held-out drawings, which nobody copied, 50% are flagged" in text
    assert "`evaluate.copy_correlation` should be 0.71" in text


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("bb", "x is better than the o model"),
        ("bw", "x draws worse than the o model: clip_score 40.00 against 62.00"),
        ("wn", "x predicts test drawings worse than the o model: test_loss 0.1000 against 0.1000"),
        (
            "nn",
            "No winner: none is better than the o model; in the mean, clip_score is below the o model's: "
            "40.00 against 62.00",
        ),
    ],
)
def test_one_variant_alone_is_held_against_the_base(verdict, says):
    evaluations = {"o": evaluation([0.1] * 5, [62.0] * 5), "x": evaluation([0.1] * 5, [40.0] * 5)}
    assert headline(evaluations, found(x_o=verdict), TARGET) == says


def test_scores_little_below_the_bases_are_not_worth_a_word():
    evaluations = {"o": evaluation([0.1] * 5, [42.0] * 5), "x": evaluation([0.1] * 5, [40.0] * 5)}
    assert headline(evaluations, found(x_o="nn"), TARGET) == "No winner: none is better than the o model"


def test_a_winner_that_paints_is_said_to():
    evaluations = {name: evaluation([0.1] * 5, [40.0] * 5, saturation=0.2) for name in "oxyz"}
    assert headline(evaluations, found(x_y="bn", x_z="bb"), TARGET) == ("Winner: x, but what it draws is not line art")


def test_the_findings_say_what_each_variant_is_better_than():
    assert findings_table(EVALUATIONS, compare_all(EVALUATIONS, 0.01), TARGET).splitlines()[2:] == [
        "| **blip** | better than base | level with base | better than base | yes, 5 of 5 | 1 of 5 |"
    ]


def test_the_findings_are_there_as_json_too():
    found = json.loads(findings_json(EVALUATIONS, compare_all(EVALUATIONS, 0.01), [TARGET]))
    assert (found["winner"], found["base"], found["variants"]) == ("blip", "base", ["blip"])
    assert found["headline"] == "blip is better than the base model"
    assert found["scores"]["blip"] == {"test_loss": 0.14, "test_loss_common": 0.14, "clip_score": 40.0} | {
        "style": 0.8,
        "style_cosine": 0.5,
        "diversity": 1.5,
        "drift": 0.1,
    }
    assert found["better"]["test_loss"] == "lower" and found["line_art"] == {"base": False, "blip": True}
    first = found["differences"][0]
    assert (first["one"], first["other"], first["score"], first["verdict"]) == ("blip", "base", "test_loss", "better")
    assert first["is_ratio"] and first["low"] < first["mean"] == -0.4997 < first["high"] < 0
    few = {name: evaluation(EASY[:4], [1.0] * 4) for name in ("base", "blip")}
    last = json.loads(findings_json(few, compare_all(few, 0.01), [TARGET]))["differences"][-1]
    assert (last["mean"], last["low"], last["high"], last["is_ratio"]) == (0, None, None, False)


def test_a_grid_holds_the_pictures_in_reading_order():
    grid = np.asarray(sample_grid(make_pictures(5), 4))
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
    log["seen_loss"] = log["val_loss"]
    drawing = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(drawing).line((0, 0, 64, 64))
    drawing.save(tmp_path / "owl.png")
    found = compare_all(EVALUATIONS, 0.01)
    for folder in ("a", "b"):
        for name, figure in {
            "comparison": comparison(["an owl, ink", "an owl, ink"], {"base": make_pictures(2)}),
            "curves": training_curves({"blip": log}),
            "differences": difference_plot(found),
            "line_art": line_art_plot(EVALUATIONS, TARGET),
            "nearest": nearest_pairs(EVALUATIONS, tmp_path),
            "steps": step_strip("an owl", {"blip": dict(enumerate(make_pictures(3)))}),
            "timesteps": by_timestep(EVALUATIONS),
        }.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            save_figure(figure, tmp_path / folder / f"{name}.png")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 7


def test_a_strip_of_many_steps_shows_the_first_the_last_and_some_between():
    figure = step_strip("an owl", {"x": dict(enumerate(make_pictures(20))), "y": {0: make_pictures(1)[0]}})
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 8 and titles[0] == "step 0" and titles[-1] == "step 19"
    assert len(figure.axes) == 16 and sum(axis.axison for axis in figure.axes) == 9  # y was drawn once


def test_the_pictures_of_a_training_are_found_by_step(tmp_path):
    for step in (0, 60, 1000):
        (tmp_path / f"eval_step{step:04d}").mkdir()
        for image, prompt in zip(make_pictures(2), range(2), strict=True):
            image.save(tmp_path / f"eval_step{step:04d}/prompt{prompt:02d}.png")
    assert sorted(read_steps(tmp_path)) == [0, 60, 1000] and read_steps(tmp_path / "nothing") == {}


def test_the_loss_on_learned_drawings_is_read_by_step(tmp_path):
    (tmp_path / "eval_step0060").mkdir()
    (tmp_path / "eval_step0060/losses.json").write_text('{"val_loss": 0.2, "seen_loss": 0.15}')
    log = add_seen_losses(pd.DataFrame({"step": [50, 60]}), tmp_path)
    assert np.isnan(log["seen_loss"][0]) and log["seen_loss"][1] == 0.15


def test_the_losses_of_all_variants_by_timestep_are_one_table(tmp_path):
    write_by_variant(tmp_path / "timesteps.csv", losses_by_timestep(EVALUATIONS))
    head, *rows = (tmp_path / "timesteps.csv").read_text().splitlines()
    assert head == "timestep,test_loss,test_loss_common,variant"
    assert [row.rpartition(",")[2] for row in rows] == ["base", "blip"] and rows[1] == "500,0.140000,0.140000,blip"


def test_the_drawings_are_counted_and_their_licences_shown_as_text(tmp_path):
    (tmp_path / "drawings.csv").write_text("file,sha256,split\n")
    rows = [
        ManifestRow("a.png", "kept", width=300, height=200, split="train", license="<b>mine|yours</b>"),
        ManifestRow("b.png", "kept", width=100, height=500, split="val"),
        ManifestRow("c.png", "duplicate"),
        ManifestRow("d.png", "rejected"),
    ]
    captions = pd.DataFrame({"origin": ["blip", "user"], "tokens": [5, 9], "enriched_tokens": [15, 19]})
    text = data_facts("flash", tmp_path, rows, captions)
    assert (
        "| drawings | 2: 1 to learn from, 1 that choose the best step (val), 0 to report on (test) |" in text
        and "| left out | 1 duplicates, 1 rejected files |" in text
    )
    assert "300 to 500 px" in text and r"&lt;b&gt;mine\|yours&lt;/b&gt; (1), unknown (1)" in text
    assert "1 by BLIP, 0 from names, 1 your own" in text and "at most 9; with the suffix 17 and 19" in text


def test_an_evaluation_that_did_not_run_is_named(tmp_path):
    with pytest.raises(UserError, match="no metrics.json; run `dvc repro`"):
        read_evaluation(tmp_path)


def test_pictures_are_read_in_the_order_of_their_table(tmp_path):
    """Not in that of their names: 10 comes after 7."""
    (tmp_path / "metrics.json").write_text(json.dumps({"test_loss": 0.1}))
    (tmp_path / "drawings.csv").write_text("file,split,loss\na.png,test,0.1\n")
    for file in ("control.csv", "plain.csv"):
        (tmp_path / file).write_text("file\n")
    (tmp_path / "pictures.csv").write_text("file\nprompt00_seed7.png\nprompt00_seed10.png\n")
    for image, seed in zip(make_pictures(2), (7, 10), strict=True):
        image.save(tmp_path / f"prompt00_seed{seed}.png")
    assert [image.getpixel((0, 0))[0] for image in read_evaluation(tmp_path).images] == [0, 10]


# Prompts that are formulas, markup or no Latin text.
ODD = [
    r"$\frac{1}{$ an owl",
    "a_b | c <b>d</b> `e` **f** [g](h) & $x_1$",
    "two\nlines\tand a tab",
    "一只猫头鹰，线条画 🦉",
    "\u202bבומה\u202c بومة",
    "a very long prompt, " * 40,
]
ARGUMENTS = [
    *("--evaluations", "e", "--logs", "l", "--samples", "s", "--processed", "p"),
    *("--metrics", "metrics", "--plots", "plots"),
]


def report_project(folder, prompts=ODD, dataset="flash"):
    """What the report reads: evaluations, logs, samples and drawings made up, and the project's own params."""
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= {"prompts": prompts, "seeds": [7]}
    params["train"]["prompts"] = prompts
    params["dataset"] = dataset
    params["variants"] = {name: params["variants"]["blip"] for name in ("odd-_", "blip")}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    images = folder / "p/images"
    images.mkdir(parents=True)
    drawing = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(drawing).line((8, 8, 50, 40), "black", 3)
    drawing.save(images / "owl.png")
    (folder / "p/drawings.csv").write_text("file,sha256,split\nowl.png,ab,test\n")
    write_manifest(folder / "p/manifest.csv", [ManifestRow("鴞.png", "kept", file="owl.png", license="© $x$ | <i>")])
    (folder / "p/captions.csv").write_text("file,origin,tokens,enriched_tokens\nowl.png,user,3,9\n")
    (folder / "l").mkdir()
    for i, name in enumerate(("base", "odd-_", "blip")):
        found = evaluation(HARD - 0.01 * i, [40.0 + i] * len(prompts))
        out = folder / "e" / name
        out.mkdir(parents=True)
        found.pictures["file"] = [f"{k}.png" for k in range(len(prompts))]
        for file, image in zip(found.pictures["file"], found.images, strict=True):
            image.save(out / file)
        found.pictures.assign(prompt=prompts).to_csv(out / "pictures.csv", index=False)
        for table in ("losses", "control", "plain"):
            file = {"losses": "drawings"}.get(table, table)
            getattr(found, table).to_csv(out / f"{file}.csv", index=False)
        (out / "metrics.json").write_text(json.dumps(found.metrics))
        (folder / f"l/{name}.csv").write_text("step,train_loss,val_loss,clip_score\n0,,0.3,40\n2,0.2,0.2,41\n")
        (folder / f"s/{name}/eval_step0002").mkdir(parents=True)
        drawing.save(folder / f"s/{name}/eval_step0002/prompt00.png")
        (folder / f"s/{name}/eval_step0002/losses.json").write_text('{"val_loss": 0.2, "seen_loss": 0.15}')
    return folder


def written(folder):
    outputs = [path for name in ("metrics", "plots") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in outputs}


def report(project, **environment):
    command = [sys.executable, "-m", "stages.report", *ARGUMENTS]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done


def test_the_report_is_the_same_whatever_machine_user_and_terminal_write_it(tmp_path):
    one, other = report_project(tmp_path / "one"), report_project(tmp_path / "other folder/p")
    (other / "matplotlibrc").write_text(
        "font.size: 20\nfont.family: serif\naxes.facecolor: red\nsavefig.dpi: 30\nsavefig.bbox: tight\n"
        "text.usetex: True\naxes.prop_cycle: cycler(color=['m'])\nlines.linewidth: 9\ntext.parse_math: True\n"
    )
    (other / ".scratch/times").mkdir(parents=True)
    (other / ".scratch/times/encode.json").write_text('{"seconds": 99, "ended": 1}')
    home = tmp_path / "home"
    home.mkdir()
    report(one, LC_ALL="C.UTF-8", TZ="UTC", PYTHONHASHSEED="0", OMP_NUM_THREADS="1")
    done = report(
        other,
        LC_ALL="C",
        LANG="de_DE.ISO-8859-1",
        TZ="Asia/Tokyo",
        PYTHONHASHSEED="7",
        OMP_NUM_THREADS="2",
        MATPLOTLIBRC=str(other),
        HOME=str(home),
        USER="somebody",
        PYTHONIOENCODING="iso-8859-1",
        PYTHONUTF8="0",
        SOURCE_DATE_EPOCH="1",
        DVC_STAGE="report",
        DVC_ROOT=str(other),
    )
    assert written(one).keys() == written(other).keys() and len(written(one)) > 15
    assert [name for name, content in written(one).items() if content != written(other)[name]] == []
    assert "| variant | test_loss ? |" in done.stdout.decode("iso-8859-1") and not done.stderr


def test_the_target_is_of_held_out_drawings_small_differences_are_none_and_pictures_are_of_the_first_seed(tmp_path):
    project = report_project(tmp_path, ["an owl", "a key", "a rose", "a wolf"])
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= {"prompts": ["an owl", "a key"], "seeds": [7, 8]}
    params["report"]["smallest_difference"] = 0.5
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    Image.new("RGB", (64, 64), "black").save(project / "p/images/night.png")
    with (project / "p/drawings.csv").open("a") as table:
        table.write("night.png,cd,train\n")
    call(report_main, project, *ARGUMENTS)
    target = json.loads((project / "metrics/held_out.json").read_text())
    assert target["ink"] == pytest.approx(measure(Image.open(project / "p/images/owl.png")).ink, abs=1e-6)
    differences = json.loads((project / "metrics/findings.json").read_text())["differences"]
    assert {row["verdict"] for row in differences if row["score"] == "test_loss"} == {"no difference"}
    assert compare(evaluation(HARD - 0.01, [40.0]), evaluation(HARD, [40.0]), 0.0)["test_loss"].verdict == "better"
    colours = {colour[:3] for _, colour in Image.open(project / "plots/comparison.png").getcolors(1 << 20)}
    assert {(0, 0, 0), (20, 0, 0)} <= colours and (10, 0, 0) not in colours


def test_nothing_of_the_machine_is_in_the_report(tmp_path):
    project = report_project(tmp_path / "p", [f"{number} owls" for number in range(5)])
    report(project)
    for name, content in written(project).items():
        if name.endswith(".png"):
            assert not Image.open(project / name).text, name
        else:
            text = content.decode("utf-8")
            assert not re.search(r"\d s\b|\bcores\b|\+cpu|\+cu\d|" + re.escape(str(tmp_path)), text), name


@pytest.mark.parametrize("prompt", [*ODD, "$$", "$\\undefined$", "\\", "%", "_", "NA", "7"])
def test_a_prompt_is_a_text_in_every_figure(tmp_path, prompt):
    log = pd.DataFrame({"step": [0, 1], "train_loss": [None, 1], "val_loss": [1, 2], "clip_score": 3, "seen_loss": 1})
    Image.new("RGB", (64, 64)).save(tmp_path / "owl.png")
    evaluations = dict(zip((prompt, f"{prompt} 2"), EVALUATIONS.values(), strict=True))
    figures = [
        comparison([prompt, f"x, {prompt}"], {prompt: make_pictures(2)}),
        comparison([f"x, {prompt}"], {prompt: make_pictures(1)}),
        training_curves({prompt: log}),
        difference_plot(compare_all(evaluations, 0.01)),
        line_art_plot(evaluations, TARGET),
        nearest_pairs(evaluations, tmp_path),
        step_strip(prompt, {prompt: dict(enumerate(make_pictures(3)))}),
        by_timestep(evaluations),
    ]
    for figure in figures:
        save_figure(figure, tmp_path / "figure.png")
        assert max(Image.open(tmp_path / "figure.png").size) < 3000


def test_long_names_of_columns_do_not_overlap_and_the_seed_below_a_long_prompt_is_not_cut():
    names = ("a-very-long-adapter-name_from_a_site_v2.0", "rank16-experiment-of-mine:blip_plus", "base")
    pictures = {name: make_pictures(2) for name in names}
    figure = comparison(["word " * 40] * 2, pictures, ["seed 7", "seed 8"])
    figure.tight_layout()
    boxes = [axis.title.get_window_extent() for axis in figure.axes[:3]]
    assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:], strict=False))
    assert [axis.get_ylabel().splitlines()[-1] for axis in figure.axes[::3]] == ["seed 7", "seed 8"]


def test_a_long_prompt_is_wrapped_and_cut():
    assert wrapped("one two\nthree", 8, 2) == "one two\nthree"
    assert wrapped("word " * 50, 20, 2) == "word word word word\nword word word …"
    assert wrapped("长" * 100, 10, 2) == "长" * 10 + "\n…"


def test_a_prompt_that_reads_like_no_value_is_a_prompt(tmp_path):
    prompts = ["NA", "nan", "null", "None", "7", ""]
    folder = report_project(tmp_path, prompts) / "e/blip"
    read = read_evaluation(folder)
    assert list(read.pictures["prompt"]) == prompts and read.measured[0] == TARGET
    (folder / "pictures.csv").write_text((folder / "pictures.csv").read_text().replace(",3.0,", ",nan,"))
    assert np.isnan(read_evaluation(folder).measured[0].stroke)
    assert compare(read, read, 0.0)["clip_score"].difference.has_interval  # six prompts


def test_an_adapter_that_gave_no_number_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"test_loss": None}))
    with pytest.raises(UserError, match="test_loss is no number; train again with a lower learning_rate"):
        read_evaluation(tmp_path)
