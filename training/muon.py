"""Muon, an optimizer for matrices, on the kernels of convolutions.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), scaled as in Liu et al., "Muon is
scalable for LLM training" (arXiv:2502.16982), so that AdamW's learning rates suit it. PyTorch has it for parameters of
two axes only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from inference.network import ConvNorm, ResidualEncoderUNet

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial that brings all singular values near 1 in few iterations (Jordan et al.)."""

ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest matrix with orthogonal rows or columns, as the update.

    A parameter (A, B, …) is a matrix (A, B · …). The update's root mean square is 0.2, about AdamW's.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                update = orthogonalized(direction).view_as(parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-0.2 * math.sqrt(max(direction.shape)) * group["lr"])
        return loss


def orthogonalized(matrix: Tensor) -> Tensor:
    """(A, B) -> about U Vᵀ of its singular value decomposition U S Vᵀ, by Newton and Schulz's iteration."""
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if len(matrix) > matrix.shape[1] else wide


def inner_kernels(network: ResidualEncoderUNet) -> list[nn.Parameter]:
    """The kernels that Muon is for: all but those that see the input or give the output."""
    outer = {id(p) for module in (network.encoder.stem, network.decoder.seg_layers) for p in module.parameters()}
    return [p for p in network.parameters() if p.ndim == 5 and id(p) not in outer]


@torch.no_grad()
def freshen(network: ResidualEncoderUNet) -> None:
    """Brings every kernel that a normalization follows to the scale of a fresh one, in place.

    What the network computes stays the same. But such kernels grow while they are trained, and an update of a given
    size turns a kernel of five times the scale a fifth as far: a run that begins with trained weights would be slower
    the longer they were trained.
    """
    for module in network.modules():
        if isinstance(module, ConvNorm):
            weight = module.conv.weight
            # PyTorch draws them evenly from ±1 / √(numbers that a channel sums up).
            factor = 1 / math.sqrt(3 * weight[0].numel()) / weight.square().mean().sqrt().clamp_min(1e-7)
            for parameter in module.conv.parameters():
                parameter.mul_(factor)
