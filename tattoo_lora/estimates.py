"""How long a training takes and how much memory it needs, said before it starts: by the last one here, or by counting.

The counted figures are those of Stable Diffusion 1.x; tests/test_estimates.py counts them again. Times hold to a factor
of two at best, because nobody knows which share of a card's peak a training reaches before it has run there.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.files import replace_file
from tattoo_lora.keys import content_key
from tattoo_lora.params import BaseModel

FOLDER = Path(os.environ.get("DVC_ROOT", "."), ".scratch/speed")
FEWEST_STEPS = 20  # of a training whose speed is worth keeping

TFLOP = 1.72  # of a picture of 512 px, forward and backward with frozen weights
WEIGHTS, ACTIVATIONS = 1.72, 0.89  # GB in half precision: the UNet; what one picture of 512 px keeps for backward
CHECKPOINTED = 0.5  # GB: the same with gradient checkpointing, the block that is computed again included
OVERHEAD = 0.8  # GB: CUDA itself, libraries' workspaces, the adapter and its optimizer
REACHED = 0.2  # share of a card's peak that a training is taken to reach
CPU_CORE = 0.11  # TFLOP/s that a training reached on each of two cores, in float32

CARDS = {  # by what the driver's name holds: memory in GB, peak TFLOP/s in half precision by the vendor
    "RTX 2060": (6, 26),
    "RTX 3060": (12, 25),
    "RTX 3070": (8, 41),
    "RTX 3090": (24, 71),
    "RTX 4060": (8, 30),
    "RTX 4070": (12, 58),
    "RTX 4090": (24, 165),
    "T4": (16, 65),
    "L4": (24, 121),
    "A100": (40, 312),
    "H100": (80, 989),
    "RX 7900 XTX": (24, 123),
}


@dataclass(frozen=True)
class Setting:
    """What a training's speed and memory depend on most, on one machine."""

    base: BaseModel
    resolution: int
    dtype: str

    @property
    def is_full_size(self) -> bool:
        """Whether the base is a Stable Diffusion and no miniature, by the size of its UNet where that is a file."""
        unet = Path(self.base.id, "unet/diffusion_pytorch_model.safetensors")
        return not unet.is_file() or unet.stat().st_size > 1e9

    @property
    def path(self) -> Path:
        key = content_key(self.base.id, self.base.revision, self.resolution, self.dtype)
        return FOLDER / f"{key}.json"


@dataclass(frozen=True)
class TrainingPlan:
    """A training of `steps` steps of `batch` samples; seconds and memory_gb are None where nothing is known of them."""

    drawings: int
    steps: int
    batch: int
    seconds: float | None
    is_measured: bool  # the seconds, by the last training like this one; if not, they are computed
    memory_gb: float | None

    @property
    def epochs(self) -> float:
        return self.steps * self.batch / self.drawings

    def __str__(self) -> str:
        how = "as fast as the last one here" if self.is_measured else "computed, so within a factor of two at best"
        time = "its time is not known yet" if self.seconds is None else f"about {duration(self.seconds)} ({how})"
        memory = "" if self.memory_gb is None else f", at least {self.memory_gb:.1f} GB of memory (computed)"
        return (
            f"{self.steps} steps of {self.batch}, {self.epochs:.3g} times through {self.drawings} drawings: "
            f"{time}{memory}"
        )


def plan_training(setting: Setting, drawings: int, steps: int, batch: int, is_checkpointed: bool) -> TrainingPlan:
    """The plan of one training that learns from so many drawings, one sample at once."""
    speed, memory = measured_speed(setting), None
    is_measured = speed is not None
    if setting.is_full_size:  # of a miniature nothing is counted
        device = device_name()
        speed = speed or counted_speed(setting.resolution, device)
        memory = counted_memory(setting, is_checkpointed, device)
    return TrainingPlan(drawings, steps, batch, speed and steps * batch / speed, is_measured, memory)


def duration(seconds: float) -> str:
    """In the unit that a person would use."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"


def device_name() -> str:
    """What this machine trains on: a card by its driver's name, Apple's GPU or CPU."""
    import torch  # takes a second

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "Apple's GPU" if torch.backends.mps.is_available() else "CPU"


def peak(device: str) -> float | None:
    """The card's TFLOP/s by the vendor; None for one that the table lacks."""
    words = f" {device.replace('-', ' ')} "
    return next((tflops for name, (_, tflops) in CARDS.items() if f" {name} " in words), None)


def counted_speed(resolution: int, device: str) -> float | None:
    """Pictures a second of a training at full size, computed; None for a card that is not in the table."""
    on_card = peak(device)
    reached = CPU_CORE * (os.cpu_count() or 1) if device == "CPU" else on_card and REACHED * on_card
    return reached and reached / (TFLOP * (resolution / 512) ** 2)


def counted_memory(setting: Setting, is_checkpointed: bool, device: str) -> float:
    """GB that a training at full size takes with one sample at once; float32, as on a CPU, takes twice as much."""
    kept = CHECKPOINTED if is_checkpointed else ACTIVATIONS
    in_float32 = setting.dtype == "float32" or device == "CPU"
    return OVERHEAD + (WEIGHTS + kept * (setting.resolution / 512) ** 2) * (2 if in_float32 else 1)


def record_speed(setting: Setting, steps: int, batch: int, seconds: float) -> None:
    """Keep how fast a training was, its measuring included, for the plan of the next one like it."""
    if steps < FEWEST_STEPS:
        return
    setting.path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(setting.path) as partial:
        partial.write_text(json.dumps({"pictures_per_second": steps * batch / seconds}), encoding="utf-8", newline="\n")


def measured_speed(setting: Setting) -> float | None:
    """Pictures a second of the last training like this one on this machine; None if there was none."""
    path = setting.path
    return json.loads(path.read_text(encoding="utf-8"))["pictures_per_second"] if path.is_file() else None
