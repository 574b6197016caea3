"""Train one LoRA adapter on the UNet, and on the text encoder if asked, everything else frozen.

Reads the latents, drawings.csv and one folder of captions: a variant is nothing but another folder.
Writes <lora>/best.safetensors (lowest val_loss) and final.safetensors, each for diffusers and, as
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
import csv
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from tattoo_lora.data.captions import read_captions, with_trigger
from tattoo_lora.data.drawings import Drawing, read_drawings
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.keys import model_key, result_key
from tattoo_lora.params import Profile, TrainParams, load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, gather_object
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from torch import Tensor, nn
from transformers import CLIPTextModel

from stages.train.batches import TrainingSet, draw_batch, mix
from stages.train.checkpoint import Checkpoints
from stages.train.header import lora_header
from tattoo_lora.diffusion.latents import read_latents, scaled_means
from tattoo_lora.diffusion.lora import TEXT_ENCODER_MODULES, add_lora, save_lora
from tattoo_lora.diffusion.models import (
    assemble_pipeline,
    load_clip,
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    on_device,
    pick_device,
    pick_dtype,
    use_threads,
)
from tattoo_lora.diffusion.objective import min_snr_weights, prediction_target
from tattoo_lora.diffusion.prompts import encode_prompts, tokenize
from tattoo_lora.diffusion.sampling import clip_scores, embed_images, embed_texts, sample_images
from tattoo_lora.diffusion.tokenizer import load_tokenizer
from tattoo_lora.diffusion.validation import timestep_grid, validation_losses
from tattoo_lora.progress import tqdm

LOG_EVERY = 10  # steps a row: the loss stays on the device until a row is due
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}  # diffusers' names
COMPILE_MODES = {"default": "default", "graphs": "reduce-overhead"}  # torch.compile's names
OPTIMIZERS = {  # module, class and its options; all but the first are packages of their own
    "adamw": ("torch.optim", "AdamW", {"fused": True}),
    "adamw_8bit": ("bitsandbytes.optim", "AdamW8bit", {}),
    "prodigy": ("prodigyopt", "Prodigy", {}),
}


class Denoiser(nn.Module):
    """The UNet and what conditions it on the U texts: their embeddings (U, T, D), or an encoder that learns too."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        embeds: Tensor | None,
        text_encoder: CLIPTextModel | None = None,
        input_ids: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.register_buffer("embeds", embeds, persistent=False)
        self.register_buffer("input_ids", input_ids, persistent=False)

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, captions: Tensor) -> Tensor:
        """The prediction (B, C, h, w) for noisy_latents (B, C, h, w), timesteps (B,) and rows of captions (B,)."""
        if self.text_encoder is None:
            encoder_hidden_states = self.embeds[captions]
        else:
            encoder_hidden_states = self.text_encoder(self.input_ids[captions]).last_hidden_state
        dtype = self.unet.dtype
        # The adapter's float32 weights compute in the UNet's dtype, on a CPU as on a GPU.
        with torch.autocast(noisy_latents.device.type, dtype, enabled=dtype != torch.float32):
            return self.unet(
                noisy_latents.to(dtype), timesteps, encoder_hidden_states=encoder_hidden_states.to(dtype)
            ).sample


class Log:
    """The CSV of a run, begun or gone on with; each row is on the disk once written."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.writer = file, csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            self._write(["step", "train_loss", "val_loss", "clip_score"])

    def row(self, step: int, train_loss: float | None, val_loss: float | None, clip_score: float | None) -> None:
        self._write([step, *("" if value is None else f"{value:.6f}" for value in (train_loss, val_loss, clip_score))])

    def _write(self, values: list) -> None:
        self.writer.writerow(values)
        self.file.flush()


def make_optimizer(groups: list[dict], name: str, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer called `name`; UserError where the package that has it is not installed."""
    module, cls, options = OPTIMIZERS[name]
    if sys.modules.get(package := module.partition(".")[0], ...) is None:  # tattoo_lora/__init__.py holds it back
        del sys.modules[package]
    try:
        return getattr(importlib.import_module(module), cls)(groups, weight_decay=weight_decay, **options)
    except ModuleNotFoundError:
        package = module.partition(".")[0]
        raise UserError(f"params.yaml: train.optimizer: {name} needs {package}: `pip install {package}`") from None


