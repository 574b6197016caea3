"""Measure one adapter, or the untouched base model: losses, CLIP score, style, line art, copies, pictures.

Reads the latents, drawings.csv, the images, a folder of captions and the adapter (none for the base). Writes to <out>
    metrics.json                 means, and the UNet's dtype that they were measured in; --metrics has the same, where
                                 `dvc metrics` and Git find it
    drawings.csv                 losses by drawing and timestep, of test, val and as many training drawings as test has,
                                 with each one's own caption, the first of several; of test with the common one too
    pictures.csv                 what was measured on each picture
    control.csv                  how near the held-out drawings are to the training drawings: the control for copies
    plain.csv                    how far the pictures of the plain prompts are from the base's
    promptXX_seedY.png           the pictures: the fixed prompts, each with the fixed seeds

    python -m stages.evaluate blip --latents data/processed/flash/latents.safetensors \\
        --drawings data/processed/flash/drawings.csv --images data/processed/flash/images \\
        --captions data/processed/flash/captions_blip --lora runs/lora/blip/best.safetensors \\
        --out runs/evaluation/blip --metrics metrics/blip.json
"""

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tattoo_lora.data.captions import read_captions, with_trigger
from tattoo_lora.data.drawings import read_drawings, sample
from tattoo_lora.data.tables import write_rows
from tattoo_lora.errors import one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.keys import model_key, result_key
from tattoo_lora.params import load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import torch
from torch import Tensor

from stages.evaluate.embeddings import embed_drawings
from stages.evaluate.losses import loss_rows, mean_losses
from stages.evaluate.pictures import control_rows, embed_pictures, measure_pictures
from stages.evaluate.style import kept_embeds
from tattoo_lora.diffusion.latents import read_moments, scaled_means
from tattoo_lora.diffusion.lora import load_lora
from tattoo_lora.diffusion.models import (
    load_clip,
    load_noise_scheduler,
    measuring_dtype,
    pick_device,
    pick_dtype,
    place,
    use_threads,
)
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import Sampler, load_pipeline, sample_images
from tattoo_lora.diffusion.validation import timestep_grid, validation_losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="a key under `variants` in params.yaml, whose captions and trigger are used")
    parser.add_argument("--latents", type=Path, required=True, help="what encode wrote")
    parser.add_argument("--drawings", type=Path, required=True, help="what preprocess wrote")
    parser.add_argument("--images", type=Path, required=True, help="folder of the preprocessed drawings")
    parser.add_argument("--captions", type=Path, required=True, help="folder with one <stem>.txt a drawing")
    parser.add_argument("--lora", type=Path, help="the adapter's safetensors; without it the base model is measured")
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics.json and the pictures")
    parser.add_argument("--metrics", type=Path, help="a file for the means once more")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        run(args)


