"""What the UNet is to predict: the same in training and in validation, read from the model's own scheduler."""

from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from tattoo_lora.errors import UserError


def prediction_target(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The noise (https://arxiv.org/abs/2006.11239) or the velocity (https://arxiv.org/abs/2202.00512), (B, C, h, w)."""
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
