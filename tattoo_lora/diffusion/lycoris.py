"""LoHa and LoKr, LyCORIS' adapters (https://github.com/KohakuBlueleaf/LyCORIS), as the LoRA of the same effect.

Both change a weight by a product of two small matrices' products: elementwise in LoHa, Kronecker's in LoKr. Its rank is
the product of their ranks, so a LoRA of that rank is the same change, exactly.
"""

import torch
from torch import Tensor


def as_lora(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """down (R, in, …), up (out, R) and alpha of a layer that may be a LoHa's or LoKr's; others stay as they are."""
    if any(role.startswith("hada_") for role in layer):
        return _lora(layer, _hada(layer, 1), _hada(layer, 2), _elementwise)
    if any(role.startswith("lokr_") for role in layer):
        return _lora(layer, _kron(layer, 1), _kron(layer, 2), _kronecker)
    return layer


def _lora(layer: dict[str, Tensor], one: tuple, other: tuple, product) -> dict[str, Tensor]:
    down, up = product(*one[:2], *other[:2])
    # What alpha is divided by: None if no matrix is factored, and then alpha does not count.
    own_rank = one[2] or other[2]
    scale = layer["alpha"].item() / own_rank if own_rank and "alpha" in layer else 1.0
    return {"down": down, "up": up, "alpha": torch.tensor(scale * down.shape[0])}


def _hada(layer: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, int]:
    """up (out, r), down (r, in x kernel) and r of one of the two factors."""
    a, b, t = (layer.get(f"hada_{part}") for part in (f"w{number}_a", f"w{number}_b", f"t{number}"))
    if t is not None:  # Tucker's: a (r, out), b (r, in), and a core (r, r, h, w)
        return a.T, torch.einsum("ijhw,jn->inhw", t, b).flatten(1), b.shape[0]
    return a, b, b.shape[0]


def _kron(layer: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, int | None]:
    """up (c, r), down (r, d, kernel) and r of one of the two factors; the r of a whole matrix is None."""
    whole, a, b, t = (
        layer.get(f"lokr_{part}") for part in (f"w{number}", f"w{number}_a", f"w{number}_b", f"t{number}")
    )
    if whole is not None:
        return torch.eye(whole.shape[0]), whole.reshape(*whole.shape[:2], -1), None
    if t is not None:
        return a.T, torch.einsum("ijhw,jn->inhw", t, b).flatten(2), b.shape[0]
    return a, b.reshape(b.shape[0], b.shape[1], -1), b.shape[0]


def _elementwise(up1: Tensor, down1: Tensor, up2: Tensor, down2: Tensor) -> tuple[Tensor, Tensor]:
    up = torch.einsum("or,os->ors", up1, up2).flatten(1)
    return torch.einsum("ri,si->rsi", down1, down2).flatten(0, 1), up


def _kronecker(up1: Tensor, down1: Tensor, up2: Tensor, down2: Tensor) -> tuple[Tensor, Tensor]:
    down = torch.einsum("rbj,sdk->rsbdjk", down1, down2)
    return down.flatten(0, 1).flatten(1), torch.kron(up1, up2.contiguous())