def add_adapters(denoiser: Denoiser, params: TrainParams, profile: Profile) -> list[dict]:
    """Fresh adapters on the UNet and, with a text_encoder_lr, on the text encoder; the optimizer's groups."""
    shared = {
        "r": params.rank,
        "lora_alpha": params.alpha,
        "lora_dropout": params.lora_dropout,
        "init_lora_weights": "gaussian",
    }
    of_unet = LoraConfig(target_modules=profile.target_modules, use_dora=params.use_dora, **shared)
    groups = [{"params": add_lora(denoiser.unet, of_unet, params.seed), "lr": profile.learning_rate}]
    if denoiser.text_encoder is not None:
        of_text = LoraConfig(target_modules=TEXT_ENCODER_MODULES, **shared)
        lora_params = add_lora(denoiser.text_encoder, of_text, params.seed)
        groups.append({"params": lora_params, "lr": params.text_encoder_lr})
    return groups


def pick_compile(choice: str, device: torch.device) -> str:
    """off, default or graphs; `auto` is graphs on CUDA and off elsewhere, where compiling costs more than it saves."""
    if choice == "auto":
        return "graphs" if device.type == "cuda" else "off"
    if choice == "graphs" and device.type != "cuda":
        tqdm.write("train.compile: graphs needs a CUDA device; compiling without them")
        return "default"
    return choice


def largest_fitting(batch_size: int, memory_of: Callable[[int], float], available: float) -> int:
    """The largest divisor of batch_size that fits, by what one sample and two of them take."""
    one, two = memory_of(1), memory_of(2)
    fitting = [n for n in divisors(batch_size) if n == 1 or one + (n - 1) * (two - one) <= available]
    return max(fitting)


def divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0]


def cuda_memory(work: Callable[[], object]) -> float:
    """The most bytes allocated while `work` was done; infinite where they did not suffice."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        work()
    except torch.OutOfMemoryError:
        return math.inf
    return torch.cuda.max_memory_allocated()


def pick_micro_batch_size(
    params: TrainParams, profile: Profile, device: torch.device, make_gradients: Callable[[int], object]
) -> int:
    """Samples at once: params' number, else the profile's batch, or as many as nine tenths of CUDA's free memory hold.

    On a CPU it does not look at the memory: another number gives other last bits, and a machine with more memory would
    give other bytes. `make_gradients(n)` is a trial with n samples. UserError for a number that does not divide the
    effective batch.
    """
    effective_batch_size = profile.batch_size * profile.gradient_accumulation_steps
    if params.micro_batch_size is not None:
        if effective_batch_size % params.micro_batch_size:
            raise UserError(
                f"params.yaml: train.micro_batch_size: found {params.micro_batch_size}, allowed: null or a divisor of "
                f"batch_size x gradient_accumulation_steps ({effective_batch_size})"
            )
        return params.micro_batch_size
    if effective_batch_size == 1 or device.type != "cuda":
        return profile.batch_size
    available = 0.9 * (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return largest_fitting(effective_batch_size, lambda n: cuda_memory(lambda: make_gradients(n)), available)


def be_deterministic() -> None:
    """Only operations that give the same bits each time; before CUDA's first use."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # its backward adds in no fixed order


@contextmanager
def averaged(ema: EMAModel | None, lora_params: list[nn.Parameter]) -> Iterator[None]:
    """The parameters' moving average in their place, where there is one."""
    if ema is None:
        yield
        return
    ema.store(lora_params)
    ema.copy_to(lora_params)
    yield
    ema.restore(lora_params)


