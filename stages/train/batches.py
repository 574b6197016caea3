"""What each step of a training sees. A sample depends on its number and the seed alone."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from tattoo_lora.params import TrainParams


@dataclass(frozen=True)
class TrainingSet:
    """N drawings: moments (views, 2C, h, w) of each, and the rows of its captions (K,) among the denoiser's texts.

    Row 0 of the texts is the empty one.
    """

    moments: Sequence[Tensor]
    caption_rows: Sequence[Tensor]
    scaling_factor: float


@dataclass(frozen=True)
class Batch:
    """latents, noise: (B, C, h, w). timesteps, caption_rows: (B,)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    caption_rows: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(*(tensor.to(device) for tensor in (self.latents, self.noise, self.timesteps, self.caption_rows)))


@dataclass(frozen=True)
class Batches:
    """The endless stream of samples that `params.seed` defines.

    A sample depends on the seed and its number alone, so it is the same for every variant, however the stream is split
    into batches and processes. The timesteps of each effective batch are stratified: one comes from each of as many
    equal parts of the noise schedule.
    """

    data: TrainingSet
    params: TrainParams
    caption_dropout: float
    effective_batch_size: int  # of all processes
    num_train_timesteps: int

    def draw(self, first: int, size: int) -> Batch:
        """Samples first, first + 1, …, `size` of them, on the CPU, all of one shape."""
        [batch] = self.draw_by_shape(first, size)
        return batch

    def draw_by_shape(self, first: int, size: int) -> list[Batch]:
        """The same samples, those of one shape in a batch: drawings on pages of other shapes have other latents."""
        samples = [self._draw_sample(number) for number in range(first, first + size)]
        shapes = dict.fromkeys(sample[0].shape for sample in samples)
        return [_batch([sample for sample in samples if sample[0].shape == shape]) for shape in shapes]

    def _draw_sample(self, number: int) -> tuple[Tensor, Tensor, int, int]:
        data, params = self.data, self.params
        strata = self.effective_batch_size if params.stratified_timesteps else 1
        generator = torch.Generator().manual_seed(mix(params.seed, 0, number))
        epoch, position = divmod(number, len(data.moments))
        i = int(shuffled(params.seed, epoch, len(data.moments))[position])
        view = int(torch.randint(len(data.moments[0]), (), generator=generator))
        fraction = (number % strata + torch.rand((), generator=generator, dtype=torch.float64).item()) / strata
        dropped = torch.rand((), generator=generator).item() < self.caption_dropout
        posterior = DiagonalGaussianDistribution(data.moments[i][view][None].float())
        latents = posterior.sample(generator=generator)[0] * data.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        # https://www.crosslabs.org/blog/diffusion-with-offset-noise
        noise += params.noise_offset * torch.randn((len(noise), 1, 1), generator=generator)
        # Drawn last: where there is one caption only, all else is as if nothing had been drawn here.
        caption = int(torch.randint(len(data.caption_rows[i]), (), generator=generator))
        caption_row = 0 if dropped else int(data.caption_rows[i][caption])
        return latents, noise, int(fraction * self.num_train_timesteps), caption_row


def _batch(samples: Iterable[tuple[Tensor, Tensor, int, int]]) -> Batch:
    latents, noise, timesteps, caption_rows = zip(*samples, strict=True)
    return Batch(torch.stack(latents), torch.stack(noise), torch.tensor(timesteps), torch.tensor(caption_rows))


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, n: int) -> Tensor:
    """The order of n drawings in an epoch, a pure function of its arguments."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, epoch)))


def mix(*numbers: int) -> int:
    """One seed made of several numbers, 32 bits long: torch's CPU generator drops what a seed has beyond these."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def seeded_dropout(params: TrainParams, first: int) -> Iterator[None]:
    """Seed torch's global generator, from which the LoRA dropout draws, by the seed and the first sample."""
    if params.lora_dropout == 0:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(mix(params.seed, 1, first))
        yield
