"""LoRA adapters of the UNet: added, saved and loaded in diffusers' safetensors format."""

import json
import os
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from tattoo_lora.errors import UserError


def add_lora(
    unet: UNet2DConditionModel, rank: int, alpha: float, target_modules: list[str], seed: int
) -> list[torch.nn.Parameter]:
    """Add a fresh adapter to the frozen UNet; its float32 parameters.

    LoRA (https://arxiv.org/abs/2106.09685): B starts at zero, so the untrained adapter changes nothing.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # peft draws A from the global generator
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=target_modules, init_lora_weights="gaussian")
        unet.add_adapter(config)
    lora_params = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in lora_params:
        parameter.data = parameter.data.float()  # in half precision small steps would round to nothing
    return lora_params


def save_lora(path: Path, unet: UNet2DConditionModel) -> None:
    """Write the UNet's adapter, atomically, readable by `load_lora_weights`."""
    config = unet.peft_config["default"]
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    tensors = {f"unet.{key}": tensor.detach().float().cpu().contiguous() for key, tensor in state.items()}
    # Only what every peft version knows. One metadata key: safetensors writes several in random order.
    metadata = {
        "unet.r": config.r,
        "unet.lora_alpha": config.lora_alpha,
        "unet.target_modules": sorted(config.target_modules),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"lora_adapter_metadata": json.dumps(metadata, sort_keys=True)})
    os.replace(partial, path)


def load_lora(pipeline: StableDiffusionPipeline, path: Path) -> None:
    """Load the adapter into the pipeline's UNet; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro train`")
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
