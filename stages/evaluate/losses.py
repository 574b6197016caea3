"""The losses on held-out drawings, as means and as a table."""

import math
from collections.abc import Sequence

from torch import Tensor

from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.validation import BANDS, band


def mean_losses(own: Tensor, common: Tensor, timesteps: Sequence[int], num_train_timesteps: int) -> dict[str, float]:
    """val_loss, the same with the common caption, and val_loss by band, nan for a band without a timestep.

    own, common (N, K): the losses of N drawings at K timesteps, with each one's own caption and with the common one.
    """
    bands = [band(timestep, num_train_timesteps) for timestep in timesteps]
    means = {"val_loss": own.mean().item(), "val_loss_common": common.mean().item()}
    for name in BANDS:
        columns = [k for k, timestep_band in enumerate(bands) if timestep_band == name]
        means[f"val_loss_{name}"] = own[:, columns].mean().item() if columns else math.nan
    return means


def loss_rows(held_out: Sequence[Drawing], timesteps: Sequence[int], own: Tensor, common: Tensor) -> list[dict]:
    """A row for each of N drawings and K timesteps, of losses (N, K)."""
    return [
        {"file": drawing.file, "timestep": t, "val_loss": own[n, k].item(), "val_loss_common": common[n, k].item()}
        for n, drawing in enumerate(held_out)
        for k, t in enumerate(timesteps)
    ]
