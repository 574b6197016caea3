"""Mixed precision where it was faster as tried, and where the processor computes in bfloat16."""

import torch


def autocast(bfloat16: bool) -> torch.autocast:
    """The context for a forward pass: bfloat16 if wanted and the processor has instructions for it, else float32.

    Without them bfloat16 is emulated, many times slower.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
