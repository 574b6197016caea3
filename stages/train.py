"""Train one LoRA adapter on the UNet's attention, everything else frozen.

Reads the latents, the manifest and one folder of captions: a variant is nothing but another folder.
Writes <lora>/best.safetensors (lowest val_loss) and final.safetensors, a CSV log, and pictures of the
fixed prompts under <samples>/eval_stepXXXX/ every `eval_every` steps.

    python -m stages.train blip --latents data/processed/flash/latents.safetensors \\
        --manifest data/processed/flash/manifest.csv --captions data/processed/flash/captions_blip \\
        --lora runs/lora/blip --log runs/logs/blip.csv --samples runs/samples/blip
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from tattoo_lora.captions import read_captions, with_trigger
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.manifest import Drawing, read_manifest
from tattoo_lora.params import Profile, TrainParams, load_params, load_profile

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import Tensor
from tqdm import tqdm

from tattoo_lora.latents import read_latents, scaled_means
from tattoo_lora.lora import add_lora, save_lora
from tattoo_lora.models import (
    assemble_pipeline,
    load_clip,
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    pick_dtype,
)
from tattoo_lora.prompts import encode_prompts
from tattoo_lora.sampling import clip_scores, sample_images
from tattoo_lora.tokenizer import load_tokenizer
from tattoo_lora.validation import validation_loss

LOG_EVERY = 10  # steps a row: the loss stays on the device until a row is due
MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class TrainingSet:
    """N drawings: moments (N, views, 2C, h, w), caption_index (N,) into embeds (U, T, D), whose row 0 has no words."""

    moments: Tensor
    caption_index: Tensor
    embeds: Tensor
    scaling_factor: float


@dataclass(frozen=True)
class Batch:
    """latents, noise: (B, C, h, w). timesteps: (B,). encoder_hidden_states: (B, T, D)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    encoder_hidden_states: Tensor


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, n: int) -> Tensor:
    """The order of n drawings in an epoch, a pure function of its arguments."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def sample_generator(seed: int, number: int) -> torch.Generator:
    """The random draws of sample `number`. Both are mixed into the 32 bits that torch's CPU generator takes."""
    mixed = np.random.SeedSequence([seed, number]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def draw_batch(data: TrainingSet, seed: int, first: int, batch_size: int, caption_dropout: float) -> Batch:
    """Samples first, first + 1, … of the endless stream that `seed` defines.

    What is drawn for a sample depends on (seed, its number) alone: the same for every variant, however
    the stream is split into batches.
    """
    drawn: list[tuple[Tensor, Tensor, int, int]] = []
    n, views = data.moments.shape[:2]
    for number in range(first, first + batch_size):
        generator = sample_generator(seed, number)
        epoch, position = divmod(number, n)
        i = shuffled(seed, epoch, n)[position]
        view = int(torch.randint(views, (), generator=generator))
        timestep = int(torch.randint(1000, (), generator=generator))
        dropped = torch.rand((), generator=generator).item() < caption_dropout
        posterior = DiagonalGaussianDistribution(data.moments[i, view][None])
        latents = posterior.sample(generator=generator)[0] * data.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        drawn.append((latents, noise, timestep, 0 if dropped else int(data.caption_index[i])))
    latents, noise, timesteps, captions = zip(*drawn, strict=True)
    return Batch(torch.stack(latents), torch.stack(noise), torch.tensor(timesteps), data.embeds[list(captions)])


class Log:
    """The CSV of a run; each row is on the disk once written."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.writer = file, csv.writer(file, lineterminator="\n")
        self._write(["step", "train_loss", "val_loss", "clip_score"])

    def row(self, step: int, train_loss: float | None, val_loss: float | None, clip_score: float | None) -> None:
        self._write([step, *("" if value is None else f"{value:.6f}" for value in (train_loss, val_loss, clip_score))])

    def _write(self, values: list) -> None:
        self.writer.writerow(values)
        self.file.flush()


def train(
    unet: UNet2DConditionModel,
    noise_scheduler: DDPMScheduler,
    data: TrainingSet,
    params: TrainParams,
    profile: Profile,
    caption_dropout: float,
    accelerator: Accelerator,
    evaluate: Callable[[int], tuple[float, float]],
    log: Log,
    lora_dir: Path,
) -> None:
    """Fit an adapter to the noise that was added (DDPM's objective), AdamW with warm-up and a cosine.

    `evaluate(step)` gives val_loss and clip_score of the live UNet. UserError where the loss is no
    longer finite; the last good weights are in final.safetensors then.
    """
    lora_params = add_lora(unet, params.rank, params.alpha, params.target_modules, params.seed)
    optimizer = torch.optim.AdamW(lora_params, lr=profile.learning_rate, weight_decay=params.weight_decay)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, profile.warmup_steps, profile.steps)
    model, optimizer, lr_scheduler = accelerator.prepare(unet, optimizer, lr_scheduler)

    best_loss, evals_since_best = float("inf"), 0
    val_loss, clip_score = evaluate(0)
    log.row(0, None, val_loss, clip_score)
    last_good = [parameter.detach().clone() for parameter in lora_params]
    losses: list[Tensor] = []
    sample_number = 0
    progress = tqdm(range(1, profile.steps + 1), unit="step", desc=f"train {lora_dir.name}")
    for step in progress:
        for _ in range(profile.gradient_accumulation_steps):
            batch = draw_batch(data, params.seed, sample_number, profile.batch_size, caption_dropout)
            sample_number += profile.batch_size
            with accelerator.accumulate(model):
                noise = batch.noise.to(accelerator.device)
                timesteps = batch.timesteps.to(accelerator.device)
                noisy_latents = noise_scheduler.add_noise(batch.latents.to(accelerator.device), noise, timesteps)
                noise_pred = model(
                    noisy_latents.to(unet.dtype),
                    timesteps,
                    encoder_hidden_states=batch.encoder_hidden_states.to(accelerator.device, unet.dtype),
                ).sample
                loss = F.mse_loss(noise_pred.float(), noise)
                accelerator.backward(loss)
                if accelerator.sync_gradients and params.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(lora_params, params.max_grad_norm)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.detach())

        due = step % profile.eval_every == 0 or step == profile.steps
        if due or step % LOG_EVERY == 0:
            train_loss = torch.stack(losses).mean().item()
            losses.clear()
            if not torch.isfinite(torch.tensor(train_loss)):
                with torch.no_grad():
                    for parameter, good in zip(lora_params, last_good, strict=True):
                        parameter.copy_(good)
                save_lora(lora_dir / "final.safetensors", unet)
                raise UserError(
                    f"train_loss is {train_loss} at step {step}; lower learning_rate ({profile.learning_rate:g}); "
                    f"the last good weights are in {lora_dir / 'final.safetensors'}"
                )
            val_loss, clip_score = evaluate(step) if due else (None, None)
            log.row(step, train_loss, val_loss, clip_score)
            progress.set_postfix(loss=f"{train_loss:.4f}", refresh=False)
            last_good = [parameter.detach().clone() for parameter in lora_params]
            if val_loss is not None:
                evals_since_best += 1
                if val_loss < best_loss:
                    best_loss, evals_since_best = val_loss, 0
                    save_lora(lora_dir / "best.safetensors", unet)
        if params.save_every is not None and step % params.save_every == 0:
            save_lora(lora_dir / f"step{step:04d}.safetensors", unet)
        if params.early_stop_evals is not None and evals_since_best >= params.early_stop_evals:
            tqdm.write(
                f"early stop at step {step}: val_loss {best_loss:.4f} not bettered in {evals_since_best} evaluations"
            )
            break
    save_lora(lora_dir / "final.safetensors", unet)


def split_indices(drawings: list[Drawing], split: str) -> Tensor:
    """Positions of the drawings of one split."""
    return torch.tensor([i for i, drawing in enumerate(drawings) if drawing.split == split])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="a key under `variants` in params.yaml")
    parser.add_argument("--latents", type=Path, required=True, help="what encode wrote")
    parser.add_argument("--manifest", type=Path, required=True, help="what preprocess wrote")
    parser.add_argument("--captions", type=Path, required=True, help="folder with one <stem>.txt a drawing")
    parser.add_argument("--lora", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--log", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--samples", type=Path, required=True, help="folder for pictures made on the way")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    all_params = load_params()
    params, profile = all_params.train, load_profile(all_params.profile)
    variant = all_params.variant(args.variant)
    drawings = read_manifest(args.manifest)
    moments = read_latents(args.latents, [drawing.file for drawing in drawings])
    by_stem = read_captions(args.captions, [drawing.stem for drawing in drawings])
    captions = [with_trigger(variant.trigger, by_stem[drawing.stem]) for drawing in drawings]

    weight_dtype = pick_dtype(profile.dtype)
    accelerator = Accelerator(
        mixed_precision=MIXED_PRECISION[weight_dtype],
        gradient_accumulation_steps=profile.gradient_accumulation_steps,
    )
    base = (profile.base_model, profile.base_revision)
    tokenizer, text_encoder = load_tokenizer(*base), load_text_encoder(*base).to(accelerator.device)
    texts = ["", *sorted(set(captions))]
    embeds = encode_prompts(tokenizer, text_encoder, texts)
    prompt_embeds = encode_prompts(tokenizer, text_encoder, params.prompts)
    del text_encoder
    row = {text: i for i, text in enumerate(texts)}
    caption_index = torch.tensor([row[caption] for caption in captions])

    vae = load_vae(*base).to(accelerator.device)
    unet = load_unet(*base, weight_dtype).to(accelerator.device)
    noise_scheduler = load_noise_scheduler(*base)
    clip, processor = load_clip(profile.clip_model, profile.clip_revision)
    clip.to(accelerator.device)
    pipeline = assemble_pipeline(vae, None, tokenizer, unet, noise_scheduler)

    train_rows, val_rows = split_indices(drawings, "train"), split_indices(drawings, "val")
    data = TrainingSet(moments[train_rows], caption_index[train_rows], embeds, vae.config.scaling_factor)
    val_latents = scaled_means(moments[val_rows, 0], vae.config.scaling_factor)
    val_embeds = embeds[caption_index[val_rows]]

    def evaluate(step: int) -> tuple[float, float]:
        val_loss = validation_loss(unet, noise_scheduler, val_latents, val_embeds, profile.inference_batch_size)
        images = sample_images(pipeline, prompt_embeds, embeds[:1], params.seed, profile)
        folder = args.samples / f"eval_step{step:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            image.save(folder / f"prompt{i:02d}.png")
        scores = clip_scores(clip, processor, images, params.prompts)
        return val_loss, sum(scores) / len(scores)

    args.log.parent.mkdir(parents=True, exist_ok=True)
    with args.log.open("w", newline="", encoding="utf-8") as file:
        train(
            unet, noise_scheduler, data, params, profile, variant.caption_dropout, accelerator,
            evaluate, Log(file), args.lora,
        )  # fmt: skip


if __name__ == "__main__":
    main()
