"""The training loop against a plain one and against the least that a step can be.

The plain loop does per step what the diffusers project's example script for LoRA does: VAE and text encoder on every
picture, the eager UNet, accumulation, a loss read back each time. The least is the UNet forward and backward and
AdamW on tensors that never change. All three share one UNet, rank and targets. Pictures, captions and latents are
random numbers: they cost what real ones do.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextModel

from bench.timing import synchronize
from stages.train.batches import Batches, TrainingSet
from stages.train.checkpoint import Checkpoints
from stages.train.denoiser import Denoiser
from stages.train.loop import train
from stages.train.run import Outputs
from tattoo_lora.diffusion.latents import latent_factor
from tattoo_lora.diffusion.lora import add_lora, layer_ranks
from tattoo_lora.diffusion.models import (
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    pick_device,
    pick_dtype,
)
from tattoo_lora.params import Model, Profile, TrainParams, TrainProfile

WARM_UP = 1  # steps of a run that are not counted
PICTURES = 16  # the number of different ones that the plain loop uses


@dataclasses.dataclass(frozen=True)
class Models:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    noise_scheduler: DDPMScheduler


def load(base: Model, dtype: str) -> Models:
    """The parts of a base model: the UNet on this machine's device, the others on the CPU until they are needed."""
    device, weight_dtype = pick_device(), pick_dtype(dtype, base)
    return Models(
        load_unet(base, weight_dtype).to(device),
        load_vae(base),
        load_text_encoder(base),
        load_noise_scheduler(base),
    )


@contextmanager
def adapted_once(unet: UNet2DConditionModel) -> Iterator[None]:
    """Take the adapter off again, so that one load of the models does for several trainings."""
    try:
        yield
    finally:
        unet.unload_lora()
        unet.disable_gradient_checkpointing()


