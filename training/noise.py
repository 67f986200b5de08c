"""Volumes: smooth noise of any scale along each axis, local means, and masks that grow."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def smooth_noise(shape: tuple[int, int, int], cells: int | tuple[int, int, int], random: np.random.Generator) -> Tensor:
    """Smooth noise of unit deviation at every voxel, about ``cells`` bumps along each axis; float32 (D, H, W)."""
    counts = (cells,) * 3 if isinstance(cells, int) else cells
    coarse = torch.from_numpy(random.standard_normal([n + 2 for n in counts], dtype=np.float32))
    along_z, along_y, along_x = (_splines(n, count) for n, count in zip(shape, counts))
    return torch.tensordot(along_z, along_y @ coarse @ along_x.T, dims=1)


@lru_cache(maxsize=256)
def _splines(n: int, cells: int) -> Tensor:
    """(n, cells + 2) weights of the random values at each voxel; their squares sum to 1, so that the deviation is 1."""
    position = torch.linspace(0.0, max(cells - 1, 1), n)
    distance = (position[:, None] - (torch.arange(cells + 2) - 1)[None]).abs()
    near = 2 / 3 - distance.square() + distance**3 / 2
    weights = torch.where(distance < 1, near, (2 - distance).clamp_min(0) ** 3 / 6)
    return weights / weights.norm(dim=1, keepdim=True)


def generator(random: np.random.Generator) -> torch.Generator:
    """A torch generator that continues a numpy one: its white noise is drawn twice as fast."""
    return torch.Generator().manual_seed(int(random.integers(2**62)))


def grown(mask: Tensor, by: int) -> Tensor:
    """What lies within a cube of ``2 * by + 1`` voxels around any voxel of a mask; bool (D, H, W)."""
    for axis, n in enumerate(mask.shape):
        wider = mask.clone()
        for shift in range(1, min(by, n - 1) + 1):
            wider.narrow(axis, shift, n - shift).logical_or_(mask.narrow(axis, 0, n - shift))
            wider.narrow(axis, 0, n - shift).logical_or_(mask.narrow(axis, shift, n - shift))
        mask = wider
    return mask


def local_mean(image: Tensor, wide: int, count_include_pad: bool = False) -> Tensor:
    """Returns the mean over ``wide`` voxels along each axis, an odd number; as avg_pool3d, but axis by axis.

    Sums of shifted copies are several times as fast as PyTorch's pooling of a single channel on a CPU.

    Args:
        count_include_pad: whether what lies beyond the faces counts as zeros, and not at all otherwise.
    """
    for axis, n in enumerate(image.shape):
        total, counts = torch.zeros_like(image), torch.zeros(n)
        for shift in range(-min(wide // 2, n - 1), min(wide // 2, n - 1) + 1):
            first, length = max(-shift, 0), n - abs(shift)
            total.narrow(axis, first, length).add_(image.narrow(axis, first + shift, length))
            counts[first : first + length] += 1
        divisor = torch.full((n,), float(wide)) if count_include_pad else counts
        image = total.div_(divisor.view([-1 if a == axis else 1 for a in range(3)]))
    return image
