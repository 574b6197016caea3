"""A training loop that can be stopped: draws depend on (seed, step) alone, checkpoints hold all that the next needs.

Stopped after any step and started again, a run ends with the same bytes as one that was not stopped (with as many
threads, on the same kind of processor).
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from muon import Muon
from recipe import WORK, stage_key
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

REPORT_EVERY = 500  # steps


@dataclass(frozen=True)
class FitParams:
    """One schedule: a linear warm-up to `lr`, then a cosine to 1% of it at `steps`."""

    steps: int
    batch_size: int
    lr: float
    seed: int
    warmup: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.99
    ema_decay: float = 0.999


def checkpoint_path(stage: str, name: str) -> Path:
    """Where the stage keeps the state of its run `name`: outside its outputs, under a hash of all it depends on."""
    return WORK / "checkpoints" / f"{name}-{stage_key(stage)}.safetensors"


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random draws of one step, the same whether the run was interrupted or not."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def learning_rate(step: int, params: FitParams) -> float:
    """The rate of `step`, 0 to params.steps - 1."""
    cosine = 0.505 + 0.495 * math.cos(math.pi * min(1.0, step / params.steps))
    return params.lr * min(1.0, (step + 1) / params.warmup) * cosine


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
    def swap(self) -> None:
        """Exchange the model's parameters and their averages; a second call puts them back."""
        for parameter, average in zip(self.parameters, self.shadow, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)


def save_checkpoint(
    path: Path, step: int, parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer], ema: Ema
) -> None:
    """Write all that the next step needs, atomically: a killed run keeps its last whole checkpoint."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(step)}
    for i, parameter in enumerate(parameters):
        tensors[f"parameter.{i}"] = parameter.detach().contiguous()
        tensors[f"ema.{i}"] = ema.shadow[i].contiguous()
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{i}.{key}"] = value.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    os.replace(partial, path)


@torch.no_grad()
def load_checkpoint(
    path: Path, parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer], ema: Ema
) -> int:
    """Restore what `save_checkpoint` wrote; the step to go on with, 0 where there is no checkpoint."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    states = {parameter: optimizer.state for optimizer in optimizers for parameter in members(optimizer)}
    for i, parameter in enumerate(parameters):
        parameter.copy_(tensors[f"parameter.{i}"])
        ema.shadow[i].copy_(tensors[f"ema.{i}"])
        prefix = f"optimizer.{i}."
        # In the parameter's own layout: the fused optimizer goes through both as they lie in memory.
        states[parameter][parameter] = {
            key.removeprefix(prefix): torch.empty_like(parameter).copy_(value)
            if value.ndim
            else value.to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
    return int(tensors["step"])


def members(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters that the optimizer changes."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def fit(
    name: str,
    parameters: Iterable[nn.Parameter] | list[dict],
    compute_loss: Callable[[torch.Generator], Tensor],
    params: FitParams,
    checkpoint: Path,
    report: Callable[[], str] = lambda: "",
    minutes: float = 3.0,
) -> None:
    """Lower `compute_loss` over the parameters, from `checkpoint` on where it exists; leaves their moving average.

    `parameters` may be groups, as an optimizer takes them: "share" is the share of params.lr at which a group learns,
    "muon" whether by Muon instead of AdamW. `compute_loss` gets the step's generator and takes all its draws from it.
    `report` measures the moving average, every REPORT_EVERY steps.
    """
    given = list(parameters)
    groups = given if isinstance(given[0], dict) else [{"params": given}]
    groups = [{"share": 1.0, "muon": False} | group | {"params": list(group["params"])} for group in groups]
    by_adamw, by_muon = ([group for group in groups if group["muon"] == muon] for muon in (False, True))
    optimizers = [
        torch.optim.AdamW(
            by_adamw, lr=params.lr, betas=(0.9, params.beta2), weight_decay=params.weight_decay, fused=True
        )
    ]
    if by_muon:
        optimizers.append(Muon(by_muon, lr=params.lr, weight_decay=params.weight_decay))
    learned = [parameter for optimizer in optimizers for parameter in members(optimizer)]
    ema = Ema(learned, params.ema_decay)
    start = load_checkpoint(checkpoint, learned, optimizers, ema)
    saved = time.monotonic()
    running = None
    progress = tqdm(range(start, params.steps), initial=start, total=params.steps, desc=name, mininterval=10)
    for step in progress:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["share"] * learning_rate(step, params)
        loss = compute_loss(step_generator(params.seed, step))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.update(step)
        loss = loss.detach()
        running = loss if running is None else torch.lerp(running, loss, 0.02)
        last = step + 1 == params.steps
        if step % 20 == 0:  # a GPU computes on while nobody asks for its numbers
            progress.set_postfix(loss=f"{running:.4f}", refresh=False)
        if last or time.monotonic() - saved > 60 * minutes:
            save_checkpoint(checkpoint, step + 1, learned, optimizers, ema)
            saved = time.monotonic()
        if (step + 1) % REPORT_EVERY == 0 and not last:
            ema.swap()
            tqdm.write(f"{name}, step {step + 1}: loss {running:.4f}{report()}")
            ema.swap()
    ema.swap()
    print(f"{name}, step {params.steps}: {report()}", flush=True)
