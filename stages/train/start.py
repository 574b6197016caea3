"""Continuing from an adapter that exists, `train.init_from`: the training's first step is what that file does.

DVC sees the params and not such a file, so the param names its hash: another content is another param, and retrains.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tattoo_lora.data.split import file_sha256
from tattoo_lora.diffusion.adapter_files import read_adapter
from tattoo_lora.errors import UserError

KEY = "params.yaml: train.init_from"
DIGITS = 16  # of the hash, hexadecimal: as many as the param must have at least


def pinned_file(init_from: str) -> Path:
    """The file of PATH@SHA256; UserError if there is none, or its hash is not named or is another one."""
    name, at, digits = init_from.rpartition("@")
    path = Path(name if at else init_from).expanduser()
    if not path.is_file():
        raise UserError(f"{KEY}: {path}: no such file")
    sha256 = file_sha256(path)
    if not at or len(digits) < DIGITS or not sha256.startswith(digits.lower()):
        raise UserError(f"{KEY}: to begin with the file as it is now, write {name if at else init_from}@{sha256[:16]}")
    return path


def read_start(path: Path, unet: nn.Module, text_encoder: nn.Module) -> dict[str, Tensor]:
    """PEFT's keys at a scale of 1, as read_adapter gives them for models without adapters; UserError for a DoRA."""
    tensors = read_adapter(path, unet, text_encoder)
    if any("magnitude" in key for key in tensors):
        raise UserError(f"{KEY}: {path}: a DoRA, which cannot be continued; take a LoRA")
    return tensors


@torch.no_grad()
def load_start(tensors: dict[str, Tensor], unet: nn.Module, text_encoder: nn.Module | None, use_dora: bool) -> None:
    """Put the tensors into the models' fresh adapters, so that they have exactly the same effect.

    An adapter of a larger rank keeps its own beginning in the ranks that the file does not have, and B = 0 there.
    UserError if the fresh adapters lack a layer or rank that the file has.
    """
    if use_dora:
        raise UserError(f"{KEY}: a DoRA cannot begin with an adapter; set train.use_dora: false")
    models = {"unet": unet} | ({} if text_encoder is None else {"text_encoder": text_encoder})
    layers = {f"{model}.{name}": layer for model in models for name, layer in models[model].named_modules()}
    for key, down in tensors.items():
        name, _, part = key.rpartition(".lora_")
        if part != "A.weight":
            continue
        layer = layers.get(name)
        if not hasattr(layer, "lora_A"):
            raise UserError(
                f"{KEY}: the file changes {name}, which this training does not; see the profile's target_modules and "
                "train.text_encoder_lr"
            )
        fresh_down, fresh_up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        rank = len(down)
        if rank > len(fresh_down):
            raise UserError(
                f"{KEY}: the file has rank {rank} at {name}, this training {len(fresh_down)}; raise train.rank or "
                "resize the file"
            )
        fresh_down[:rank] = down.to(fresh_down)
        fresh_up[:, :rank] = (tensors[f"{name}.lora_B.weight"] / layer.scaling["default"]).to(fresh_up)
