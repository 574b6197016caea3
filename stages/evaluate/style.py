"""How near pictures are to the drawings as a set, how much they differ among themselves, and from the base's.

All by CLIP's image embeddings.
"""

from collections.abc import Callable

import safetensors.torch
import torch
from torch import Tensor

from tattoo_lora.memo import Memo

BANDWIDTH, SCALE = 10.0, 1000.0  # CMMD's, https://arxiv.org/abs/2401.09603


def style_distances(pictures: Tensor, drawings: Tensor) -> Tensor:
    """Each picture's share (P,) in CMMD, 1000 times the squared MMD of a Gaussian kernel: their mean is CMMD.

    pictures (P, D), drawings (N, D), of length 1. The estimate is the unbiased one, so that few drawings of the same
    hand are at 0. The share is the mean and the picture's influence on it, so that intervals over shares hold for CMMD.
    """
    one, other = pictures.double(), drawings.double()
    among, target, between = _to_others(one), _to_others(other), _kernel(one, other).mean(dim=1)
    return SCALE * (2 * (among - between) - among.mean() + target.mean())


def _to_others(embeds: Tensor) -> Tensor:
    """Each one's mean kernel (N,) with the others of N; of a single one that with itself."""
    kernel, count = _kernel(embeds, embeds), len(embeds)
    return (kernel.sum(dim=1) - kernel.diagonal()) / (count - 1) if count > 1 else kernel[0]


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(one, other).square() / (2 * BANDWIDTH**2))


def vendi_score(pictures: Tensor) -> float:
    """How many different pictures the P pictures (P, D) amount to: 1 if all are the same, P if none are alike.

    The exponential of the entropy of the eigenvalues of their cosines' matrix, divided by P:
    https://arxiv.org/abs/2210.02410
    """
    embeds = pictures.double()
    shares = torch.linalg.eigvalsh(embeds @ embeds.T / len(embeds)).clamp(min=0)
    return torch.special.entr(shares).sum().exp().item()


def kept_embeds(key: str, embed: Callable[[], Tensor]) -> Tensor:
    """The embeddings with that key, of pictures that the base draws: `embed` gives them to the first who asks."""
    memo = Memo("base_pictures")
    kept = memo.read(key, ".safetensors")
    if kept is None:
        memo.write(key, ".safetensors", kept := safetensors.torch.save({"embeds": embed()}))
    return safetensors.torch.load(kept)["embeds"]
