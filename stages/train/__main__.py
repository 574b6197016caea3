"""Train one LoRA adapter on the UNet, and on the text encoder if asked, everything else frozen.

It reads the latents, drawings.csv and one folder of captions: a variant is nothing but another folder. Of several
captions of a drawing each sample draws one, and val_loss takes the first.
It writes <lora>/best.safetensors (lowest val_loss) and final.safetensors, each for diffusers and, as
*.kohya.safetensors, for ComfyUI and A1111; a CSV log; and pictures of the fixed prompts under
<samples>/eval_stepXXXX/ every `eval_every` steps. Under `accelerate launch` each process takes its
share of every batch and the first one writes.

    python -m stages.train blip --latents data/processed/flash/latents.safetensors \\
        --drawings data/processed/flash/drawings.csv --captions data/processed/flash/captions_blip \\
        --lora runs/lora/blip --log-csv runs/logs/blip.csv --samples runs/samples/blip
"""

import time

STARTED = time.monotonic()

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from tattoo_lora.data.captions import read_captions, with_trigger
from tattoo_lora.data.drawings import Drawing, read_drawings, sample
from tattoo_lora.errors import one_line_errors
from tattoo_lora.estimates import Setting, plan_training, record_speed
from tattoo_lora.keys import model_key, result_key
from tattoo_lora.params import Params, Profile, VariantParams, load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from stages.train.batches import Batches, TrainingSet
from stages.train.checkpoint import Checkpoints
from stages.train.denoiser import Denoiser
from stages.train.evaluator import Evaluator
from stages.train.header import BaseKind, lora_header
from stages.train.loop import train
from stages.train.plan import effective_batch_size, planned
from stages.train.run import Log, Outputs
from stages.train.start import pinned_file, read_start
from tattoo_lora.diffusion.latents import read_moments, scaled_means
from tattoo_lora.diffusion.lora import save_lora
from tattoo_lora.diffusion.models import (
    assemble_pipeline,
    load_clip,
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    pick_device,
    pick_dtype,
    use_threads,
)
from tattoo_lora.diffusion.prompts import encode_prompts, tokenize
from tattoo_lora.diffusion.sampling import Sampler
from tattoo_lora.diffusion.tokenizer import load_tokenizer


def be_deterministic() -> None:
    """Allow only operations that give the same bits each time; to be called before CUDA's first use."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # its backward adds in no fixed order


def make_accelerator() -> Accelerator:
    """This process's part in the training, on the device that torch has; the only part without `accelerate launch`."""
    return Accelerator(
        cpu=pick_device().type == "cpu",
        mixed_precision="no",  # the Denoiser and the scaler do it, also on a CPU, where accelerate refuses float16
        # All processes have the same buffers, so sending them with every step would be of no use.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="a key under `variants` in params.yaml")
    parser.add_argument("--latents", type=Path, required=True, help="what encode wrote")
    parser.add_argument("--drawings", type=Path, required=True, help="what preprocess wrote")
    parser.add_argument("--captions", type=Path, required=True, help="folder with a <stem>.txt for each drawing")
    parser.add_argument("--lora", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--log-csv", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--samples", type=Path, required=True, help="folder for pictures made on the way")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        run(args)


def read_triggered_captions(folder: Path, drawings: list[Drawing], variant: VariantParams) -> list[list[str]]:
    """Each drawing's captions after the variant's trigger words."""
    captions = read_captions(folder, [drawing.stem for drawing in drawings])
    return [[with_trigger(variant.trigger, text) for text in captions[drawing.stem]] for drawing in drawings]


def split_indices(drawings: list[Drawing], split: str, count: int) -> Tensor:
    """Positions of at most `count` drawings of one split, whichever their content decides."""
    chosen = set(sample(drawings, split, count))
    return torch.tensor([i for i, drawing in enumerate(drawings) if drawing in chosen])


def index_texts(captions: list[list[str]]) -> tuple[list[str], list[Tensor]]:
    """The empty text and each caption once, and in which rows of these each drawing's captions are."""
    texts = ["", *sorted({text for lines in captions for text in lines})]
    rows = {text: i for i, text in enumerate(texts)}
    return texts, [torch.tensor([rows[text] for text in lines]) for lines in captions]


def make_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel | None,
    tokenizer: CLIPTokenizer,
    texts: list[str],
    embeds: Tensor,
) -> Denoiser:
    """The model that learns: with the text encoder, or with the embeddings (N, T, D) that begin with the texts'."""
    if text_encoder is None:
        return Denoiser(unet, embeds[: len(texts)])
    return Denoiser(unet, None, text_encoder, tokenize(tokenizer, texts))


