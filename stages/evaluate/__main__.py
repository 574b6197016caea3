"""Measure one adapter, or the untouched base model: losses, CLIP score, line art, copies, pictures.

Reads the latents, drawings.csv, the images, a folder of captions and the adapter (none for the base). Writes to <out>
    metrics.json                 means, which --metrics has too, where `dvc metrics` and Git find them
    drawings.csv                 val_loss of each held-out drawing and timestep, with its own and the common caption
    pictures.csv                 what was measured on each picture
    promptXX_seedY.png           the pictures: the fixed prompts, each with the fixed seeds

    python -m stages.evaluate blip --latents data/processed/flash/latents.safetensors \\
        --drawings data/processed/flash/drawings.csv --images data/processed/flash/images \\
        --captions data/processed/flash/captions_blip --lora runs/lora/blip/best.safetensors \\
        --out runs/evaluation/blip --metrics metrics/blip.json
"""

import argparse
import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

from tattoo_lora.data.captions import read_captions, with_trigger
from tattoo_lora.data.drawings import Drawing, read_drawings
from tattoo_lora.errors import one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import EvaluateParams, load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from stages.evaluate.copies import nearest, pixel_embeds, with_mirrored
from tattoo_lora.diffusion.images import decoded_batches
from tattoo_lora.diffusion.latents import read_latents, scaled_means
from tattoo_lora.diffusion.line_art import mean_line_art, measure
from tattoo_lora.diffusion.lora import load_lora
from tattoo_lora.diffusion.models import load_clip, load_noise_scheduler, pick_device, place, use_threads
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import clip_scores, embed_images, embed_texts, load_pipeline, sample_images
from tattoo_lora.diffusion.validation import BANDS, band, timestep_grid, validation_losses
from tattoo_lora.progress import tqdm


def measure_losses(
    unet: UNet2DConditionModel,
    noise_scheduler: DDPMScheduler,
    held_out: list[Drawing],
    latents: Tensor,
    embeds: Tensor,
    common_embed: Tensor,
    timesteps: int,
    batch_size: int,
) -> tuple[dict[str, float], list[dict]]:
    """Mean val_loss, with the common caption too and by band, and a row for each drawing and timestep.

    latents (N, C, h, w), embeds (N, T, D), common_embed (1, T, D).
    """
    num_train_timesteps = noise_scheduler.config.num_train_timesteps
    grid = timestep_grid(timesteps, num_train_timesteps)
    own, common = (
        validation_losses(unet, noise_scheduler, latents, of_texts, grid, batch_size)
        for of_texts in (embeds, common_embed.expand_as(embeds))
    )
    bands = [band(timestep, num_train_timesteps) for timestep in grid]
    metrics = {"val_loss": own.mean().item(), "val_loss_common": common.mean().item()}
    for name in BANDS:
        columns = [k for k, of_timestep in enumerate(bands) if of_timestep == name]
        metrics[f"val_loss_{name}"] = own[:, columns].mean().item() if columns else math.nan
    rows = [
        {"file": drawing.file, "timestep": t, "val_loss": own[n, k].item(), "val_loss_common": common[n, k].item()}
        for n, drawing in enumerate(held_out)
        for k, t in enumerate(grid)
    ]
    return metrics, rows


