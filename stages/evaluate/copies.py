"""Find pictures that copy a training drawing: nobody should be handed another artist's flash.

Two measures of nearness, each over all training drawings and their mirror images: the correlation of the pictures in
grey at 32 x 32 px, which sees the same lines in the same places, and the cosine of CLIP's image embeddings, which sees
the same motif drawn the same way. A picture is flagged where either is above its threshold.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SIDE = 32  # px at which pictures are compared


@dataclass(frozen=True)
class Nearest:
    """The nearest training drawing of each of P pictures: its row (P,) and how near it is, -1 to 1 (P,)."""

    rows: Tensor
    similarity: Tensor


def pixel_embeds(images: list[Image.Image]) -> Tensor:
    """(B, SIDE^2) of mean 0 and length 1: products are the pictures' correlations. Zero for a picture of one grey."""
    small = [image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX) for image in images]
    grey = torch.from_numpy(np.stack([np.asarray(image) for image in small])).flatten(1).float()
    return torch.nn.functional.normalize(grey - grey.mean(dim=1, keepdim=True), dim=1)


def with_mirrored(images: list[Image.Image]) -> list[Image.Image]:
    """The images, then their mirror images."""
    return [*images, *(ImageOps.mirror(image) for image in images)]


def nearest(pictures: Tensor, drawings: Tensor) -> Nearest:
    """For embeddings of length 1: (P, D) of P pictures and (N, 2, D) of N drawings and their mirror images."""
    similarity, rows = (pictures @ drawings.flatten(0, 1).T).max(dim=1)
    return Nearest(rows // 2, similarity)
