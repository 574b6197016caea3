"""val_loss: the denoising error on held-out drawings, over noise and timesteps that never change."""

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from tattoo_lora.diffusion.objective import denoising_losses, predict

NOISE_SEED = 20_240_501  # any number; the same for every variant, step and run
BANDS = ("low", "mid", "high")  # thirds of the noise schedule, from little noise to nothing but noise


def timestep_grid(count: int, num_train_timesteps: int) -> list[int]:
    """The middles of `count` equal parts of the noise schedule."""
    return [int((k + 0.5) * num_train_timesteps / count) for k in range(count)]


def band(timestep: int, num_train_timesteps: int) -> str:
    """Which third of the noise schedule the timestep is in: one of BANDS."""
    return BANDS[timestep * len(BANDS) // num_train_timesteps]


@torch.inference_mode()
def validation_losses(
    unet: UNet2DConditionModel,
    noise_scheduler: DDPMScheduler,
    latents: Tensor,
    encoder_hidden_states: Tensor,
    timesteps: list[int],
    batch_size: int,
    noise_seed: int = NOISE_SEED,
) -> Tensor:
    """(N, K): the prediction's mean squared error, unweighted, of N drawings at K timesteps.

    latents (N, C, h, w), scaled; encoder_hidden_states (N, T, D). The noise of a drawing's k-th timestep is fixed, so
    that two evaluations differ by the model alone.
    """
    grid = [(n, k) for n in range(len(latents)) for k in range(len(timesteps))]
    losses = []
    for start in range(0, len(grid), batch_size):
        rows, columns = zip(*grid[start : start + batch_size], strict=True)
        rows = list(rows)
        noise = torch.stack([_noise(latents.shape[1:], noise_seed + n, k) for n, k in zip(rows, columns, strict=True)])

        def predict_rows(
            noisy_latents: Tensor, timesteps: Tensor, hidden: Tensor = encoder_hidden_states[rows]
        ) -> Tensor:
            return predict(unet, noisy_latents, timesteps, hidden).cpu()

        batch_timesteps = torch.tensor([timesteps[k] for k in columns])
        losses.append(denoising_losses(predict_rows, noise_scheduler, latents[rows], noise, batch_timesteps))
    return torch.cat(losses).view(len(latents), len(timesteps))


def _noise(shape: torch.Size, seed: int, k: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * (seed % 2_000_000) + k))
