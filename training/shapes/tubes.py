"""Tubes: trees, bundles and nets."""

from __future__ import annotations

import math

import numpy as np
import torch

from training.noise import smooth_noise
from training.shapes.fields import Scene, Shape, distance_to_zero, log_uniform, profile, scene_of

STEP = 0.5
"""Voxels between the points of a path."""


def _path(start: np.ndarray, direction: np.ndarray, length: float, curl: float, random: np.random.Generator):
    """A random walk: its points, and its directions (each (n, 3))."""
    steps = max(int(length / STEP), 2)
    turns = np.cumsum(random.standard_normal((steps, 3)) * curl, axis=0)
    directions = direction + turns
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-6
    return start + np.cumsum(directions, axis=0) * STEP, directions


def _paint(mask: np.ndarray, points: np.ndarray, radii: np.ndarray) -> None:
    """Sets the voxels within each point's radius, and the voxel that it lies in, whatever its radius."""
    shape = np.array(mask.shape)
    reach = np.ceil(radii).astype(int)
    for r in np.unique(reach):
        chosen = reach == r
        # Thick tubes need fewer points.
        centres, limits = points[chosen][:: max(int(r), 1)], radii[chosen][:: max(int(r), 1)]
        base = np.rint(centres).astype(np.int32)
        offsets = np.indices((2 * r + 1,) * 3).reshape(3, -1).T.astype(np.int32) - r
        rest = (base - centres).astype(np.float32)
        away = np.square(offsets[None].astype(np.float32) + rest[:, None]).sum(axis=-1)
        inside = (away <= np.square(limits)[:, None]) | (offsets == 0).all(axis=1)[None]
        which, offset = np.nonzero(inside)
        voxels = base[which] + offsets[offset]
        voxels = voxels[((voxels >= 0) & (voxels < shape)).all(axis=1)]
        mask[tuple(voxels.T)] = True


def direction_of(random: np.random.Generator) -> np.ndarray:
    direction = random.standard_normal(3)
    return direction / np.linalg.norm(direction)


def tree(shape: Shape, random: np.random.Generator) -> Scene:
    """A tube that tapers and branches, or does not: a vessel, an airway, a dendrite."""
    edge, mask = float(np.mean(shape)), np.zeros(shape, bool)
    most = int(log_uniform(1, 40, random))
    thin = random.random() < 0.6
    radius = log_uniform(0.6, 1.6 if thin else 0.07 * edge, random)
    curl = float(random.uniform(0.01, 0.12)) * math.sqrt(48 / edge)
    taper = float(random.uniform(0.5, 1.0))
    direction = direction_of(random)
    start = np.array(shape) / 2 - direction * edge * random.uniform(0.25, 0.5)
    waiting = [(start, direction, edge * random.uniform(0.5, 1.0), radius)]
    drawn = 0
    while waiting and drawn < most:
        start, direction, length, radius = waiting.pop(0)
        points, directions = _path(start, direction, length, curl, random)
        radii = np.linspace(radius, max(radius * taper, 0.6), len(points))
        _paint(mask, points, radii)
        drawn += 1
        for _ in range(int(random.integers(1, 4))):
            place = int(len(points) * random.uniform(0.2, 0.95))
            aside = directions[place] + random.uniform(0.5, 1.5) * direction_of(random)
            aside /= np.linalg.norm(aside) + 1e-6
            child = max(radii[place] * random.uniform(0.5, 0.9), 0.6)
            waiting.append((points[place], aside, length * random.uniform(0.35, 0.8), child))
    return scene_of(torch.from_numpy(mask))


def bundle(shape: Shape, random: np.random.Generator) -> Scene:
    """Thin tubes side by side, from one place or in parallel: rootlets, fibres, muscles. All are the object, or one."""
    edge = float(np.mean(shape))
    count = int(random.integers(3, 16))
    radius = log_uniform(0.6, 0.04 * edge, random)
    direction, curl = direction_of(random), float(random.uniform(0.0, 0.04)) * math.sqrt(48 / edge)
    spread, fan = edge * random.uniform(0.08, 0.3), random.uniform(0, 0.35)
    tubes = np.zeros((count, *shape), bool) if random.random() < 0.3 else None
    mask = np.zeros(shape, bool)
    for index in range(count):
        start = np.array(shape) / 2 - direction * edge * random.uniform(0.3, 0.45)
        start += random.standard_normal(3) * spread
        points, _ = _path(
            start, direction + fan * random.standard_normal(3), edge * random.uniform(0.5, 0.9), curl, random
        )
        _paint(mask if tubes is None else tubes[index], points, np.full(len(points), radius * random.uniform(0.8, 1.2)))
    if tubes is None:
        return scene_of(torch.from_numpy(mask))
    one = tubes[int(np.argmax(tubes.sum(axis=(1, 2, 3))))]
    return Scene(torch.from_numpy(tubes.any(axis=0)).to(torch.uint8), torch.from_numpy(one))


def tangle(shape: Shape, random: np.random.Generator) -> Scene:
    """A net of thin tubes, where two level sets of noise cross: microvessels, trabeculae."""
    cells = int(random.integers(4, 9))
    first, second = (distance_to_zero(smooth_noise(shape, cells, random)) for _ in range(2))
    radius = log_uniform(0.8, 2.0, random)
    mask = first.square_().add_(second.square_()) <= radius**2
    if random.random() < 0.7:
        mask &= profile(shape, random) > 0
    return scene_of(mask)