def run(args: argparse.Namespace) -> None:
    """Read, measure, write."""
    all_params = load_params()
    profile = load_profile(all_params.profile)
    params = all_params.evaluate
    drawings = read_drawings(args.drawings)
    test, val = ([drawing for drawing in drawings if drawing.split == split] for split in ("test", "val"))
    measured = [*test, *val, *sample(drawings, "train", len(test))]
    moments = read_moments(args.latents, [drawing.file for drawing in measured])
    by_stem = read_captions(args.captions, [drawing.stem for drawing in measured])
    trigger = all_params.variant(args.variant).trigger
    captions = [with_trigger(trigger, by_stem[drawing.stem][0]) for drawing in measured]

    inference, sampling = profile.inference, profile.sampling
    use_threads(inference.threads)
    device = pick_device()
    dtype = str(measuring_dtype(pick_dtype(inference.dtype, profile.base), device)).removeprefix("torch.")
    pipeline = load_pipeline(profile.base, dtype)
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder.to(device)
    noise_scheduler = load_noise_scheduler(profile.base)
    base_embeds = encode_prompts(tokenizer, text_encoder, ["", *params.plain_prompts])
    if args.lora is not None:
        load_lora(pipeline, args.lora)
    empty_embed, common_embed, *rest = encode_prompts(
        tokenizer, text_encoder, ["", params.common_caption, *captions]
    ).split(1)
    prompt_embeds = encode_prompts(tokenizer, text_encoder, [*params.prompts, *params.plain_prompts])
    pipeline.text_encoder = None  # its memory is free for the UNet
    place(pipeline, device, sampling.low_memory)

    latents, batch_size = scaled_means(moments, pipeline.vae.config.scaling_factor), inference.batch_size
    num_train_timesteps = noise_scheduler.config.num_train_timesteps
    timesteps = timestep_grid(params.timesteps, num_train_timesteps)
    own_embeds = torch.cat(rest)
    own, common = (
        validation_losses(pipeline.unet, noise_scheduler, latents[: len(embeds)], embeds, timesteps, batch_size)
        for embeds in (own_embeds, common_embed.expand_as(own_embeds[: len(test)]))
    )
    settings = [(i, seed) for i in range(len(params.prompts)) for seed in params.seeds]
    rows, seeds = [i for i, _ in settings], [seed for _, seed in settings]
    plain_seeds = params.seeds[:1] * len(params.plain_prompts)
    sampler = Sampler(sampling.sampler_steps, sampling.guidance_scale, profile.resolution, batch_size)
    images = sample_images(pipeline, prompt_embeds[rows], empty_embed, seeds, sampler)
    # Drawn in half the steps, as the base's are, which CLIP hardly sees and which keeps evaluations short.
    quick = replace(sampler, steps=max(sampler.steps // 2, 1))
    plain_images = sample_images(pipeline, prompt_embeds[len(params.prompts) :], empty_embed, plain_seeds, quick)
    clip, processor = load_clip(profile.clip)
    clip.to(device)

    def embed_base_pictures() -> Tensor:
        pipeline.unload_lora_weights()
        images = sample_images(pipeline, base_embeds[1:], base_embeds[:1], plain_seeds, quick)
        return embed_pictures(clip, processor, images, batch_size)

    drawn_by = (model_key(profile.base), model_key(profile.clip), dtype, device.type)
    key = result_key(__file__, *drawn_by, params.plain_prompts, plain_seeds, quick)
    base_pictures = kept_embeds(key, embed_base_pictures)
    drift = 1 - (embed_pictures(clip, processor, plain_images, batch_size) * base_pictures).sum(dim=1)
    embedded = embed_drawings(clip, processor, profile.clip, args.images, drawings, batch_size)
    prompts_and_seeds = [(params.prompts[i], seed) for i, seed in settings]
    picture_means, picture_rows = measure_pictures(
        clip, processor, images, prompts_and_seeds, embedded, params, batch_size
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for (i, seed), image, row in zip(settings, images, picture_rows, strict=True):
        row["file"] = f"prompt{i:02d}_seed{seed}.png"
        with replace_file(args.out / row["file"]) as partial:
            image.save(partial, "PNG")
    write_rows(args.out / "drawings.csv", loss_rows(measured, timesteps, own, common))
    write_rows(args.out / "pictures.csv", picture_rows)
    write_rows(args.out / "control.csv", control_rows(embedded, params))
    plain = zip(params.plain_prompts, drift.tolist(), strict=True)
    write_rows(args.out / "plain.csv", [{"prompt": prompt, "drift": value} for prompt, value in plain])
    test_losses, val_losses, seen_losses = own.split([len(test), len(val), len(measured) - len(test) - len(val)])
    means = mean_losses(test_losses, common, timesteps, num_train_timesteps)
    means |= {"val_loss": val_losses.mean().item(), "seen_loss": seen_losses.mean().item()}
    means |= picture_means | {"drift": drift.mean().item()}
    write_metrics([args.out / "metrics.json", args.metrics], means, dtype)
    losses = f"test_loss {means['test_loss']:.4f} in {dtype}"
    print(f"{args.out.name}: {losses}, clip_score {picture_means['clip_score']:.2f}")


def write_metrics(paths: Iterable[Path | None], means: dict[str, float], dtype: str) -> None:
    """Write the means as JSON, null for nan, and the dtype to each path that there is."""
    metrics = {name: None if math.isnan(value) else float(f"{value:.6g}") for name, value in means.items()}
    metrics |= {"dtype": dtype}  # another one gives other figures, by up to 0.6%
    for path in filter(None, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
