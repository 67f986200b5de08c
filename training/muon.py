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

    As PyTorch's fused optimizers, a step looks at the attribute ``found_inf`` where there is one: a float32 tensor
    without axes, on the parameters' device. If it is 1 the step changes nothing; the gradients must be 0 then.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(  # ty: ignore[incompatible-method-override]  # Typed as torch types its own optimizers.
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def _update(self, parameters: list[Tensor], rate: float, weight_decay: float, momentum: float) -> None:
        """Updates all parameters with few operations, since on a GPU each costs the same for any size."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
        taken = 1 - getattr(self, "found_inf", torch.zeros((), device=parameters[0].device))
        torch._foreach_mul_(momenta, 1 - (1 - momentum) * taken)
        torch._foreach_add_(momenta, gradients, alpha=1 - momentum)
        directions = torch._foreach_lerp(gradients, momenta, momentum)
        matrices = [direction.flatten(1) for direction in directions]
        scales = [0.2 * math.sqrt(max(matrix.shape)) for matrix in matrices]
        updates = all_orthogonalized(matrices, scales, taken)
        torch._foreach_mul_(parameters, 1 - rate * weight_decay * taken)
        updates = [update.view(parameter.shape) for update, parameter in zip(updates, parameters)]
        torch._foreach_add_(parameters, updates, alpha=-rate)


def all_orthogonalized(matrices: list[Tensor], scales: list[float], taken: Tensor) -> list[Tensor]:
    """Returns :func:`orthogonalized` of each matrix times its scale; 0 where ``taken``, without axes, is 0.

    Those of one shape are computed together. On a GPU so are those with equally many rows: zeros fill the shorter ones
    up, which change nothing but take time, of which a GPU has more than of launches.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, matrix in enumerate(matrices):
        rows, columns = sorted(matrix.shape)
        groups.setdefault((rows,) if matrix.is_cuda else (rows, columns), []).append(place)
    results: dict[int, Tensor] = {}
    for (rows, *_), places in groups.items():
        wide = [matrices[place].T if len(matrices[place]) > rows else matrices[place] for place in places]
        widest = max(matrix.shape[1] for matrix in wide)
        stack = wide[0].new_zeros(len(wide), rows, widest)
        for filled, matrix in zip(stack, wide):
            filled[:, : matrix.shape[1]] = matrix
        stack = orthogonalized(stack, taken)
        for place, matrix, filled in zip(places, wide, stack):
            narrow = filled[:, : matrix.shape[1]]
            results[place] = narrow.T if len(matrices[place]) > rows else narrow
    ordered = [results[place] for place in range(len(matrices))]
    torch._foreach_mul_(ordered, scales)
    return ordered


def orthogonalized(stack: Tensor, taken: Tensor | float = 1.0) -> Tensor:
    """(…, A, B), A ≤ B -> about U Vᵀ of their singular value decompositions U S Vᵀ, by Newton and Schulz's iteration.

    In single precision: bfloat16 would change the update by two or three hundredths of its length, and save little
    time, since the matrices are small beside what a forward multiplies.
    """
    wide = stack * (taken / torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True).clamp_min(1e-7))
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide


def inner_kernels(network: ResidualEncoderUNet) -> list[nn.Parameter]:
    """The kernels that Muon is for: all but those that see the input or give the output."""
    outer = {id(p) for module in (network.encoder.stem, network.decoder.seg_layers) for p in module.parameters()}
    return [p for p in network.parameters() if p.ndim == 5 and id(p) not in outer]


@torch.no_grad()
def rescale_kernels(network: ResidualEncoderUNet) -> None:
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
