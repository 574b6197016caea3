"""What a training writes as it goes: a log, adapters, snapshots. Only the first process writes."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TextIO

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from stages.train.checkpoint import Checkpoints
from stages.train.denoiser import Denoiser
from stages.train.state import TrainState
from tattoo_lora.errors import UserError
from tattoo_lora.params import TrainParams


class Log:
    """The CSV log of a training, a new one or one that is continued; each row is on the disk once it is written."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.writer = file, csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            self._write(["step", "train_loss", "val_loss", "clip_score"])

    def row(self, step: int, train_loss: float | None, val_loss: float | None, clip_score: float | None) -> None:
        """None leaves a cell empty."""
        self._write([step, *("" if value is None else f"{value:.6f}" for value in (train_loss, val_loss, clip_score))])

    def _write(self, values: list) -> None:
        self.writer.writerow(values)
        self.file.flush()


@dataclass(frozen=True)
class Outputs:
    """`measure(step)` gives val_loss and clip_score of the live adapter, `save(name, step, val_loss)` writes it."""

    measure: Callable[[int], tuple[float, float]]
    save: Callable[[str, int, float | None], None]
    log: Log | None
    checkpoints: Checkpoints


class Run:
    """What the first process does for all: it measures and saves the adapter, or its moving average if there is one."""

    def __init__(
        self, outputs: Outputs, state: TrainState, denoiser: Denoiser, params: TrainParams, accelerator: Accelerator
    ) -> None:
        self.outputs, self.state, self.denoiser, self.params = outputs, state, denoiser, params
        self.is_first = accelerator.is_main_process
        self.last_step, self.last_time = 0, time.monotonic()

    def measure(self, step: int) -> tuple[float, float]:
        """val_loss and clip_score, the same in all processes."""
        result = [None]
        if self.is_first:
            self.denoiser.eval()
            with self.state.averaged():
                result = [self.outputs.measure(step)]
            self.denoiser.train(self.params.lora_dropout > 0)
        return broadcast_object_list(result)[0]

    def save(self, name: str, step: int, val_loss: float | None) -> None:
        """Write the adapter as <name>.safetensors."""
        if self.is_first:
            with self.state.averaged():
                self.outputs.save(name, step, val_loss)

    def log_row(self, step: int, train_loss: float | None, val_loss: float | None, clip_score: float | None) -> None:
        """A row of the log, in the process that has one."""
        if self.outputs.log:
            self.outputs.log.row(step, train_loss, val_loss, clip_score)

    def load_snapshot(self) -> dict | None:
        """Restore the state from what `save_snapshot` wrote last, and return that; None if there is nothing."""
        saved = self.outputs.checkpoints.load()
        if saved:
            self.state.load_state_dict(saved["state"])
            self.last_step = self.state.step
        return saved

    def save_snapshot(self, **others: int) -> None:
        """Save the state and some numbers if it is time, by params' steps or minutes, and all weights are finite."""
        params, step = self.params, self.state.step
        limit = math.inf if params.checkpoint_minutes is None else 60 * params.checkpoint_minutes
        is_due = step - self.last_step >= params.checkpoint_every or time.monotonic() - self.last_time >= limit
        if is_due and self.is_first and self.state.is_finite():
            self.outputs.checkpoints.save(step, {"state": self.state.state_dict(), **others})
            self.last_step, self.last_time = step, time.monotonic()

    def stop_diverged(self, what: str, learning_rate: float) -> NoReturn:
        """Save the adapter of the last good evaluation as final, if it had learned by then, and raise UserError."""
        kept = "nothing is saved"
        if self.state.good_step > 0:
            kept = f"the weights of step {self.state.good_step} are saved as final"
            if self.is_first:
                self.outputs.save("final", self.state.fall_back(), None)
        raise UserError(f"{what} at step {self.state.step}; lower learning_rate ({learning_rate:g}); {kept}")
