"""Images and label maps of any size, for benchmarks: synthesized, or a real case repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inference.geometry import Voxel, label_extents
from inference.npz import read_array


def ellipsoids(shape: Voxel, count: int, seed: int = 0) -> np.ndarray:
    """A label map (D, H, W) uint8 of ``count`` ellipsoids at random places, the later ones over the earlier ones."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    # So large that together they fill a tenth of the volume, whatever their number.
    radius = (0.1 * 3 / (4 * np.pi) / count) ** (1 / 3)
    for label in range(1, count + 1):
        radii = [max(n * radius * rng.uniform(0.7, 1.4), 1) for n in shape]
        centre = [rng.uniform(r, n - r) for r, n in zip(radii, shape)]
        where = tuple(slice(max(int(c - r), 0), int(c + r) + 1) for c, r in zip(centre, radii))
        axes = np.ogrid[where]
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii)) <= 1
        labels[where][inside] = label
    return labels


def grey_values(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """An image (D, H, W) uint8 of objects in a background of another brightness, with noise, slice by slice."""
    rng = np.random.default_rng(seed)
    brightness = np.concatenate([[70], rng.integers(100, 230, 255)]).astype(np.float32)
    image = np.empty(labels.shape, np.uint8)
    for source, target in zip(labels, image):
        noise = rng.normal(0, 8, source.shape).astype(np.float32)
        target[...] = (brightness[source] + noise).clip(1, 255)
    return image


def repeated(path: Path, key: str, shape: Voxel) -> np.ndarray:
    """A real case's ``imgs`` or ``gts`` as uint8, repeated along each axis until it fills ``shape``.

    Raises:
        inference.npz.NpzError: the file cannot be read.
    """
    volume = read_array(path, key).astype(np.uint8)
    tiles = [-(-n // own) for n, own in zip(shape, volume.shape)]
    return np.ascontiguousarray(np.tile(volume, tiles)[tuple(slice(n) for n in shape)])


def write_objects(path: Path, image: np.ndarray, labels: np.ndarray, **others: Any) -> Path:
    """A case file with a box around each object of a label map; ``others`` are further keys, as ``prev_pred``."""
    boxes = np.array([box.entry() for box in label_extents(labels).values()])
    np.savez_compressed(path, imgs=image, spacing=np.array([3.0, 1.0, 1.0]), boxes=boxes, **others)
    return path
