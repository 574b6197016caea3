"""The losses on drawings, as means and as a table."""

import math
from collections.abc import Sequence

from torch import Tensor

from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.validation import BANDS, band


def mean_losses(own: Tensor, common: Tensor, timesteps: Sequence[int], num_train_timesteps: int) -> dict[str, float]:
    """test_loss, the same with the common caption, and test_loss by band, nan for a band without a timestep.

    own, common (N, K): the losses of N test drawings at K timesteps, each with its own caption and the common one.
    """
    bands = [band(timestep, num_train_timesteps) for timestep in timesteps]
    means = {"test_loss": own.mean().item(), "test_loss_common": common.mean().item()}
    for name in BANDS:
        columns = [k for k, timestep_band in enumerate(bands) if timestep_band == name]
        means[f"test_loss_{name}"] = own[:, columns].mean().item() if columns else math.nan
    return means


def loss_rows(drawings: Sequence[Drawing], timesteps: Sequence[int], own: Tensor, common: Tensor) -> list[dict]:
    """A row for each of N drawings and K timesteps, of losses (N, K); common (M, K) of the first M of them alone."""
    return [
        {"file": drawing.file, "split": drawing.split, "timestep": t, "loss": own[n, k].item()}
        | {"loss_common": common[n, k].item() if n < len(common) else ""}
        for n, drawing in enumerate(drawings)
        for k, t in enumerate(timesteps)
    ]
