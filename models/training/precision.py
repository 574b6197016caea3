"""Mixed precision where the machine computes in bfloat16; elsewhere it would be emulated, many times slower."""

import torch


def autocast(device: str) -> torch.autocast:
    """The context for a forward pass: bfloat16 on a GPU or a CPU with instructions for it, else float32."""
    native = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=native)
