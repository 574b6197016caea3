"""How forward passes compute: in bfloat16, with attention as was faster; the base's on a GPU where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the base; the other models take an hour on a CPU


@contextmanager
def autocast(bfloat16: bool, device: str = "cpu") -> Iterator[None]:
    """The context for a forward pass: bfloat16 if wanted and the processor has instructions for it, else float32.

    Without them bfloat16 is emulated, many times slower. On a CPU attention is two matrix products: over 64 places or
    24 tokens the processor's flash attention took a third of a UNet's step, nearly all in its backward pass.
    """
    if device == "cuda":
        with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16, cache_enabled=False):  # as CUDA graphs need it
            yield
        return
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16 and supported):
        yield


def to_device(tensor: Tensor) -> Tensor:
    """The tensor on DEVICE; nothing waits for the copy."""
    return tensor.pin_memory().to(DEVICE, non_blocking=True) if DEVICE == "cuda" else tensor


def as_cuda_graphs(module: nn.Module, arguments: tuple[Tensor, ...], bfloat16: bool) -> nn.Module:
    """On a GPU the module with its passes as CUDA graphs, for arguments of these shapes; on a CPU the module itself.

    So small a UNet else spends its time on launches.
    """
    if DEVICE == "cpu":
        return module
    with autocast(bfloat16, DEVICE):
        return torch.cuda.make_graphed_callables(module, arguments, allow_unused_input=True)
