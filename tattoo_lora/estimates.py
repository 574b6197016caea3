"""How long a training takes and how much memory it needs, said before it starts: by the last one here, or by counting.

The counted figures are those of Stable Diffusion 1.x with adapters on attention; tests/test_estimates.py counts them
again. Times hold to a factor of two at best, because nobody knows which share of a card's peak a training reaches
before it has run there.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tattoo_lora.diffusion.hub import cpu_has_bfloat16, is_full_size
from tattoo_lora.files import replace_file
from tattoo_lora.keys import content_key
from tattoo_lora.params import BaseModel

FOLDER = Path(os.environ.get("DVC_ROOT", "."), ".scratch/speed")
FEWEST_STEPS = 20  # of a training whose speed is worth keeping

TFLOP = 1.72  # of a picture of 512 px, forward and backward with frozen weights
WEIGHTS = 1.72  # GB in half precision: the UNet
SAVED = 0.80  # GB that one picture of 512 px keeps for backward, in half precision
# GB of tensors in a training step at its peak, in half precision: fixed, and for each picture of 512 px at once.
STEP, CHECKPOINTED_STEP = (1.73, 0.83), (1.73, 0.23)
VAE, DECODING = 0.33, 0.81  # GB: the VAE in float32, and what it takes to decode one picture of 512 px
TRAFFIC = (2.89, 9.13)  # GB that a step reads and writes: fixed, and for each picture of 512 px
CHECKPOINTING = 4 / 3  # times the arithmetic and the traffic: the forward pass once more
OVERHEAD = 0.8  # GB: CUDA itself, libraries' workspaces, the adapter and its optimizer
REACHED, STREAMED = 0.2, 0.5  # shares of a card's peak and of its bandwidth that a training is taken to reach
CPU_CORE = {"CPU": 0.11, "CPU with bfloat16": 0.24}  # TFLOP/s that a training reached on each of two cores


@dataclass(frozen=True)
class Card:
    """Memory in GB, peak TFLOP/s in half precision, GB/s to and from its memory, all by the vendor."""

    memory_gb: float
    tflops: float
    bandwidth: float


CARDS = {  # by what the driver's name holds; of two cards with one name the smaller
    "GTX 1060": Card(6, 4.4, 192),  # half precision is computed in float32
    "GTX 1080 Ti": Card(11, 11.3, 484),
    "RTX 2060": Card(6, 26, 336),
    "RTX 3060": Card(12, 25, 360),
    "RTX 3070": Card(8, 41, 448),
    "RTX 3090": Card(24, 71, 936),
    "RTX 4060": Card(8, 30, 272),
    "RTX 4070": Card(12, 58, 504),
    "RTX 4090": Card(24, 165, 1008),
    "RTX 5090": Card(32, 210, 1792),
    "T4": Card(16, 65, 320),
    "L4": Card(24, 121, 300),
    "A100": Card(40, 312, 1555),
    "H100": Card(80, 989, 3350),
    "H200": Card(141, 989, 4800),
    "RX 7900 XTX": Card(24, 123, 960),
}


@dataclass(frozen=True)
class Setting:
    """What a training's speed and memory depend on most, on one machine."""

    base: BaseModel
    resolution: int
    dtype: str

    @property
    def is_full_size(self) -> bool:
        """Whether the base is a Stable Diffusion and no miniature."""
        return is_full_size(self.base)

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
        speed = speed or counted_speed(setting.resolution, device, is_checkpointed=is_checkpointed)
        in_float32 = is_float32(setting.dtype, device)
        memory = counted_memory(1, is_checkpointed, setting.resolution, in_float32, device in CPU_CORE)
    return TrainingPlan(drawings, steps, batch, speed and steps * batch / speed, is_measured, memory)


def duration(seconds: float) -> str:
    """In the unit that a person would use."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"


def device_name() -> str:
    """What this machine trains on: a card by its driver's name, Apple's GPU, or a CPU and whether it has bfloat16."""
    import torch  # takes a second

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "Apple's GPU"
    return "CPU with bfloat16" if cpu_has_bfloat16() else "CPU"


def find_card(device: str) -> Card | None:
    """The card of the table; None for one that it lacks."""
    words = f" {device.replace('-', ' ')} "
    return next((card for name, card in CARDS.items() if f" {name} " in words), None)


def counted_speed(resolution: int, device: str, samples: int = 1, is_checkpointed: bool = False) -> float | None:
    """Pictures a second of a training at full size, with so many at once; None for a card that the table lacks.

    By a roofline: what takes longer, the arithmetic or the traffic to and from the card's memory. Launches are left
    out: recorded graphs have few.
    """
    scale, again = (resolution / 512) ** 2, CHECKPOINTING if is_checkpointed else 1
    if device in CPU_CORE:
        return CPU_CORE[device] * (os.cpu_count() or 1) / (TFLOP * scale * again)
    card = find_card(device)
    if card is None:
        return None
    fixed, each = TRAFFIC
    arithmetic = samples * TFLOP * scale / (REACHED * card.tflops)
    traffic = (fixed + samples * each * scale) / (STREAMED * card.bandwidth)
    return samples / (again * max(arithmetic, traffic))


def is_float32(dtype: str, device: str) -> bool:
    """Whether a training at full size computes in float32 with the profile's dtype."""
    return dtype == "float32" or dtype == "auto" and device in ("CPU", "Apple's GPU")


def counted_memory(
    samples: int, is_checkpointed: bool, resolution: int = 512, in_float32: bool = False, on_cpu: bool = False
) -> float:
    """GB at least of a training at full size with so many pictures at once and of its evaluations, margin included."""
    fixed, each = CHECKPOINTED_STEP if is_checkpointed else STEP
    scale = (resolution / 512) ** 2
    step = (fixed + samples * each * scale) * (2 if in_float32 else 1)
    evaluation = WEIGHTS * (2 if in_float32 or on_cpu else 1) + VAE + DECODING * scale
    return OVERHEAD + max(step, evaluation)


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
