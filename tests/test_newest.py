"""What the first screen chooses to show."""

import os

from app.newest import best_first, newest_pictures, raw_drawings, without_common_end
from app.runs import Run


def evaluated(root, name, changed):
    folder = root / f"runs/evaluation/{name}"
    folder.mkdir(parents=True)
    (folder / "pictures.csv").write_text("prompt,seed,clip_score,copy,file\na wolf,7,80,0,a.png\na wolf,8,80,0,b.png\n")
    for file in ("a.png", "b.png"):
        (folder / file).touch()
        os.utime(folder / file, (changed, changed))


def sampled(root, variant, step, changed):
    folder = root / f"runs/samples/{variant}/eval_step{step:04d}"
    folder.mkdir(parents=True)
    (root / "runs/logs").mkdir(exist_ok=True)
    (root / f"runs/logs/{variant}.csv").touch()
    (folder / "prompt00.png").touch()
    os.utime(folder / "prompt00.png", (changed, changed))


def test_the_evaluations_pictures_are_shown_until_a_training_draws_newer_ones(tmp_path):
    run = Run("workspace", folder=tmp_path, params={"train.prompts": ["an owl"]})
    assert newest_pictures(run) is None
    sampled(tmp_path, "blip", 0, 100)
    sampled(tmp_path, "blip", 60, 100)
    assert newest_pictures(run).pictures == {
        "an owl": {
            "base": "runs/samples/blip/eval_step0000/prompt00.png",
            "blip": "runs/samples/blip/eval_step0060/prompt00.png",
        }
    }
    evaluated(tmp_path, "blip", 200)
    assert newest_pictures(run).pictures == {"a wolf": {"blip": "runs/evaluation/blip/a.png"}}
    sampled(tmp_path, "blip", 120, 300)
    assert newest_pictures(run).when == "drawn in training, at step 120"


def test_prompts_are_named_without_the_end_that_all_share():
    prompts = ["a wolf, line art, ink", "a deer, fine, line art, ink"]
    assert without_common_end(prompts) == {"a wolf": prompts[0], "a deer, fine": prompts[1]}
    assert list(without_common_end(["a wolf, ink"])) == ["a wolf, ink"]
    assert list(without_common_end(["owl", "fowl"])) == ["owl", "fowl"]
    long = ["a wolf that sits " * 9 + end for end in ("left", "right")]
    assert list(without_common_end(long)) == [
        "a wolf that sits a wolf that sits a…",
        "a wolf that sits a wolf that sits a… (2)",
    ]
    assert list(without_common_end(long).values()) == long


def test_the_variant_with_the_best_score_that_decides_is_offered_first():
    findings = {"decide": ["clip"], "better": {"clip": "higher"}, "scores": {"a": {"clip": 1}, "b": {"clip": 3}}}
    assert sorted(["a", "new", "b"], key=best_first(findings)) == ["b", "a", "new"]
    assert sorted(["b", "a"], key=best_first({})) == ["b", "a"]


def test_only_pictures_are_taken_for_drawings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw/own").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "a.txt", "rights.csv"):
        (tmp_path / "data/raw/own" / name).touch()
    assert raw_drawings("own", 8) == ["data/raw/own/a.jpg", "data/raw/own/b.PNG"]
    assert raw_drawings("none", 8) == []
