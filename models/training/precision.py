"""How forward passes compute: in bfloat16 and with plain attention, where each was faster as tried."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def autocast(bfloat16: bool) -> Iterator[None]:
    """The context for a forward pass: bfloat16 if wanted and the processor has instructions for it, else float32.

    Without them bfloat16 is emulated, many times slower. Attention is two matrix products: over 64 places or
    24 tokens the processor's flash attention took a third of a UNet's step, nearly all in its backward pass.
    """
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16 and supported):
        yield
