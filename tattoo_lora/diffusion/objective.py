"""What the UNet is to predict, and its error. Training, validation and benchmarks run these same lines."""

from collections.abc import Callable

import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor

from tattoo_lora.errors import UserError


def predict(
    unet: UNet2DConditionModel, noisy_latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor
) -> Tensor:
    """The UNet's prediction (B, C, h, w), in its dtype and on its device.

    noisy_latents (B, C, h, w), timesteps (B,), encoder_hidden_states (B, T, D).
    """
    device, dtype = unet.device, unet.dtype
    return unet(
        noisy_latents.to(device, dtype),
        timesteps.to(device),
        encoder_hidden_states=encoder_hidden_states.to(device, dtype),
    ).sample


def denoising_losses(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise_scheduler: DDPMScheduler,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> Tensor:
    """The mean squared error (B,) of each prediction, in float32 (https://arxiv.org/abs/2006.11239).

    latents, noise (B, C, h, w), timesteps (B,); `predict(noisy_latents, timesteps)` gives (B, C, h, w) on their device.
    """
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    target = prediction_target(noise_scheduler, latents, noise, timesteps)
    prediction = predict(noisy_latents, timesteps)
    return F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2, 3))


def prediction_target(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The noise or, as the model's own scheduler has it, the velocity (https://arxiv.org/abs/2202.00512), (B, C, h, w).

    UserError for a model that predicts something else.
    """
    kind = noise_scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return noise_scheduler.get_velocity(latents, noise, timesteps)
    raise UserError(f"the base model predicts {kind!r}; known are epsilon and v_prediction")


def min_snr_weights(noise_scheduler: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Loss weights (B,) that cap the signal-to-noise ratio at gamma (https://arxiv.org/abs/2303.09556)."""
    snr = compute_snr(noise_scheduler, timesteps)
    weights = snr.clamp(max=gamma)
    return weights / (snr + 1) if noise_scheduler.config.prediction_type == "v_prediction" else weights / snr