def latent_shape(models: Models, resolution: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents at that resolution."""
    side = resolution // latent_factor(models.vae)
    return models.vae.config.latent_channels, side, side


def ours(models: Models, params: TrainParams, profile: Profile, steps: int, drawings: int) -> tuple[int, float]:
    """`steps` counted steps of stages.train's own loop over `drawings` drawings."""
    generator = torch.Generator().manual_seed(0)
    channels, *side = latent_shape(models, profile.resolution)
    # All drawings share one storage: choosing a drawing is measured, not the memory for thousands.
    moments = torch.randn(drawings + 2 * channels, *side, generator=generator)
    views = [moments[i : i + 2 * channels].expand(2, -1, -1, -1) for i in range(drawings)]
    config = models.text_encoder.config
    embeds = torch.randn(PICTURES, config.max_position_embeddings, config.hidden_size, generator=generator)
    data = TrainingSet(views, (torch.arange(drawings) % PICTURES)[:, None], models.vae.config.scaling_factor)
    warm_up = max(1, steps // 2)
    train_profile = dataclasses.replace(profile.train, steps=warm_up + steps, eval_every=warm_up, warmup_steps=0)
    stamps: dict[int, float] = {}

    def stamp(step: int) -> tuple[float, float]:
        synchronize()
        stamps[step] = time.perf_counter()
        return 0.0, 0.0

    denoiser = Denoiser(models.unet.to(memory_format=torch.channels_last), embeds).to(models.unet.device)
    on_cpu = models.unet.device.type == "cpu"
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")
    effective = train_profile.batch_size * train_profile.gradient_accumulation_steps
    batches = Batches(data, params, 0.1, effective, models.noise_scheduler.config.num_train_timesteps)
    outputs = Outputs(stamp, lambda *_: None, None, Checkpoints("bench", []))
    with adapted_once(models.unet):
        train(denoiser, models.noise_scheduler, batches, params, train_profile, accelerator, outputs)
    return steps * effective, stamps[warm_up + steps] - stamps[warm_up]


# The peer script's names for --mixed_precision.
MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def adapted(
    models: Models, params: TrainParams, profile: TrainProfile
) -> tuple[list[torch.nn.Parameter], torch.optim.AdamW]:
    """Add an adapter such as ours to the UNet; its parameters, and torch's AdamW with its defaults."""
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        target_modules=list(layer_ranks(profile.target_modules, params.rank, None)),
        init_lora_weights="gaussian",
    )
    lora_params = add_lora(models.unet, config, seed=0)
    return lora_params, torch.optim.AdamW(lora_params, lr=1e-4)


def autocast(models: Models) -> torch.autocast:
    """The example script's mixed precision for the models' dtype."""
    dtype = models.unet.dtype
    return torch.autocast(models.unet.device.type, dtype, enabled=dtype != torch.float32)


def plain(models: Models, params: TrainParams, profile: Profile, steps: int) -> tuple[int, float]:
    """`steps` counted steps that encode every picture and caption again, as the example script's do."""
    resolution, batch, accumulation = (
        profile.resolution,
        profile.train.batch_size,
        profile.train.gradient_accumulation_steps,
    )
    device, dtype = models.unet.device, models.unet.dtype
    generator = torch.Generator().manual_seed(0)
    config = models.text_encoder.config
    pictures = torch.rand(PICTURES, 3, resolution, resolution, generator=generator) * 2 - 1
    input_ids = torch.randint(config.vocab_size, (PICTURES, config.max_position_embeddings), generator=generator)
    models.unet.to(memory_format=torch.contiguous_format)
    models.vae.to(device, dtype)
    models.text_encoder.to(device, dtype)
    lora_params, optimizer = adapted(models, params, profile.train)
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronize()
            started = time.perf_counter()
        for micro in range(accumulation):
            rows = (torch.arange(batch) + (step * accumulation + micro) * batch) % PICTURES
            with torch.no_grad():
                posterior = models.vae.encode(pictures[rows].to(device, dtype)).latent_dist
                latents = posterior.sample() * models.vae.config.scaling_factor
                encoder_hidden_states = models.text_encoder(input_ids[rows].to(device)).last_hidden_state
            noise = torch.randn_like(latents)
            timesteps = torch.randint(models.noise_scheduler.config.num_train_timesteps, (batch,), device=device)
            noisy_latents = models.noise_scheduler.add_noise(latents, noise, timesteps)
            with autocast(models):
                noise_pred = models.unet(
                    noisy_latents, timesteps, encoder_hidden_states=encoder_hidden_states.to(dtype)
                ).sample
            loss = F.mse_loss(noise_pred.float(), noise.float())
            loss.item()
            (loss / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(lora_params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    synchronize()
    seconds = time.perf_counter() - started
    models.unet.unload_lora()
    models.vae.to("cpu", torch.float32)
    models.text_encoder.to("cpu", torch.float32)
    return steps * batch * accumulation, seconds


def least(models: Models, params: TrainParams, profile: Profile, steps: int) -> tuple[int, float]:
    """`steps` counted batches of UNet forward, backward and AdamW on fixed tensors, in our memory layout."""
    batch = profile.train.batch_size
    device, dtype = models.unet.device, models.unet.dtype
    generator = torch.Generator().manual_seed(0)
    config = models.text_encoder.config

    def fixed(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    shape = latent_shape(models, profile.resolution)
    noisy_latents, noise = fixed(batch, *shape).to(dtype), fixed(batch, *shape)
    encoder_hidden_states = fixed(batch, config.max_position_embeddings, config.hidden_size).to(dtype)
    timesteps = torch.full((batch,), 500, device=device)
    models.unet.to(memory_format=torch.channels_last)
    _, optimizer = adapted(models, params, profile.train)
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronize()
            started = time.perf_counter()
        with autocast(models):
            noise_pred = models.unet(noisy_latents, timesteps, encoder_hidden_states=encoder_hidden_states).sample
        F.mse_loss(noise_pred.float(), noise).backward()
        optimizer.step()
        optimizer.zero_grad()
    synchronize()
    seconds = time.perf_counter() - started
    models.unet.unload_lora()
    return steps * batch, seconds
