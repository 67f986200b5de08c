"""What shapes are made of: a scene, turned coordinates, distances and irregular balls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.noise import smooth_noise

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """An object among other structures, without an image.

    Args:
        labels: (D, H, W) uint8, structures by their likeness, which decides how they look; 0 for the background.
        truth: (D, H, W) bool, the object. What else looks like it has its label, and is not in ``truth``.
    """

    labels: Tensor
    truth: Tensor


def scene_of(mask: Tensor, labels: Tensor | None = None) -> Scene:
    return Scene(mask.to(torch.uint8) if labels is None else labels, mask)


def _rotation(random: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(random.standard_normal((3, 3)))[0].astype(np.float32)


def coordinates(shape: Shape, random: np.random.Generator) -> tuple[list[Tensor], float]:
    """Three coordinates in voxels along random axes from about the patch's centre, and half the patch's mean edge."""
    rotation = _rotation(random)
    axes = []
    for axis, n in enumerate(shape):
        centre = (n - 1) / 2 + n * random.uniform(-0.12, 0.12)
        view = [-1 if axis == other else 1 for other in range(3)]
        axes.append((torch.arange(n, dtype=torch.float32) - centre).view(view))
    turned = [float(a) * axes[0] + float(b) * axes[1] + float(c) * axes[2] for a, b, c in rotation]
    return turned, float(np.mean(shape)) / 2


def distance_to_zero(field: Tensor) -> Tensor:
    """About how far, in voxels, each voxel is from the field's zero level; signed."""
    squared = torch.full_like(field, 1e-8)
    for axis, n in enumerate(field.shape):
        inner = (field.narrow(axis, 2, n - 2) - field.narrow(axis, 0, n - 2)).square_()
        squared.narrow(axis, 1, n - 2).add_(inner, alpha=0.25)
        for edge, inside in ((0, 1), (n - 1, n - 2)):
            difference = field.narrow(axis, edge, 1) - field.narrow(axis, inside, 1)
            squared.narrow(axis, edge, 1).add_(difference.square_())
    return field / squared.sqrt_()


def profile(shape: Shape, random: np.random.Generator, roughness: float | None = None) -> Tensor:
    """A field above 0 in an irregular ball of a third to most of the patch, about 1 in its middle."""
    (u, v, w), half = coordinates(shape, random)
    a, b, c = half * np.exp(random.uniform(math.log(0.35), math.log(0.85), 3))
    if roughness is None:
        roughness = float(random.uniform(0, 0.4))
    field = 1 - ((u / a).square() + (v / b).square() + (w / c).square()).sqrt_()
    return field.add_(smooth_noise(shape, int(random.integers(3, 8)), random), alpha=roughness)


def log_uniform(low: float, high: float, random: np.random.Generator) -> float:
    """As often between 1 and 2 as between 2 and 4; ``low`` where ``high`` is less, in small patches."""
    return math.exp(random.uniform(math.log(low), math.log(max(low, high))))


def thickness(random: np.random.Generator) -> float:
    return log_uniform(1.0, 4.0, random)
