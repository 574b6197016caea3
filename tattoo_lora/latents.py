"""The file of VAE moments: one safetensors, one key a drawing."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tattoo_lora.errors import UserError


def write_latents(path: Path, moments: dict[str, Tensor]) -> None:
    """Write {file name: (views, 2C, h, w)}: the posterior's mean and log-variance, view 1 the mirror image if any."""
    save_file({file: tensor.contiguous() for file, tensor in moments.items()}, path)


def read_latents(path: Path, files: list[str]) -> Tensor:
    """Moments (N, views, 2C, h, w) float32 of the named files, in their order; UserError for one that is not there."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro encode`")
    with safe_open(path, framework="pt") as stored:
        missing = sorted(set(files) - set(stored.keys()))
        if missing:
            names = ", ".join(missing[:3])
            raise UserError(f"{path}: no latents for {names} ({len(missing)} in all); run `dvc repro encode`")
        return torch.stack([stored.get_tensor(file) for file in files]).float()


def scaled_means(moments: Tensor, scaling_factor: float) -> Tensor:
    """Latents (N, C, h, w) without the posterior's noise, for moments (N, 2C, h, w)."""
    return moments.chunk(2, dim=1)[0] * scaling_factor