def run(args: argparse.Namespace) -> None:
    """Read, load, train, write."""
    all_params = load_params()
    profile = load_profile(all_params.profile)
    inference = profile.inference
    params, variant = all_params.train, all_params.variant(args.variant)
    init_from = None if params.init_from is None else pinned_file(params.init_from)
    if params.deterministic:
        be_deterministic()
    drawings = read_drawings(args.drawings)
    moments = read_moments(args.latents, [drawing.file for drawing in drawings])
    captions = read_triggered_captions(args.captions, drawings, variant)
    use_threads(inference.threads)
    accelerator = make_accelerator()

    base = profile.base
    tokenizer, text_encoder = load_tokenizer(base), load_text_encoder(base).to(accelerator.device)
    unet, vae = load_unet(base, pick_dtype(inference.dtype, base)), load_vae(base)
    noise_scheduler = load_noise_scheduler(base)
    clip, processor = load_clip(profile.clip)
    start = None if init_from is None else read_start(init_from, unet, text_encoder)
    texts, caption_rows = index_texts(captions)
    first_rows = torch.stack([rows[0] for rows in caption_rows])
    embeds = encode_prompts(tokenizer, text_encoder, [*texts, *params.prompts])
    if params.text_encoder_lr is None:
        text_encoder = None  # its memory is free for the UNet
    denoiser = make_denoiser(unet, text_encoder, tokenizer, texts, embeds)
    denoiser.start = start
    denoiser.to(accelerator.device)

    scaling_factor = vae.config.scaling_factor
    train_rows = split_indices(drawings, "train", len(drawings))
    batch_size = effective_batch_size(profile.train, accelerator.num_processes)
    schedule = planned(profile.train, len(train_rows), accelerator.num_processes)
    setting = Setting(profile.base, profile.resolution, inference.dtype)
    plan = plan_training(setting, len(train_rows), schedule.steps, batch_size, params.gradient_checkpointing)
    accelerator.print(f"{args.variant}: {plan}")
    val_rows = split_indices(drawings, "val", params.val_drawings)
    measured = torch.cat([val_rows, split_indices(drawings, "train", len(val_rows))])
    batches = Batches(
        TrainingSet([moments[i] for i in train_rows], [caption_rows[i] for i in train_rows], scaling_factor),
        params,
        variant.caption_dropout,
        batch_size,
        noise_scheduler.config.num_train_timesteps,
    )

    def embed_texts_now() -> tuple[Tensor, Tensor, Tensor]:
        live = embeds if text_encoder is None else encode_prompts(tokenizer, text_encoder, [*texts, *params.prompts])
        return live[first_rows[measured]], live[len(texts) :], live[:1]

    evaluator = Evaluator(
        assemble_pipeline(vae, None, tokenizer, unet, noise_scheduler),
        noise_scheduler,
        clip,
        processor,
        scaled_means([moments[i] for i in measured], scaling_factor),
        len(val_rows),
        embed_texts_now,
        params,
        Sampler(params.sampler_steps, profile.sampling.guidance_scale, profile.resolution, inference.batch_size),
        args.samples,
    )
    base = BaseKind(noise_scheduler.config.prediction_type, unet.config.cross_attention_dim)
    header = lora_header(args.variant, variant.trigger, captions, drawings, params, profile, base)

    def save(name: str, step: int, val_loss: float | None) -> None:
        reached = {"ss_steps": str(step)} | ({} if val_loss is None else {"ss_val_loss": f"{val_loss:.6f}"})
        save_lora(args.lora / f"{name}.safetensors", unet, text_encoder, header | reached)

    key = snapshot_key(args, all_params, profile, captions)
    checkpoints = Checkpoints(key, [args.lora, args.log_csv, args.samples])
    accelerator.print(f"ready to train after {time.monotonic() - STARTED:.1f} s")
    begun = time.monotonic()

    def train_with(log: Log | None) -> int:
        outputs = Outputs(evaluator.measure, save, log, checkpoints)
        return train(denoiser, noise_scheduler, batches, params, schedule, accelerator, outputs)

    computed = train_and_log(train_with, args.log_csv, checkpoints, accelerator)
    accelerator.print(record_time(setting, computed, batch_size, time.monotonic() - begun, evaluator.seconds))


def record_time(setting: Setting, steps: int, batch_size: int, spent: float, measuring: float) -> str:
    """Keep the training's speed for the plan of the next one; a line about its seconds."""
    record_speed(setting, steps, batch_size, spent)
    return f"trained in {spent:.1f} s, {measuring:.1f} s of it ({measuring / spent:.0%}) measuring on the way"


def train_and_log(
    train_with: Callable[[Log | None], int], log_csv: Path, checkpoints: Checkpoints, accelerator: Accelerator
) -> int:
    """Call `train_with(log)` in every process, and return what it does; the first one alone has a log.

    The log goes on where a run was stopped.
    """
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return train_with(None)
    log_csv.parent.mkdir(parents=True, exist_ok=True)
    if not checkpoints.restore_outputs():
        log_csv.unlink(missing_ok=True)  # DVC may have linked it to its cache: never write into it
    accelerator.wait_for_everyone()
    with log_csv.open("a", newline="", encoding="utf-8") as file:
        computed = train_with(Log(file))
    checkpoints.clear()
    return computed


def snapshot_key(args: argparse.Namespace, all_params: Params, profile: Profile, captions: list[list[str]]) -> str:
    """A hash of all that the training depends on: another training does not go on from its snapshots."""
    models = model_key(profile.base), model_key(profile.clip)
    settings = (profile.train, profile.inference, profile.sampling.guidance_scale, profile.resolution)
    variant = all_params.variant(args.variant)
    values = (all_params.train, settings, args.variant, variant, captions, models)
    return result_key(__file__, *values, files=[args.latents, args.drawings])


if __name__ == "__main__":
    main()