def train(
    denoiser: Denoiser,
    noise_scheduler: DDPMScheduler,
    data: TrainingSet,
    params: TrainParams,
    profile: Profile,
    caption_dropout: float,
    accelerator: Accelerator,
    evaluate: Callable[[int], tuple[float, float]],
    log: Log | None,
    save: Callable[[str, int, float | None], None],
    checkpoints: Checkpoints,
) -> None:
    """Fit the adapters to what was added (DDPM's objective), with warm-up and a schedule.

    `evaluate(step)` gives val_loss and clip_score of the live model, `save(name, step, val_loss)` keeps it; both are
    called in the first process only, which alone has a log. An interrupted run goes on from its last checkpoint and
    ends with the same bytes. UserError where a loss is no longer finite: the weights of the last evaluation before it
    are saved as final.
    """
    device, world, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    effective_batch_size = profile.batch_size * profile.gradient_accumulation_steps * world
    num_train_timesteps = noise_scheduler.config.num_train_timesteps
    groups = add_adapters(denoiser, params, profile)
    lora_params = [parameter for group in groups for parameter in group["params"]]
    optimizer = make_optimizer(groups, params.optimizer, params.weight_decay)
    lr_scheduler = get_scheduler(
        SCHEDULES[params.schedule],
        optimizer,
        num_warmup_steps=profile.warmup_steps,
        num_training_steps=profile.steps,
    )
    ema = None if params.ema_decay is None else EMAModel(lora_params, decay=params.ema_decay)
    if params.gradient_checkpointing:
        denoiser.unet.enable_gradient_checkpointing()
    model = accelerator.prepare(denoiser)
    # Small gradients would round to nothing in float16; with any other dtype the scaler does nothing.
    scaler = torch.amp.GradScaler(device.type, enabled=denoiser.unet.dtype == torch.float16)
    denoiser.train(params.lora_dropout > 0)  # nothing else in it has a dropout

    compile_mode = pick_compile(params.compile, device)
    forward = model if compile_mode == "off" else torch.compile(model, mode=COMPILE_MODES[compile_mode], dynamic=False)

    def micro_batch_loss(forward: nn.Module, first: int, size: int) -> Tensor:
        batch = draw_batch(data, params, caption_dropout, first, size, effective_batch_size, num_train_timesteps)
        latents, noise = batch.latents.to(device), batch.noise.to(device)
        timesteps, captions = batch.timesteps.to(device), batch.captions.to(device)
        noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
        target = prediction_target(noise_scheduler, latents, noise, timesteps)
        with seeded_dropout(params, first):
            prediction = forward(noisy_latents, timesteps, captions)
        loss = F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2, 3))
        if params.min_snr_gamma is not None:
            loss = loss * min_snr_weights(noise_scheduler, timesteps, params.min_snr_gamma)
        return loss.mean()

    def accumulate_gradients(step: int) -> Tensor:
        """Gradients of the whole effective batch; its mean loss on the device, of this process's share."""
        micro_batches = effective_batch_size // (micro_batch_size * world)
        losses = []
        for micro in range(micro_batches):
            first = (step - 1) * effective_batch_size + (micro * world + rank) * micro_batch_size
            with nullcontext() if micro == micro_batches - 1 else accelerator.no_sync(model):
                loss = micro_batch_loss(forward, first, micro_batch_size)
                accelerator.backward(scaler.scale(loss / micro_batches))
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def try_gradients(size: int) -> None:
        try:
            with accelerator.no_sync(model):
                accelerator.backward(micro_batch_loss(model, 0, size))
        finally:
            optimizer.zero_grad()

    def make_room(step: int, error: torch.OutOfMemoryError) -> None:
        """Have the next try at a step take less memory; UserError where there is nothing left to do."""
        nonlocal micro_batch_size
        checkpointing = denoiser.unet.is_gradient_checkpointing
        if world > 1 and not (checkpointing and micro_batch_size == 1):
            # The other processes wait for this one's gradients: no way to repeat a step alone.
            raise UserError(
                f"out of memory at step {step}; set train.micro_batch_size (now {micro_batch_size}) lower or "
                "train.gradient_checkpointing: true"
            ) from error
        if micro_batch_size > 1:
            micro_batch_size = divisors(micro_batch_size)[-2]
            tqdm.write(f"out of memory at step {step}: going on with {micro_batch_size} samples at once")
        elif not checkpointing:
            tqdm.write(f"out of memory at step {step}: going on with gradient checkpointing, about a third slower")
            denoiser.unet.enable_gradient_checkpointing()
        else:
            raise UserError(
                f"out of memory at step {step} with one sample at once and gradient checkpointing; lower the "
                f"profile's resolution ({profile.resolution}) or train.rank ({params.rank})"
            ) from error

    def evaluate_in_first_process(step: int) -> tuple[float, float]:
        result = [None]
        if accelerator.is_main_process:
            denoiser.eval()
            with averaged(ema, lora_params):
                result = [evaluate(step)]
            denoiser.train(params.lora_dropout > 0)
        return broadcast_object_list(result)[0]

    def save_in_first_process(name: str, step: int, val_loss: float | None) -> None:
        if accelerator.is_main_process:
            with averaged(ema, lora_params):
                save(name, step, val_loss)

    def stop_diverged(what: str, step: int) -> None:
        """UserError; the adapter as it was when it was last measured well is saved as final, if it had learned."""
        if accelerator.is_main_process and good_step > 0:
            with torch.no_grad():
                for parameter, good in zip(lora_params, last_good, strict=True):
                    parameter.copy_(good)
            save("final", good_step, None)
        kept = f"the weights of step {good_step} are saved as final" if good_step > 0 else "nothing is saved"
        raise UserError(f"{what} at step {step}; lower learning_rate ({profile.learning_rate:g}); {kept}")

    parts = {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "scaler": scaler, "ema": ema}
    parts = {name: part for name, part in parts.items() if part is not None}
    state = checkpoints.load()
    if state:
        start, best_loss, evals_since_best = state["step"], state["best_loss"], state["evals_since_best"]
        micro_batch_size = state["micro_batch_size"]
        with torch.no_grad():
            for parameter, saved in zip(lora_params, state["lora_params"], strict=True):
                parameter.copy_(saved)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        accelerator.print(f"going on after step {start}")
    else:
        start, best_loss, evals_since_best = 0, float("inf"), 0
        fitting = pick_micro_batch_size(params, profile, device, try_gradients)
        micro_batch_size = min(gather_object([fitting]))
        val_loss, clip_score = evaluate_in_first_process(0)
        if not math.isfinite(val_loss):
            raise UserError(
                f"val_loss is {val_loss} before any training; the base model's numbers go out of range in "
                f"{str(denoiser.unet.dtype).removeprefix('torch.')}: set the profile's dtype to float32 or bfloat16"
            )
        if log:
            log.row(0, None, val_loss, clip_score)
    last_good, good_step = [parameter.detach().clone() for parameter in lora_params], start
    last_checkpoint, checkpointed = start, time.monotonic()
    longest = math.inf if params.checkpoint_minutes is None else 60 * params.checkpoint_minutes
    losses: list[Tensor] = []
    progress = tqdm(
        range(start + 1, profile.steps + 1), initial=start, total=profile.steps, unit="step", desc="train",
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    for step in progress:
        loss = None
        while loss is None:
            try:
                loss = accumulate_gradients(step)
            except torch.OutOfMemoryError as error:
                make_room(step, error)
            except Exception as error:
                if forward is model:
                    raise
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                accelerator.print(f"train.compile: {compile_mode} fails here, going on without ({reason:.150})")
                forward = model
            if loss is None:
                optimizer.zero_grad()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
        losses.append(loss)
        if params.max_grad_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(lora_params, params.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        lr_scheduler.step()
        optimizer.zero_grad()
        if ema is not None:
            ema.step(lora_params)

        due = step % profile.eval_every == 0 or step == profile.steps
        if due or step % LOG_EVERY == 0:
            train_loss = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
            losses.clear()
            if not math.isfinite(train_loss):
                stop_diverged(f"train_loss is {train_loss}", step)
            val_loss, clip_score = evaluate_in_first_process(step) if due else (None, None)
            if due and not math.isfinite(val_loss):
                stop_diverged(f"val_loss is {val_loss}", step)
            if log:
                log.row(step, train_loss, val_loss, clip_score)
            progress.set_postfix(loss=f"{train_loss:.4f}", refresh=False)
            if val_loss is not None:
                # The averaged weights where there are some: what was measured.
                with averaged(ema, lora_params):
                    last_good, good_step = [parameter.detach().clone() for parameter in lora_params], step
                evals_since_best += 1
                if val_loss < best_loss:
                    best_loss, evals_since_best = val_loss, 0
                    save_in_first_process("best", step, val_loss)
        if params.save_every is not None and step % params.save_every == 0:
            save_in_first_process(f"step{step:04d}", step, None)
        if params.early_stop_evals is not None and evals_since_best >= params.early_stop_evals:
            tqdm.write(
                f"early stop at step {step}: val_loss {best_loss:.4f} not bettered in {evals_since_best} evaluations"
            )
            break
        # At a row, when no loss is pending.
        due = step - last_checkpoint >= params.checkpoint_every or time.monotonic() - checkpointed >= longest
        finite = all(parameter.isfinite().all() for parameter in lora_params) if due and not losses else False
        if finite and step < profile.steps and accelerator.is_main_process:
            saved = {name: part.state_dict() for name, part in parts.items()}
            saved |= {"step": step, "best_loss": best_loss, "evals_since_best": evals_since_best}
            saved |= {"micro_batch_size": micro_batch_size}
            checkpoints.save(step, saved | {"lora_params": lora_params})
            last_checkpoint, checkpointed = step, time.monotonic()
    save_in_first_process("final", step, val_loss)


@contextmanager
def seeded_dropout(params: TrainParams, first: int) -> Iterator[None]:
    """The LoRA dropout's draws, from torch's global generator, as a function of (seed, first sample) too."""
    if params.lora_dropout == 0:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(mix(params.seed, 1, first))
        yield


def split_indices(drawings: list[Drawing], split: str) -> Tensor:
    """Positions of the drawings of one split."""
    return torch.tensor([i for i, drawing in enumerate(drawings) if drawing.split == split])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="a key under `variants` in params.yaml")
    parser.add_argument("--latents", type=Path, required=True, help="what encode wrote")
    parser.add_argument("--drawings", type=Path, required=True, help="what preprocess wrote")
    parser.add_argument("--captions", type=Path, required=True, help="folder with one <stem>.txt a drawing")
    parser.add_argument("--lora", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--log-csv", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--samples", type=Path, required=True, help="folder for pictures made on the way")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        run(args)


def run(args: argparse.Namespace) -> None:
    all_params = load_params()
    params, profile = all_params.train, load_profile(all_params.profile)
    variant = all_params.variant(args.variant)
    if params.deterministic:
        be_deterministic()
    drawings = read_drawings(args.drawings)
    moments = read_latents(args.latents, [drawing.file for drawing in drawings])
    by_stem = read_captions(args.captions, [drawing.stem for drawing in drawings])
    captions = [with_trigger(variant.trigger, by_stem[drawing.stem]) for drawing in drawings]

    use_threads(profile.threads)
    weight_dtype = pick_dtype(profile.dtype)
    accelerator = Accelerator(
        cpu=pick_device().type == "cpu",
        mixed_precision="no",  # the Denoiser and the scaler see to it, the same way on a CPU, which accelerate refuses
        # The buffers are the same in all processes: sending them with every step would be for nothing.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    device = accelerator.device
    base = (profile.base_model, profile.base_revision)
    tokenizer, text_encoder = load_tokenizer(*base), load_text_encoder(*base).to(device)
    texts = ["", *sorted(set(captions))]
    row = {text: i for i, text in enumerate(texts)}
    caption_rows = torch.tensor([row[caption] for caption in captions])
    unet = load_unet(*base, weight_dtype)
    if params.text_encoder_lr is None:
        embeds = encode_prompts(tokenizer, text_encoder, [*texts, *params.prompts])
        denoiser = Denoiser(unet, embeds[: len(texts)])
        text_encoder = None  # its memory is free for the UNet
    else:
        denoiser = Denoiser(unet, None, text_encoder, tokenize(tokenizer, texts))
    denoiser.to(device)

    vae, noise_scheduler = load_vae(*base), load_noise_scheduler(*base)
    clip, processor = load_clip(profile.clip_model, profile.clip_revision)
    pipeline = assemble_pipeline(vae, None, tokenizer, unet, noise_scheduler)
    train_rows, val_rows = split_indices(drawings, "train"), split_indices(drawings, "val")
    data = TrainingSet([moments[i] for i in train_rows], caption_rows[train_rows], vae.config.scaling_factor)
    val_rows = val_rows[: params.val_drawings]
    val_latents = scaled_means([moments[i] for i in val_rows], vae.config.scaling_factor)
    timesteps = timestep_grid(params.val_timesteps, noise_scheduler.config.num_train_timesteps)
    seeds = [params.seed + i for i in range(len(params.prompts))]

    measuring = 0.0

    def evaluate(step: int) -> tuple[float, float]:
        nonlocal measuring
        started = time.monotonic()
        live = embeds if text_encoder is None else encode_prompts(tokenizer, text_encoder, [*texts, *params.prompts])
        val_embeds = live[caption_rows[val_rows]]
        losses = validation_losses(
            unet, noise_scheduler, val_latents, val_embeds, timesteps, profile.inference_batch_size
        )
        if not losses.isfinite().all():
            return math.nan, math.nan
        with on_device(device, vae, clip):
            images = sample_images(pipeline, live[len(texts) :], live[:1], seeds, params.sampler_steps, profile)
            text_embeds = embed_texts(clip, processor, params.prompts)
            scores = clip_scores(embed_images(clip, processor, images), text_embeds)
        folder = args.samples / f"eval_step{step:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            with replace_file(folder / f"prompt{i:02d}.png") as partial:
                image.save(partial, "PNG")
        measuring += time.monotonic() - started
        return losses.mean().item(), sum(scores) / len(scores)

    prediction_type = noise_scheduler.config.prediction_type
    header = lora_header(args.variant, variant.trigger, captions, drawings, params, profile, prediction_type)

    def save(name: str, step: int, val_loss: float | None) -> None:
        reached = {"ss_steps": str(step)} | ({} if val_loss is None else {"ss_val_loss": f"{val_loss:.6f}"})
        save_lora(args.lora / f"{name}.safetensors", unet, text_encoder, header | reached)

    checkpoints = Checkpoints(
        result_key(
            __file__, params, profile, args.variant, variant, captions,
            model_key(*base), model_key(profile.clip_model, profile.clip_revision), files=[args.latents, args.drawings],
        ),
        [args.lora, args.log_csv, args.samples],
    )  # fmt: skip
    accelerator.print(f"ready to train after {time.monotonic() - STARTED:.1f} s")
    begun = time.monotonic()
    settings = (denoiser, noise_scheduler, data, params, profile, variant.caption_dropout, accelerator, evaluate)
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        train(*settings, None, save, checkpoints)
        return
    args.log_csv.parent.mkdir(parents=True, exist_ok=True)
    if not checkpoints.restore_outputs():
        args.log_csv.unlink(missing_ok=True)  # DVC may have linked it to its cache: never write into it
    accelerator.wait_for_everyone()
    with args.log_csv.open("a", newline="", encoding="utf-8") as file:
        train(*settings, Log(file), save, checkpoints)
    spent = time.monotonic() - begun
    accelerator.print(
        f"trained in {spent:.1f} s, {measuring:.1f} s of it ({measuring / spent:.0%}) measuring on the way"
    )
    checkpoints.clear()


if __name__ == "__main__":
    main()
