"""How far a training has come: what a snapshot holds, and the weights to fall back on when it diverges."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim.lr_scheduler import LRScheduler


class TrainState:
    """The adapters' weights, what changes them, and how well they have done so far."""

    def __init__(
        self,
        lora_params: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        lr_scheduler: LRScheduler,
        scaler: torch.amp.GradScaler,
        ema: EMAModel | None,
    ) -> None:
        self.lora_params, self.ema = lora_params, ema
        parts = {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "scaler": scaler, "ema": ema}
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.step, self.best_loss, self.evals_since_best = 0, math.inf, 0
        self._remember()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs: nested dicts and lists of tensors and plain values."""
        reached = {"step": self.step, "best_loss": self.best_loss, "evals_since_best": self.evals_since_best}
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return reached | parts | {"lora_params": self.lora_params}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.step, self.best_loss, self.evals_since_best = (
            saved[name] for name in ("step", "best_loss", "evals_since_best")
        )
        self._set(saved["lora_params"])
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self._remember()

    def record(self, val_loss: float) -> bool:
        """Count an evaluation of the present weights; True if no earlier one was as good."""
        with self.averaged():
            self._remember()
        self.evals_since_best += 1
        if val_loss >= self.best_loss:
            return False
        self.best_loss, self.evals_since_best = val_loss, 0
        return True

    def fall_back(self) -> int:
        """Put the weights of the last evaluation, or of the start, in place; returns their step."""
        self._set(self.good_params)
        return self.good_step

    def is_finite(self) -> bool:
        """Whether all weights are numbers: a snapshot of others would be of no use."""
        return all(bool(parameter.isfinite().all()) for parameter in self.lora_params)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average, if there is one, in the parameters' place: it is what is measured and kept."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.lora_params)
        self.ema.copy_to(self.lora_params)
        try:
            yield
        finally:
            self.ema.restore(self.lora_params)

    def _remember(self) -> None:
        self.good_step, self.good_params = self.step, [parameter.detach().clone() for parameter in self.lora_params]

    @torch.no_grad()
    def _set(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.lora_params, values, strict=True):
            parameter.copy_(value)