def embed_drawings(
    clip: CLIPModel, processor: CLIPProcessor, folder: Path, drawings: list[Drawing], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Pixel and CLIP embeddings, (2N, …) each, of N drawings and then of their mirror images."""
    of_pixels, of_clip = ([], []), ([], [])
    progress = tqdm(total=len(drawings), unit="drawing", desc="training drawings")
    for _, images in decoded_batches(folder, drawings, batch_size):
        both = with_mirrored(images)
        for lists, embeds in ((of_pixels, pixel_embeds(both)), (of_clip, embed_images(clip, processor, both))):
            for side, half in zip(lists, embeds.chunk(2), strict=True):
                side.append(half)
        progress.update(len(images))
    progress.close()
    return torch.cat(sum(of_pixels, [])), torch.cat(sum(of_clip, []))


def measure_pictures(
    clip: CLIPModel,
    processor: CLIPProcessor,
    images: list[Image.Image],
    settings: list[tuple[str, int]],
    folder: Path,
    learned_from: list[Drawing],
    params: EvaluateParams,
    batch_size: int,
) -> tuple[dict[str, float], list[dict]]:
    """Means, and a row for each picture of the `settings` (prompt, seed)."""
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    image_embeds = torch.cat([embed_images(clip, processor, batch) for batch in batches])
    scores = clip_scores(image_embeds, embed_texts(clip, processor, [prompt for prompt, _ in settings]))
    of_pixels, of_clip = embed_drawings(clip, processor, folder, learned_from, batch_size)
    by_pixels, by_clip = nearest(pixel_embeds(images), of_pixels), nearest(image_embeds, of_clip)
    line_art = [measure(image) for image in images]
    rows = []
    for i, (prompt, seed) in enumerate(settings):
        correlation, cosine = by_pixels.similarity[i].item(), by_clip.similarity[i].item()
        rows.append(
            {"prompt": prompt, "seed": seed, "clip_score": scores[i], **asdict(line_art[i])}
            | {"nearest_by_pixels": learned_from[by_pixels.rows[i]].file, "correlation": correlation}
            | {"nearest_by_clip": learned_from[by_clip.rows[i]].file, "cosine": cosine}
            | {"copy": int(correlation >= params.copy_correlation or cosine >= params.copy_cosine)}
        )
    metrics = {"clip_score": sum(scores) / len(scores), **asdict(mean_line_art(line_art))}
    return metrics | {"copies": sum(row["copy"] for row in rows) / len(rows)}, rows


def write_rows(path: Path, rows: list[dict]) -> None:
    with replace_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="a key under `variants` in params.yaml: whose captions and trigger")
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
    all_params = load_params()
    params, profile = all_params.evaluate, load_profile(all_params.profile)
    drawings = read_drawings(args.drawings)
    held_out = [drawing for drawing in drawings if drawing.split == "val"]
    moments = read_latents(args.latents, [drawing.file for drawing in held_out])
    by_stem = read_captions(args.captions, [drawing.stem for drawing in held_out])
    trigger = all_params.variant(args.variant).trigger
    captions = [with_trigger(trigger, by_stem[drawing.stem]) for drawing in held_out]

    use_threads(profile.threads)
    device, pipeline = pick_device(), load_pipeline(profile)
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder.to(device)
    noise_scheduler = load_noise_scheduler(profile.base_model, profile.base_revision)
    if args.lora is not None:
        load_lora(pipeline, args.lora)
    empty, common, *rest = encode_prompts(tokenizer, text_encoder, ["", params.common_caption, *captions]).split(1)
    prompt_embeds = encode_prompts(tokenizer, text_encoder, params.prompts)
    pipeline.text_encoder = None  # its memory is free for the UNet
    place(pipeline, device, profile.low_memory)

    latents, batch_size = scaled_means(moments, pipeline.vae.config.scaling_factor), profile.inference_batch_size
    of_losses, loss_rows = measure_losses(
        pipeline.unet, noise_scheduler, held_out, latents, torch.cat(rest), common, params.timesteps, batch_size
    )
    settings = [(i, seed) for i in range(len(params.prompts)) for seed in params.seeds]
    rows, seeds = [i for i, _ in settings], [seed for _, seed in settings]
    images = sample_images(pipeline, prompt_embeds[rows], empty, seeds, profile.sampler_steps, profile)
    clip, processor = load_clip(profile.clip_model, profile.clip_revision)
    learned_from = [drawing for drawing in drawings if drawing.split == "train"]
    of_pictures, picture_rows = measure_pictures(
        clip.to(device), processor, images, [(params.prompts[i], seed) for i, seed in settings], args.images,
        learned_from, params, batch_size,
    )  # fmt: skip

    args.out.mkdir(parents=True, exist_ok=True)
    for (i, seed), image, row in zip(settings, images, picture_rows, strict=True):
        file = f"prompt{i:02d}_seed{seed}.png"
        with replace_file(args.out / file) as partial:
            image.save(partial, "PNG")
        row["file"] = file
    write_rows(args.out / "drawings.csv", loss_rows)
    write_rows(args.out / "pictures.csv", picture_rows)
    means = of_losses | of_pictures
    metrics = {name: None if math.isnan(value) else float(f"{value:.6g}") for name, value in means.items()}
    for path in filter(None, [args.out / "metrics.json", args.metrics]):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"{args.out.name}: val_loss {metrics['val_loss']:.4f}, clip_score {metrics['clip_score']:.2f}")


if __name__ == "__main__":
    main()
