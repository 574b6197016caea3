"""Muon, for a network's inner matrices and convolutions; torch's own takes matrices alone, one after another."""

import torch
from torch import Tensor, nn

# Newton and Schulz's iteration in five steps of degree five, as in https://kellerjordan.github.io/posts/muon/.
STEPS, A, B, C = 5, 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Steps along the momentum with all its singular values brought near 1.

    A convolution's weight (O, I, H, W) is taken as a matrix (O, H * W * I). Matrices of one shape are computed at once:
    one after another took three times as long. The rate is AdamW's: a step's root mean square is 0.2 * lr, as in
    https://arxiv.org/abs/2502.16982.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                shapes.setdefault(as_matrix(parameter).shape, []).append(parameter)
            grads = [parameter.grad for parameter in group["params"]]
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in group["params"]]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            torch._foreach_lerp_(grads, buffers, group["momentum"])  # Nesterov's
            torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
            for shape, parameters in shapes.items():
                updates = orthogonalize(torch.stack([as_matrix(parameter.grad) for parameter in parameters]))
                rate = 0.2 * group["lr"] * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    as_matrix(parameter).sub_(update, alpha=rate)


def as_matrix(tensor: Tensor) -> Tensor:
    """A view (O, N) of a matrix, or of a convolution's weight (O, I, H, W) with its channels last in memory."""
    return tensor.permute(0, *range(2, tensor.ndim), 1).view(len(tensor), -1)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Matrices (B, M, N) with their singular values brought to between 0.7 and 1.2, in bfloat16."""
    x = matrices.bfloat16()
    wide = x if x.shape[1] <= x.shape[2] else x.mT.contiguous()
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), wide, beta=A)
    return wide if x.shape[1] <= x.shape[2] else wide.mT
