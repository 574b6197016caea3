"""LoRA weights in kohya's key format, which ComfyUI and A1111 read; adapter_files.py reads it.

PEFT: `unet.down_blocks.0.….attn1.to_q.lora_A.weight`. Kohya: `lora_unet_down_blocks_0_…_attn1_to_q.lora_down.weight`
and a scalar `.alpha`, without which readers take a scale of 1.
"""

import torch
from torch import Tensor

from tattoo_lora.errors import UserError

UNET, TEXT_ENCODER = ("unet.", "lora_unet_"), ("text_encoder.", "lora_te_text_model_")
PARTS = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


def kohya_name(module: str) -> str:
    """`lora_unet_down_blocks_0_…` for PEFT's `unet.down_blocks.0.…`."""
    for prefix, kohya_prefix in (UNET, TEXT_ENCODER):
        if module.startswith(prefix):
            return kohya_prefix + module.removeprefix(prefix).removeprefix("text_model.").replace(".", "_")
    raise UserError(f"{module}: neither of the UNet nor of the text encoder")


def to_kohya(tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Kohya's keys for PEFT's, the tensors as they are; one alpha a module, the scale times its rank."""
    converted = {}
    for key, tensor in tensors.items():
        part = next((part for part in PARTS if key.endswith(f".{part}")), None)
        if part is None:
            raise UserError(f"{key}: the kohya format has no place for it")
        name = kohya_name(key.removesuffix(f".{part}"))
        converted[f"{name}.{PARTS[part]}"] = tensor
        rank = tensor.shape[0 if part == "lora_A.weight" else 1]
        converted[f"{name}.alpha"] = torch.tensor(scale * rank)
    return converted
