"""val_loss: the denoising error on held-out drawings, over noise and timesteps that never change."""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from tattoo_lora.objective import prediction_target

TIMESTEPS = tuple(range(50, 1000, 100))
NOISE_SEED = 20_240_501  # any number; the same for every variant, step and run


@torch.inference_mode()
def validation_loss(
    unet: UNet2DConditionModel,
    noise_scheduler: DDPMScheduler,
    latents: Tensor,
    encoder_hidden_states: Tensor,
    batch_size: int,
) -> float:
    """Unweighted mean squared error of the prediction, a mean over drawings and ten timesteps.

    latents (N, C, h, w), scaled; encoder_hidden_states (N, T, D). The noise of a (drawing, timestep)
    pair is fixed, so that two evaluations differ by the model alone.
    """
    generator = torch.Generator().manual_seed(NOISE_SEED)
    grid = [(n, t) for n in range(len(latents)) for t in TIMESTEPS]
    noise = torch.randn((len(latents), len(TIMESTEPS), *latents.shape[1:]), generator=generator).flatten(0, 1)
    total = 0.0
    for start in range(0, len(grid), batch_size):
        index = torch.tensor([n for n, _ in grid[start : start + batch_size]])
        timesteps = torch.tensor([t for _, t in grid[start : start + batch_size]])
        added = noise[start : start + batch_size]
        noisy_latents = noise_scheduler.add_noise(latents[index], added, timesteps)
        target = prediction_target(noise_scheduler, latents[index], added, timesteps)
        noise_pred = unet(
            noisy_latents.to(unet.device, unet.dtype),
            timesteps.to(unet.device),
            encoder_hidden_states=encoder_hidden_states[index].to(unet.device, unet.dtype),
        ).sample
        total += F.mse_loss(noise_pred.float().cpu(), target, reduction="sum").item()
    return total / noise.numel()
