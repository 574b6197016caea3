"""The corpus that draw_corpus.py drew, and pictures cut out of it.

A master holds its drawing BOX px wide or high in the middle; `views` cuts pictures out of it, always smaller, so
that moving and scaling a drawing never blurs a line.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from recipe import WORK
from safetensors.torch import load_file
from torch import Tensor

RESOLUTION = 128
MASTER, BOX = 200, 150
MARGIN = 0.06  # of the drawing's side, on each side: as the preprocess stage frames a drawing
WIDEST = 0.16  # of the views that are moved


@dataclass(frozen=True)
class Row:
    """What one master shows. `subject`: a sample drawing's name, None for other things, which have a `name` at most.

    `held_out`: the pipeline holds the line art of this very drawing out, so no model may learn it.
    """

    hand: str
    name: str | None
    subject: bool
    held_out: bool
    paint: str | None = None


@dataclass(frozen=True)
class Corpus:
    """`color`, `painted`: (N, MASTER, MASTER, 3) uint8. `line`: (N, MASTER, MASTER) uint8. And what their rows show."""

    color: Tensor
    painted: Tensor
    line: Tensor
    rows: dict[str, list[Row]]
    names: list[str]
    tags: list[list[str]]
    subjects: list[str]


def load_corpus(folder: Path = WORK / "corpus") -> Corpus:
    """The corpus that draw_corpus.py wrote; FileNotFoundError before it ran."""
    arrays = load_file(folder / "drawings.safetensors")
    table = json.loads((folder / "drawings.json").read_text(encoding="utf-8"))
    rows = {key: [Row(**row) for row in table[key]] for key in ("color", "painted", "line")}
    return Corpus(**arrays, rows=rows, names=table["names"], tags=table["tags"], subjects=table["subjects"])


def load_unseen(folder: Path = WORK / "corpus") -> tuple[Tensor, list[Row]]:
    """Line art of the hands that no model is trained on, (N, MASTER, MASTER) uint8; for measure.py alone."""
    table = json.loads((folder / "drawings.json").read_text(encoding="utf-8"))
    return load_file(folder / "unseen.safetensors")["line"], [Row(**row) for row in table["unseen"]]


def views(masters: Tensor, generator: torch.Generator | None = None, resolution: int = RESOLUTION) -> Tensor:
    """Pictures (B, 3, resolution, resolution) in [-1, 1] of masters (B, MASTER, MASTER[, 3]) uint8.

    Without a generator each is framed as the preprocess stage frames a drawing; with one it is moved and scaled.
    """
    pictures = []
    for master in masters:
        pixels = master[..., None].expand(-1, -1, 3) if master.ndim == 2 else master
        pixels = pixels.permute(2, 0, 1).float()
        if generator is None:
            side, top, left = round(BOX * (1 + 2 * MARGIN)), 0.5, 0.5
        else:
            share, top, left = torch.rand(3, generator=generator).tolist()
            side = round(BOX * (1 + 2 * (0.02 + (WIDEST - 0.02) * share)))
        # The drawing stays inside: what a view moves by is its own margin at most.
        start = (MASTER - side) // 2
        play = (side - BOX) // 2 - 1
        y, x = start + round((2 * top - 1) * play), start + round((2 * left - 1) * play)
        out = max(0, -y, -x, y + side - MASTER, x + side - MASTER)
        if out:
            pixels, y, x = F.pad(pixels, (out,) * 4, value=255), y + out, x + out
        window = pixels[None, :, y : y + side, x : x + side]
        pictures.append(F.interpolate(window, size=(resolution, resolution), mode="bilinear", antialias=True))
    return torch.cat(pictures).div_(127.5).sub_(1)


def to_uint8(pixel_values: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 of pixel_values (B, 3, H, W) in [-1, 1]."""
    return ((pixel_values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
