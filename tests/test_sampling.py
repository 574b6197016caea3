"""Captions, latents, pictures and scores from the embedded models."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, preprocessed, sampler
from peft import LoraConfig
from PIL import Image, ImageChops, ImageOps
from torchmetrics.multimodal.clip_score import CLIPScore

from stages.encode import encode_moments, to_pixel_values
from tattoo_lora.data.split import file_sha256, is_held_out
from tattoo_lora.diffusion.captioners import caption_images, load_captioner
from tattoo_lora.diffusion.latents import read_moments, scaled_means, write_moments
from tattoo_lora.diffusion.lora import add_lora, load_lora, save_lora
from tattoo_lora.diffusion.models import (
    load_clip,
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    place,
)
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import clip_scores, embed_images, embed_texts, load_pipeline, sample_images
from tattoo_lora.diffusion.tokenizer import load_tokenizer
from tattoo_lora.diffusion.validation import timestep_grid, validation_losses
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model, load_params, load_profile

BASE = Model(str(ROOT / "models/embedded/base"), None)
SAMPLER = sampler(load_profile("embedded", ROOT), 2)


def make_pipeline():
    return load_pipeline(BASE, "float32")


@pytest.fixture(scope="module")
def embeds():
    return encode_prompts(load_tokenizer(BASE), load_text_encoder(BASE), ["", "an owl", "a skull", "a key"])


@pytest.fixture(scope="module")
def drawings():
    return [preprocessed(ROOT / f"data/raw/flash/{name}.png") for name in ("owl", "skull", "key")]


def test_the_same_seed_draws_the_same_picture_whatever_the_batch(embeds):
    pipeline = make_pipeline()
    whole = sample_images(pipeline, embeds[1:], embeds[:1], [3, 4, 5], SAMPLER)
    single = sample_images(pipeline, embeds[1:], embeds[:1], [3, 4, 5], dataclasses.replace(SAMPLER, batch_size=1))
    for one, other in zip(whole, single, strict=True):
        assert one.size == (128, 128)
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2  # a batch may round otherwise


def test_little_memory_draws_the_same_pictures(embeds):
    pictures = []
    for low_memory in (False, True):
        pipeline = make_pipeline()
        place(pipeline, torch.device("cpu"), low_memory)
        processors = {type(processor).__name__ for processor in pipeline.unet.attn_processors.values()}
        assert processors == {"AttnProcessor2_0"}  # torch's fused attention
        pictures += sample_images(pipeline, embeds[1:2], embeds[:1], [3], SAMPLER)
    assert np.abs(np.asarray(pictures[0], int) - np.asarray(pictures[1], int)).max() <= 1


def test_the_miniatures_sampling_begins_where_nothing_but_noise_is_left():
    pipeline = make_pipeline()
    pipeline.scheduler.set_timesteps(load_profile("embedded", ROOT).sampling.sampler_steps)
    assert pipeline.scheduler.timesteps[0] == pipeline.scheduler.config.num_train_timesteps - 1


def test_another_seed_draws_another_picture(embeds):
    pipeline = make_pipeline()
    one, other = (sample_images(pipeline, embeds[1:2], embeds[:1], [seed], SAMPLER)[0] for seed in (3, 4))
    assert one.tobytes() != other.tobytes()


def test_the_guidance_scale_counts_and_at_one_the_empty_prompt_does_not(embeds):
    pipeline = make_pipeline()

    def drawn(scale, negative=embeds[:1]):
        guided = dataclasses.replace(SAMPLER, guidance_scale=scale)
        return sample_images(pipeline, embeds[1:2], negative, [3], guided)[0].tobytes()

    assert drawn(1.0) == drawn(1.0, embeds[2:3]) != drawn(6.0)
    assert drawn(6.0) != drawn(6.0, embeds[2:3])


def test_more_steps_draw_otherwise_and_the_size_is_the_profiles(embeds):
    pipeline = make_pipeline()
    one, other = (
        sample_images(pipeline, embeds[1:2], embeds[:1], [3], dataclasses.replace(SAMPLER, steps=steps))[0]
        for steps in (2, 3)
    )
    assert one.tobytes() != other.tobytes()
    larger = dataclasses.replace(SAMPLER, resolution=96)
    assert sample_images(pipeline, embeds[1:2], embeds[:1], [3], larger)[0].size == (96, 96)


def test_a_saved_adapter_draws_what_the_live_one_drew(embeds, tmp_path):
    live = make_pipeline()
    lora_params = add_lora(live.unet, LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"]), seed=0)
    with torch.no_grad():
        for parameter in lora_params:
            parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    save_lora(tmp_path / "best.safetensors", live.unet, None, {})
    loaded, plain = make_pipeline(), make_pipeline()
    load_lora(loaded, tmp_path / "best.safetensors")
    pictures = [
        np.asarray(sample_images(pipeline, embeds[1:2], embeds[:1], [3], SAMPLER)[0], int)
        for pipeline in (live, loaded, plain)
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert np.abs(pictures[0] - pictures[2]).max() > 10


def test_a_missing_adapter_is_named(tmp_path):
    with pytest.raises(UserError, match="best.safetensors: not found; run `dvc repro train`"):
        load_lora(make_pipeline(), tmp_path / "best.safetensors")


def test_of_many_texts_each_has_its_own_embedding():
    tokenizer, text_encoder = load_tokenizer(BASE), load_text_encoder(BASE)
    texts = [f"{i} owls" for i in range(70)]  # more than are encoded at once
    hidden = encode_prompts(tokenizer, text_encoder, texts)
    assert hidden.shape == (70, 32, 128) and hidden.dtype == torch.float32
    for i in (0, 69):
        assert torch.allclose(hidden[i], encode_prompts(tokenizer, text_encoder, [texts[i]])[0], atol=1e-4)


def test_a_line_says_what_is_lost_of_texts_that_are_too_long_and_says_it_once(capsys):
    tokenizer, text_encoder = load_tokenizer(BASE), load_text_encoder(BASE)
    kept, lost = "owl " * 30, "key rose"  # the miniature reads 32 tokens, of which two mark beginning and end
    texts = ["an owl", kept + lost, "skull " * 31]
    for _ in range(2):
        hidden = encode_prompts(tokenizer, text_encoder, texts)
    assert hidden.shape == (3, 32, 128)
    assert torch.equal(hidden[1], encode_prompts(tokenizer, text_encoder, [kept])[0])
    said = capsys.readouterr().err
    assert said == f"2 text(s) longer than 32 tokens are cut; of '{kept[:40]}'… this is lost: '{lost}'\n"


def test_training_evaluation_and_drawing_cut_their_texts_by_the_one_function():
    calls = {
        path.relative_to(ROOT).as_posix(): re.findall(r"(?<!load_)\btokenizer\(.*", path.read_text(encoding="utf-8"))
        for folder in ("app", "stages", "tattoo_lora")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path for path, lines in calls.items() if lines} == {
        "tattoo_lora/diffusion/prompts.py",
        "tattoo_lora/diffusion/sampling.py",  # the scorer's texts
        "tattoo_lora/diffusion/captioners.py",  # a captioner's question
        "stages/enrich.py",  # counts only
    }
    for path in ("stages/train/__main__.py", "stages/evaluate/__main__.py", "app/generate.py"):
        assert "encode_prompts(" in (ROOT / path).read_text(encoding="utf-8")


def test_the_right_caption_scores_higher_than_a_wrong_one(drawings):
    clip, processor = load_clip(Model(str(ROOT / "models/embedded/clip"), None))
    captions = [f"a line drawing of {what}" for what in ("an owl", "a skull", "a key")]
    image_embeds, text_embeds = embed_images(clip, processor, drawings), embed_texts(clip, processor, captions)
    right, wrong = clip_scores(image_embeds, text_embeds), clip_scores(image_embeds, text_embeds.roll(1, dims=0))
    assert all(0 <= score <= 100 for score in right + wrong)
    assert sum(right) > sum(wrong)


class PooledClip(torch.nn.Module):
    """A CLIP whose features are tensors, as before transformers 5: what torchmetrics expects."""

    def __init__(self, clip):
        super().__init__()
        self.clip, self.config = clip, clip.config

    def get_image_features(self, pixel_values):
        return self.clip.get_image_features(pixel_values).pooler_output

    def get_text_features(self, input_ids, attention_mask):
        return self.clip.get_text_features(input_ids, attention_mask).pooler_output


def test_clip_scores_are_those_of_torchmetrics(drawings):
    folder = str(ROOT / "models/embedded/clip")
    clip, processor = load_clip(Model(folder, None))
    captions = ["a line drawing of an owl", "a skull", "a key"]
    ours = clip_scores(embed_images(clip, processor, drawings), embed_texts(clip, processor, captions))
    pixels = [torch.from_numpy(np.array(drawing)).permute(2, 0, 1) for drawing in drawings]
    theirs = CLIPScore(model_name_or_path=lambda: (PooledClip(clip), processor))
    for score, picture, caption in zip(ours, pixels, captions, strict=True):
        theirs.reset()
        theirs.update(picture, caption)
        assert score == pytest.approx(theirs.compute().item(), abs=1e-3)


def test_captions_name_what_is_drawn_and_do_not_depend_on_the_batch(drawings):
    model, processor = load_captioner(Model(str(ROOT / "models/embedded/blip"), None))
    params = load_params(ROOT).caption_blip
    captions = caption_images(model, processor, drawings, params)
    assert captions == [caption_images(model, processor, [drawing], params)[0] for drawing in drawings]
    assert sum(name in caption for name, caption in zip(("owl", "skull", "key"), captions, strict=True)) >= 2
    short = caption_images(model, processor, drawings, dataclasses.replace(params, max_new_tokens=2))
    assert all(caption.startswith(start) and start for caption, start in zip(captions, short, strict=True))
    assert short != captions


def test_beams_find_other_captions_where_the_first_word_misleads():
    model, processor = load_captioner(Model(str(ROOT / "models/embedded/blip"), None))
    params = load_params(ROOT).caption_blip
    names = (("syringe", "donkey"), ("trophy", "wolf"))  # one over the other: neither is seen clearly
    images = [
        ImageChops.darker(*(preprocessed(ROOT / f"data/raw/flash/{name}.png") for name in pair)) for pair in names
    ]
    greedy, beams = (
        caption_images(model, processor, images, dataclasses.replace(params, num_beams=count)) for count in (1, 3)
    )
    assert all(one != other for one, other in zip(greedy, beams, strict=True))


def test_the_vae_gives_back_what_it_encoded(drawings):
    vae = load_vae(BASE)
    x = to_pixel_values(drawings)
    with torch.inference_mode():
        restored = vae.decode(encode_moments(vae, x).chunk(2, dim=1)[0]).sample
    assert (restored - x).square().mean() < 0.02


def test_latents_are_found_by_file_name_not_by_position(tmp_path):
    moments = {f"{name}.png": torch.full((2, 8, 1, 1), float(i)) for i, name in enumerate("cab")}
    write_moments(tmp_path / "l.safetensors", moments)
    read = read_moments(tmp_path / "l.safetensors", ["a.png", "c.png"])
    assert [views[0, 0, 0, 0].item() for views in read] == [1.0, 0.0]
    views = torch.stack([torch.arange(8.0), torch.arange(10.0, 18.0)])[:, :, None, None]
    assert scaled_means([views], 0.5)[0].flatten().tolist() == [0.0, 0.5, 1.0, 1.5]  # the first view's mean
    with pytest.raises(UserError, match=r"no latents for z.png \(1 in all\); run `dvc repro encode`"):
        read_moments(tmp_path / "l.safetensors", ["a.png", "z.png"])
    with pytest.raises(UserError, match="none.safetensors: not found; run `dvc repro encode`"):
        read_moments(tmp_path / "none.safetensors", ["a.png"])


def test_the_second_view_is_the_mirror_image(finished):
    vae = load_vae(BASE)
    moments = read_moments(finished / "data/processed/flash/latents.safetensors", ["key.png"])[0]
    image = Image.open(finished / "data/processed/flash/images/key.png")
    mirrored = encode_moments(vae, to_pixel_values([ImageOps.mirror(image)]))[0]
    assert torch.allclose(moments[1], mirrored, atol=1e-4)
    assert not torch.allclose(moments[0], mirrored, atol=1e-2)


def test_val_loss_is_steady_where_random_timesteps_are_not():
    """Other noise moves it by less than 1%; as many random timesteps instead, at least three times as much."""
    paths = sorted((ROOT / "data/raw/flash").glob("*.png"))
    held_out = [path for path in paths if is_held_out(file_sha256(path), 0.12)]
    drawings = [preprocessed(path) for path in held_out]
    vae, unet, noise_scheduler = load_vae(BASE), load_unet(BASE, torch.float32), load_noise_scheduler(BASE)
    moments = encode_moments(vae, to_pixel_values(drawings))
    latents = moments.chunk(2, dim=1)[0] * vae.config.scaling_factor
    hidden = encode_prompts(load_tokenizer(BASE), load_text_encoder(BASE), ["a drawing"]).expand(len(latents), -1, -1)

    def spread(estimates):
        return np.std(estimates, ddof=1) / np.mean(estimates)

    fixed, random = [], []
    for seed in range(5):
        grid = timestep_grid(10, 1000)
        fixed.append(validation_losses(unet, noise_scheduler, latents, hidden, grid, 64, seed * 10_000).mean().item())
        timesteps = torch.randint(1000, (len(latents), 10), generator=torch.Generator().manual_seed(seed)).tolist()
        per_drawing = [
            validation_losses(
                unet, noise_scheduler, latents[n : n + 1], hidden[:1], its_timesteps, 64, seed * 10_000 + n
            )
            for n, its_timesteps in enumerate(timesteps)
        ]
        random.append(torch.cat(per_drawing).mean().item())
    print(f"{len(latents)} drawings: grid {spread(fixed):.2%}, random timesteps {spread(random):.2%}")
    assert spread(fixed) < 0.01
    assert spread(random) > 3 * spread(fixed)
