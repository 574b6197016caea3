"""What each step of a training sees, as a function of the seed and the number of the sample alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from tattoo_lora.params import TrainParams


@dataclass(frozen=True)
class TrainingSet:
    """N drawings: moments (views, 2C, h, w) of each, and captions (N,), each one's row among the denoiser's texts.

    Row 0 of the texts is the empty one.
    """

    moments: Sequence[Tensor]
    captions: Tensor
    scaling_factor: float


@dataclass(frozen=True)
class Batch:
    """latents, noise: (B, C, h, w). timesteps, captions: (B,)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: Tensor


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, n: int) -> Tensor:
    """The order of n drawings in an epoch, a pure function of its arguments."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, epoch)))


def mix(*numbers: int) -> int:
    """The numbers as the 32 bits that torch's CPU generator takes of a seed; shifted into more they would be lost."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def draw_batch(
    data: TrainingSet,
    params: TrainParams,
    caption_dropout: float,
    first: int,
    batch_size: int,
    effective_batch_size: int,
    num_train_timesteps: int,
) -> Batch:
    """Samples first, first + 1, … of the endless stream that `params.seed` defines.

    What is drawn for a sample depends on (seed, its number) alone, but that the timesteps of each effective batch
    are stratified, one from each of as many equal parts: the same for every variant, however the stream is split
    into batches and processes.
    """
    drawn: list[tuple[Tensor, Tensor, int, int]] = []
    n, views = len(data.moments), len(data.moments[0])
    strata = effective_batch_size if params.stratified_timesteps else 1
    for number in range(first, first + batch_size):
        generator = torch.Generator().manual_seed(mix(params.seed, 0, number))
        epoch, position = divmod(number, n)
        i = int(shuffled(params.seed, epoch, n)[position])
        view = int(torch.randint(views, (), generator=generator))
        fraction = (number % strata + torch.rand((), generator=generator, dtype=torch.float64).item()) / strata
        dropped = torch.rand((), generator=generator).item() < caption_dropout
        posterior = DiagonalGaussianDistribution(data.moments[i][view][None].float())
        latents = posterior.sample(generator=generator)[0] * data.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        # https://www.crosslabs.org/blog/diffusion-with-offset-noise
        noise += params.noise_offset * torch.randn((len(noise), 1, 1), generator=generator)
        drawn.append((latents, noise, int(fraction * num_train_timesteps), 0 if dropped else int(data.captions[i])))
    latents, noise, timesteps, captions = zip(*drawn, strict=True)
    return Batch(torch.stack(latents), torch.stack(noise), torch.tensor(timesteps), torch.tensor(captions))
