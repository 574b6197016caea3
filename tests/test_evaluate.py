"""The evaluation as the command runs it, held against what its numbers should be."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROCESSED, ROOT, call, copy_project, sampler, set_value
from peft import LoraConfig
from PIL import Image, ImageOps
from safetensors.torch import load_file

from stages.evaluate import __main__ as evaluate
from stages.evaluate.embeddings import Embedded, embed_drawings
from stages.evaluate.pictures import control_rows, measure_pictures
from stages.evaluate.style import style_distances, vendi_score
from tattoo_lora.data import split
from tattoo_lora.data.captions import read_captions, write_caption
from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.data.split import file_sha256
from tattoo_lora.diffusion.latents import scaled_means
from tattoo_lora.diffusion.line_art import measure
from tattoo_lora.diffusion.lora import add_lora, save_lora
from tattoo_lora.diffusion.models import load_clip, load_noise_scheduler
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import clip_scores, embed_images, embed_texts, load_pipeline, sample_images
from tattoo_lora.diffusion.validation import timestep_grid, validation_losses
from tattoo_lora.params import Model, load_params, load_profile

FLASH = Path(PROCESSED)
BASE, CLIP = (Model(str(ROOT / "models/embedded" / name), None) for name in ("base", "clip"))


def evaluated(project, *more):
    options = (
        f"--latents {FLASH}/latents.safetensors --drawings {FLASH}/drawings.csv "
        f"--images {FLASH}/images --captions {FLASH}/captions_blip --out out"
    )
    call(evaluate, project, "vanilla", *options.split(), *more)
    folder = project / "out"
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics, pd.read_csv(folder / "drawings.csv"), pd.read_csv(folder / "pictures.csv")


@pytest.fixture(scope="module")
def project(processed, tmp_path_factory):
    project = copy_project(processed, tmp_path_factory.mktemp("evaluated") / "p")
    set_value(project / "params.yaml", "trigger", "inked")  # vanilla's
    for path in (project / FLASH / "captions_blip").iterdir():  # the second one is for training alone
        write_caption(path.parent, path.stem, path.read_text(encoding="utf-8"), "lines")
    set_value(project / "params.yaml", "copy_correlation", 0.5)  # so that some pictures are near and some are not
    return project


@pytest.fixture(scope="module")
def base(project):
    """The metrics and both tables of the untouched base."""
    return evaluated(project)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(BASE, "auto")


def encode(pipeline, texts):
    return encode_prompts(pipeline.tokenizer, pipeline.text_encoder, texts)


def losses_by_hand(project, pipeline, caption):
    """(drawings of test, val and as many of train as of test, timesteps), `caption` giving a drawing's stem's text."""
    drawings = read_drawings(project / FLASH / "drawings.csv")
    by_split = {split: [d for d in drawings if d.split == split] for split in ("test", "val", "train")}
    lowest = sorted(drawing.sha256 for drawing in by_split["train"])[: len(by_split["test"])]
    drawings = [*by_split["test"], *by_split["val"], *(d for d in by_split["train"] if d.sha256 in lowest)]
    stored = load_file(project / FLASH / "latents.safetensors")
    latents = scaled_means([stored[drawing.file] for drawing in drawings], pipeline.vae.config.scaling_factor)
    embeds = encode(pipeline, [caption(drawing.stem) for drawing in drawings])
    noise_scheduler = load_noise_scheduler(BASE)
    return drawings, validation_losses(pipeline.unet, noise_scheduler, latents, embeds, timestep_grid(3, 1000), 8)


def test_losses_are_those_of_test_val_and_some_training_drawings_with_their_captions_and_with_the_common_one(
    project, base, pipeline
):
    metrics, rows, _ = base
    stems = [path.stem for path in (project / FLASH / "captions_blip").iterdir()]
    captions = read_captions(project / FLASH / "captions_blip", stems)
    drawings, own = losses_by_hand(project, pipeline, lambda stem: f"inked, {captions[stem][0]}")
    _, common = losses_by_hand(project, pipeline, lambda stem: load_params(project).evaluate.common_caption)
    tests = sum(drawing.split == "test" for drawing in drawings)
    vals = sum(drawing.split == "val" for drawing in drawings)
    assert 2 <= tests < tests + vals == len(drawings) - tests
    assert metrics["test_loss"] == pytest.approx(own[:tests].mean().item(), rel=1e-3)
    assert metrics["test_loss_common"] == pytest.approx(common[:tests].mean().item(), rel=1e-3)
    assert metrics["val_loss"] == pytest.approx(own[tests : tests + vals].mean().item(), rel=1e-3)
    assert metrics["seen_loss"] == pytest.approx(own[tests + vals :].mean().item(), rel=1e-3)
    bands = [metrics[f"test_loss_{band}"] for band in ("low", "mid", "high")]
    assert bands == pytest.approx(own[:tests].mean(dim=0).tolist(), rel=1e-3)  # one timestep in each
    assert list(rows["file"].unique()) == [drawing.file for drawing in drawings]
    assert rows["timestep"].tolist() == timestep_grid(3, 1000) * len(drawings)
    assert rows["split"].tolist() == [drawing.split for drawing in drawings for _ in range(3)]
    assert rows["loss"].tolist() == pytest.approx(own.flatten().tolist(), abs=2e-5)
    assert rows["loss_common"].dropna().tolist() == pytest.approx(common[:tests].flatten().tolist(), abs=2e-5)


def test_each_prompt_is_drawn_with_each_seed_and_scored_against_itself(project, base, pipeline):
    metrics, _, pictures = base
    params, profile = load_params(project).evaluate, load_profile("embedded", project)
    settings = [(prompt, seed) for prompt in params.prompts for seed in (7, 8)]
    assert list(zip(pictures["prompt"], pictures["seed"], strict=True)) == settings
    prompts, seeds = [list(column) for column in zip(*settings, strict=True)]
    drawn = sample_images(pipeline, encode(pipeline, prompts), encode(pipeline, [""]), seeds, sampler(profile, 2))
    for file, (prompt, seed), expected in zip(pictures["file"], settings, drawn, strict=True):
        assert file == f"prompt{params.prompts.index(prompt):02d}_seed{seed}.png"
        written = Image.open(project / "out" / file)
        assert np.abs(np.asarray(written, int) - np.asarray(expected, int)).max() <= 2
    clip, processor = load_clip(CLIP)
    scores = clip_scores(embed_images(clip, processor, drawn), embed_texts(clip, processor, prompts))
    assert pictures["clip_score"].tolist() == pytest.approx(scores, abs=0.3)
    assert metrics["clip_score"] == pytest.approx(np.mean(scores), abs=0.1)
    assert metrics["ink"] == pytest.approx(np.mean([measure(image).ink for image in drawn]), abs=0.01)


def test_the_precision_is_part_of_the_figures_and_the_last_key(base):
    assert list(base[0].items())[-1] == ("dtype", "float32")


def test_no_adapter_learns_from_the_drawings_that_the_comparison_asks_for():
    params, samples = load_params(ROOT), ROOT / "data/raw/flash"
    names = {file_sha256(path): path.stem.replace("-", " ") for path in samples.glob("*.png")}
    splits = split.split_contents(names, params.preprocess.val_share, params.preprocess.test_share)
    held_out = {names[content] for content in splits if splits[content] != "train"}
    asked_for = {prompt.split(",")[0].removeprefix("a ") for prompt in params.evaluate.prompts}
    assert asked_for <= held_out


def test_copies_are_looked_for_among_the_drawings_that_were_learned_from(project, base):
    metrics, _, pictures = base
    params = load_params(project).evaluate
    learned = {d.file for d in read_drawings(project / FLASH / "drawings.csv") if d.split == "train"}
    assert set(pictures["nearest_by_pixels"]) | set(pictures["nearest_by_clip"]) <= learned
    is_copy = (pictures["correlation"] >= params.copy_correlation) | (pictures["cosine"] >= params.copy_cosine)
    assert pictures["copy"].tolist() == is_copy.astype(int).tolist()
    assert metrics["copies"] == pytest.approx(is_copy.mean())


def test_the_cosine_is_that_of_clips_embeddings(project, base):
    _, _, pictures = base
    clip, processor = load_clip(CLIP)
    drawings = [d for d in read_drawings(project / FLASH / "drawings.csv") if d.split == "train"]
    images = [Image.open(project / FLASH / "images" / drawing.file) for drawing in drawings]
    learned = embed_images(clip, processor, [*images, *map(ImageOps.mirror, images)])
    drawn = embed_images(clip, processor, [Image.open(project / "out" / file) for file in pictures["file"]])
    assert pictures["cosine"].tolist() == pytest.approx((drawn @ learned.T).amax(dim=1).tolist(), abs=1e-3)


def test_near_in_one_of_the_two_measures_is_a_copy(project):
    """A drawing held against itself correlates at 1; one of both thresholds is out of reach."""
    drawings = [d for d in read_drawings(project / FLASH / "drawings.csv") if d.split != "val"][:4]
    number = next(i for i, drawing in enumerate(drawings) if drawing.split == "train")
    image = Image.open(project / FLASH / "images" / drawings[number].file)
    clip, processor = load_clip(CLIP)
    for thresholds, copies in (((0.99, 1.01), 1), ((1.01, 0.99), 1), ((1.01, 1.01), 0)):
        params = dataclasses.replace(
            load_params(project).evaluate, copy_correlation=thresholds[0], copy_cosine=thresholds[1]
        )
        embedded = embed_drawings(clip, processor, CLIP, project / FLASH / "images", drawings, 1)
        metrics, (row,) = measure_pictures(clip, processor, [image], [("a", 7)], embedded, params, 1)
        assert (metrics["copies"], row["copy"]) == (copies, copies)
        assert row["nearest_by_pixels"] == row["nearest_by_clip"] == drawings[number].file


def test_the_control_holds_each_held_out_drawing_against_the_training_drawings(project, base):
    control = pd.read_csv(project / "out/control.csv")
    drawings = read_drawings(project / FLASH / "drawings.csv")
    assert control["file"].tolist() == [drawing.file for drawing in drawings if drawing.split != "train"]
    learned = {drawing.file for drawing in drawings if drawing.split == "train"}
    assert set(control["nearest_by_pixels"]) | set(control["nearest_by_clip"]) <= learned
    pixels = torch.eye(4)[[0, 0, 1, 2]][:, None].expand(-1, 2, -1)  # the test drawing is a training drawing again
    splits = ("train", "test", "train", "val")
    rows = [dataclasses.replace(drawings[0], file=str(i), split=split) for i, split in enumerate(splits)]
    found = control_rows(Embedded(rows, pixels, pixels), load_params(project).evaluate)
    assert [(row["file"], row["copy"]) for row in found] == [("1", 1), ("3", 0)]
    assert found[0]["nearest_by_pixels"] == "0"


def test_style_is_of_the_test_drawings_and_diversity_of_each_prompts_seeds(project, base):
    metrics, _, pictures = base
    clip, processor = load_clip(CLIP)
    everything = read_drawings(project / FLASH / "drawings.csv")
    drawings = [d for d in everything if d.split == "test"]
    test = embed_images(clip, processor, [Image.open(project / FLASH / "images" / d.file) for d in drawings])
    drawn = embed_images(clip, processor, [Image.open(project / "out" / file) for file in pictures["file"]])
    assert pictures["style_cosine"].tolist() == pytest.approx((drawn @ test.T).mean(dim=1).tolist(), abs=2e-3)
    assert metrics["style"] == pytest.approx(style_distances(drawn, test).mean().item(), abs=0.02)
    for prompt, rows in pictures.groupby("prompt"):
        expected = vendi_score(drawn[rows.index.tolist()])
        assert rows["diversity"].tolist() == pytest.approx([expected] * 2, abs=2e-3), prompt
    embedded = embed_drawings(clip, processor, CLIP, project / FLASH / "images", everything, 8)
    image, seeds = Image.open(project / "out" / pictures["file"][0]), [("a wolf", 7), ("a wolf", 8)]
    collapsed, _ = measure_pictures(clip, processor, [image] * 2, seeds, embedded, load_params(project).evaluate, 8)
    assert collapsed["diversity"] == pytest.approx(1)


def test_drawings_are_embedded_once_and_the_bases_pictures_drawn_once(project, base, monkeypatch):
    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("stages.evaluate.embeddings.embed_images", fail)
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.unload_lora_weights", fail)  # before the base draws
    copy = project.with_name("again")
    shutil.copytree(project, copy, symlinks=True)
    metrics, _, _ = evaluated(copy)
    assert metrics == base[0]
    path = copy / FLASH / "images/owl.png"
    ImageOps.mirror(Image.open(path)).save(path)
    with pytest.raises(AssertionError, match="computed again"):
        evaluated(copy)


def test_the_adapter_that_is_named_is_measured(project, base, pipeline, tmp_path):
    live = load_pipeline(BASE, "auto")
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"])
    with torch.no_grad():
        for parameter in add_lora(live.unet, config, seed=0):
            parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    save_lora(tmp_path / "best.safetensors", live.unet, None, {})
    copy = copy_project(project, tmp_path / "p")
    shutil.rmtree(copy / ".scratch/memo/base_pictures")  # so that the adapter is taken out again to draw them
    metrics, _, _ = evaluated(copy, "--lora", tmp_path / "best.safetensors")
    captions = {path.stem: path.read_text().splitlines() for path in (copy / FLASH / "captions_blip").iterdir()}
    drawings, own = losses_by_hand(copy, live, lambda stem: f"inked, {captions[stem][0]}")
    own = own[: sum(drawing.split == "test" for drawing in drawings)]
    assert metrics["test_loss"] == pytest.approx(own.mean().item(), rel=1e-3) != pytest.approx(base[0]["test_loss"])
    plain = pd.read_csv(copy / "out/plain.csv")
    assert plain["prompt"].tolist() == load_params(copy).evaluate.plain_prompts and base[0]["drift"] < 1e-5
    assert metrics["drift"] == pytest.approx(plain["drift"].mean(), abs=1e-5) and plain["drift"].min() > 1e-4
