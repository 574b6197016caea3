"""val_loss: the denoising error on held-out drawings, over noise and timesteps that never change."""

from collections.abc import Iterator, Sequence

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
    latents: Sequence[Tensor],
    encoder_hidden_states: Tensor,
    timesteps: list[int],
    batch_size: int,
    noise_seed: int = NOISE_SEED,
) -> Tensor:
    """(N, K): the prediction's mean squared error, unweighted, of N drawings at K timesteps.

    latents (C, h, w) of each drawing, scaled; encoder_hidden_states (N, T, D). The noise of a drawing's k-th timestep
    is fixed, so that two evaluations differ by the model alone. Only drawings of one shape share a batch.
    """
    losses = torch.empty(len(latents), len(timesteps))
    for cells in _batches([latent.shape for latent in latents], len(timesteps), batch_size):
        rows, columns = (list(numbers) for numbers in zip(*cells, strict=True))
        batch = torch.stack([latents[n] for n in rows])
        noise = torch.stack([_noise(batch.shape[1:], noise_seed + n, k) for n, k in cells])

        def predict_rows(
            noisy_latents: Tensor, timesteps: Tensor, hidden: Tensor = encoder_hidden_states[rows]
        ) -> Tensor:
            return predict(unet, noisy_latents, timesteps, hidden).cpu()

        batch_timesteps = torch.tensor([timesteps[k] for k in columns])
        losses[rows, columns] = denoising_losses(predict_rows, noise_scheduler, batch, noise, batch_timesteps)
    return losses


def _batches(shapes: Sequence[torch.Size], columns: int, batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """The cells (n, k) of a table with a row for each of the shapes, in batches of rows of one shape."""
    for shape in dict.fromkeys(shapes):
        cells = [(n, k) for n in range(len(shapes)) if shapes[n] == shape for k in range(columns)]
        yield from (cells[start : start + batch_size] for start in range(0, len(cells), batch_size))


def _noise(shape: torch.Size, seed: int, k: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * (seed % 2_000_000) + k))
