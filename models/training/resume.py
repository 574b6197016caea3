"""What makes a training run resumable: draws that depend on (seed, step) alone, and checkpoints without pickles."""

import math
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random draws of one step, the same whether the run was interrupted or not."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, peak: float, warmup: int = 100) -> None:
    """Linear warm-up to `peak`, then a cosine to 1% of it at `steps`."""
    cosine = 0.505 + 0.495 * math.cos(math.pi * min(1.0, step / steps))
    for group in optimizer.param_groups:
        group["lr"] = peak * group.get("lr_scale", 1.0) * min(1.0, (step + 1) / warmup) * cosine


class Ema:
    """Exponential moving average of parameters; its decay starts low, (1 + n) / (10 + n), as in diffusers' EMAModel."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.shadow = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        for parameter, average in zip(self.parameters, self.shadow, strict=True):
            parameter.copy_(average)


def save_checkpoint(
    path: Path, step: int, parameters: list[nn.Parameter], optimizer: torch.optim.AdamW, ema: Ema | None = None
) -> None:
    """Write all that the next step needs, atomically: a killed run keeps its last whole checkpoint."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(step)}
    for i, parameter in enumerate(parameters):
        tensors[f"parameter.{i}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{i}.{key}"] = value.contiguous()
        if ema is not None:
            tensors[f"ema.{i}"] = ema.shadow[i].contiguous()
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    os.replace(partial, path)


@torch.no_grad()
def load_checkpoint(
    path: Path, parameters: list[nn.Parameter], optimizer: torch.optim.AdamW, ema: Ema | None = None
) -> int:
    """Restore what `save_checkpoint` wrote; the step to go on with, 0 where there is no checkpoint."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    for i, parameter in enumerate(parameters):
        parameter.copy_(tensors[f"parameter.{i}"])
        optimizer.state[parameter] = {
            key: tensors[f"optimizer.{i}.{key}"].to(parameter.device if key != "step" else "cpu")
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
        if ema is not None:
            ema.shadow[i].copy_(tensors[f"ema.{i}"])
    return int(tensors["step"])
