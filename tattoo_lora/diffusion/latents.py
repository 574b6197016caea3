"""The VAE's latents: how large they are, and the file of moments, one safetensors with one key a drawing."""

from collections.abc import Iterable
from pathlib import Path

from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file


def latent_factor(vae: AutoencoderKL) -> int:
    """How many px a latent is wide and high: 8 in Stable Diffusion."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def write_moments(path: Path, moments: dict[str, Tensor]) -> None:
    """Write {file name: (views, 2C, h, w)}: the posterior's mean and log-variance, view 0 the drawing as it is."""
    with replace_file(path) as partial:
        save_file({file: tensor.contiguous() for file, tensor in moments.items()}, partial)


def read_moments(path: Path, files: list[str]) -> list[Tensor]:
    """Moments (views, 2C, h, w) of each of the named files, in their order; UserError for one that is not there.

    Memory-mapped: a tensor costs memory once it is looked at, and the system may take that back.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro encode`")
    stored = load_file(path)
    missing = sorted(set(files) - set(stored))
    if missing:
        names = ", ".join(missing[:3])
        raise UserError(f"{path}: no latents for {names} ({len(missing)} in all); run `dvc repro encode`")
    return [stored[file] for file in files]


def scaled_means(moments: Iterable[Tensor], scaling_factor: float) -> list[Tensor]:
    """Latents (C, h, w) of each drawing as it is, without the posterior's noise, for moments (views, 2C, h, w)."""
    return [views[0].chunk(2)[0].float() * scaling_factor for views in moments]
