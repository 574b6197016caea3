"""Truths planted in real trainings of the miniature come out in the report. Minutes: `pytest -m slow`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run, set_value
from PIL import Image, ImageChops

from stages.evaluate.pictures import embed_pictures
from stages.evaluate.style import style_distances
from stages.report.findings import compare, learned_by_heart, read_evaluation
from tattoo_lora.data.drawings import read_drawings, write_drawings
from tattoo_lora.data.split import file_sha256, is_held_out
from tattoo_lora.diffusion.line_art import mean_line_art, measure
from tattoo_lora.diffusion.models import load_clip
from tattoo_lora.params import Model, load_params

pytestmark = pytest.mark.slow
PROCESSED = "data/processed/flash"
SMALLEST = load_params(ROOT).report.smallest_difference


def let_learn(drawing: Path) -> None:
    """Change the file behind the picture's end until its content is one that is not held out."""
    params = load_params(ROOT).preprocess
    while is_held_out(file_sha256(drawing), params.val_share + params.test_share):
        drawing.write_bytes(drawing.read_bytes() + b"\0")


def planted_copy(target: Path, learned: list[str] = (), others: list[str] | None = None) -> Path:
    """The project as Git would carry it, with the named drawings or all, as far as the latents.

    Those of `learned` are learned from in any case, the `others` as their content decides.
    """
    target.mkdir(parents=True)
    for name in ("stages", "tattoo_lora", "profiles", "models/embedded", "data/raw"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", target)
    for path in (target / "data/raw/flash").glob("*.png"):
        if path.stem in learned:
            let_learn(path)
        elif others is not None and path.stem not in others:
            path.unlink()
    run(
        "python",
        "-m",
        "stages.preprocess",
        "data/raw/flash",
        "--out",
        PROCESSED,
        "--sheet",
        "plots/drawings.png",
        cwd=target,
    )
    run("python", "-m", "stages.caption_blip", PROCESSED, "--out", f"{PROCESSED}/captions_blip", cwd=target)
    run("python", "-m", "stages.encode", PROCESSED, "--out", f"{PROCESSED}/latents.safetensors", cwd=target)
    return target


def trained(
    project: Path, name: str, captions: str = "captions_blip", adapter: bool = True, table: str = "drawings.csv"
):
    """The evaluation of a training with captions and a table of drawings; always measured with BLIP's own and all."""
    inputs = [*("--latents", f"{PROCESSED}/latents.safetensors"), *("--drawings", f"{PROCESSED}/drawings.csv")]
    lora = []
    if adapter:
        outputs = ["--lora", f"{name}/lora", "--log-csv", f"{name}/log.csv", "--samples", f"{name}/samples"]
        run(
            "python",
            "-m",
            "stages.train",
            "blip",
            *inputs,
            *("--drawings", f"{PROCESSED}/{table}"),  # the last one counts
            "--captions",
            f"{PROCESSED}/{captions}",
            *outputs,
            cwd=project,
        )
        lora = ["--lora", f"{name}/lora/final.safetensors"]
    run(
        *("python", "-m", "stages.evaluate", "blip", *inputs, "--captions", f"{PROCESSED}/captions_blip"),
        *("--images", f"{PROCESSED}/images", *lora, "--out", f"{name}/evaluation"),
        cwd=project,
    )
    return read_evaluation(project / name / "evaluation")


def verdicts(one, other):
    """Whether the one is better or worse than the other in each score, or there is no difference."""
    return {score: finding.verdict for score, finding in compare(one, other, SMALLEST).items()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return planted_copy(tmp_path_factory.mktemp("planted") / "p")


@pytest.fixture(scope="module")
def right(project):
    return trained(project, "right")


@pytest.fixture(scope="module")
def base(project):
    return trained(project, "base", adapter=False)


def test_shuffled_captions_are_worse(project, right):
    captions = sorted((project / PROCESSED / "captions_blip").glob("*.txt"))
    shuffled = project / PROCESSED / "captions_shuffled"
    shuffled.mkdir()
    order = np.random.default_rng(0).permutation(len(captions))
    for path, i in zip(captions, order, strict=True):
        shutil.copy(captions[i], shuffled / path.name)
    wrong = trained(project, "shuffled", "captions_shuffled")
    print({"right": right.metrics["clip_score"], "shuffled": wrong.metrics["clip_score"]})
    assert verdicts(right, wrong)["clip_score"] == "better"


def test_another_seed_is_no_difference(project, right):
    params = project / "params.yaml"
    text = params.read_text()
    set_value(params, "seed", 43)
    other = trained(project, "another_seed")
    params.write_text(text)
    print({score: (right.metrics[score], other.metrics[score]) for score in ("test_loss", "clip_score")})
    assert set(verdicts(right, other).values()) == {"no difference"}


def test_a_training_that_copies_its_drawings_is_flagged(tmp_path, right):
    prompts = load_params(ROOT).evaluate.prompts
    asked_for = [prompt.split(",")[0].removeprefix("a ").replace(" ", "-") for prompt in prompts]
    # These eight and some to hold out, so often that nothing is left to learn but they themselves.
    project = planted_copy(tmp_path / "p", asked_for, ["brain", "bug", "grapes", "lizard"])
    drawings = read_drawings(project / PROCESSED / "drawings.csv")
    assert {Path(drawing.file).stem for drawing in drawings if drawing.split == "train"} == set(asked_for)
    set_value(project / "profiles/embedded.yaml", "steps", 900)
    set_value(project / "profiles/embedded.yaml", "epochs", "null")
    set_value(project / "profiles/embedded.yaml", "guidance_scale", 2.0)  # more would exaggerate what was learned
    copied = trained(project, "copied")
    print({"right": right.metrics["copies"], "copied": copied.metrics["copies"]})
    assert copied.metrics["copies"] >= 0.5
    assert right.metrics["copies"] <= copied.metrics["copies"] / 2
    # The base knows the drawings' coloured twins, so a right training comes near them too; the same pixels it has not.
    assert copied.pictures["correlation"].median() > 0.97 > right.pictures["correlation"].max()


def test_coloured_pictures_are_reported_as_not_line_art(project, right, base):
    held_out = [drawing.file for drawing in read_drawings(project / PROCESSED / "drawings.csv") if drawing.is_held_out]
    target = mean_line_art([measure(Image.open(project / PROCESSED / "images" / file)) for file in held_out])
    assert not base.is_line_art(target)
    print(json.dumps({"base": base.metrics["saturation"], "right": right.metrics["saturation"]}))
    assert right.is_line_art(target)


def test_an_adapter_that_learned_the_val_drawings_wins_val_loss_and_not_test_loss(project, right, base):
    """What chose is not what is reported; and on what was learned the loss fell more than on what was not."""
    drawings = read_drawings(project / PROCESSED / "drawings.csv")
    exchanged = {"val": "train", "train": "val", "test": "test"}
    cheating = [replace(drawing, split=exchanged[drawing.split]) for drawing in drawings]
    write_drawings(project / PROCESSED / "cheating.csv", cheating)
    cheat = trained(project, "cheat", table="cheating.csv")
    print({score: (right.metrics[score], cheat.metrics[score]) for score in ("val_loss", "test_loss")})
    assert cheat.metrics["val_loss"] < 0.9 * right.metrics["val_loss"]
    assert verdicts(cheat, right)["test_loss"] != "better"
    gap = learned_by_heart(right, base)
    print(gap)
    assert gap.mean < 0


def test_style_is_nearer_in_other_drawings_than_in_the_adapters_than_in_the_bases_than_in_coloured_pictures(
    project, right, base
):
    clip, processor = load_clip(Model(str(ROOT / "models/embedded/clip"), None))
    drawings = read_drawings(project / PROCESSED / "drawings.csv")

    def embeds(images):
        return embed_pictures(clip, processor, images, 8)

    by_split = {
        split: [
            Image.open(project / PROCESSED / "images" / d.file).convert("RGB") for d in drawings if d.split == split
        ]
        for split in ("train", "val", "test")
    }
    colours = [(255, 90, 90), (90, 255, 90), (90, 90, 255), (255, 200, 60)] * 8
    coloured = [
        ImageChops.multiply(image, Image.new("RGB", image.size, colour))
        for image, colour in zip(base.images, colours, strict=True)
    ]
    test = embeds(by_split["test"])
    found = {
        name: style_distances(embeds(images), test).mean().item()
        for name, images in (("val", by_split["val"]), ("train", by_split["train"]), ("coloured", coloured))
    }
    found |= {"right": right.metrics["style"], "base": base.metrics["style"]}
    print(found)
    assert found["val"] < found["right"] < found["base"] < found["coloured"]
    assert abs(found["train"]) < 0.25 < found["base"]  # of another set of drawings: 0, give or take chance
    assert verdicts(right, base)["style"] == "better"
