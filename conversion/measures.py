"""What is said of an object's mask: its volume and its extent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conversion.masks import renumber
from inference.geometry import Box


def measure(labels: NDArray[np.unsignedinteger], ids: Sequence[int]) -> dict[int, tuple[int, Box]]:
    """Counts voxels, and finds the box around them.

    Args:
        labels: (D, H, W) label map.
        ids: its labels, ascending; some may have no voxel.

    Returns:
        label -> voxels and box, for those that have any.
    """
    from inference.geometry import label_extents  # With torch, which takes seconds.

    numbered = labels if labels.dtype == np.uint8 else renumber(labels, ids)
    names = range(256) if numbered is labels else (0, *ids)
    none = np.zeros(256, np.int64)
    counts = sum((np.bincount(plane.ravel(), minlength=256) for plane in numbered), none)
    return {names[index]: (int(counts[index]), box) for index, box in label_extents(numbered).items()}


def measure_changes(
    before: NDArray[np.unsignedinteger], after: NDArray[np.unsignedinteger], ids: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """Counts the voxels that each object gained and lost from one label map to the next, both (D, H, W).

    Returns:
        label -> gained and lost, for all ``ids``.
    """
    changes = dict.fromkeys(ids, (0, 0))
    differs = before != after
    for place, labels in enumerate((after[differs], before[differs])):
        for label, count in zip(*np.unique(labels, return_counts=True)):
            if label in changes:
                gained, lost = changes[label]
                changes[label] = (int(count), lost) if place == 0 else (gained, int(count))
    return changes


def describe(voxels: int, box: Box, spacing: tuple[float, float, float], change: str = "") -> str:
    """A line of an object's volume, voxels times the volume of one, and of the extent of the box around it.

    Args:
        spacing: millimetres along z, y, x.
        change: what is said beside the number of voxels.
    """
    millimetres = " × ".join(_rounded(n * s) for n, s in zip(box.size, spacing))
    sizes = "×".join(map(str, box.size))
    volume = voxels * math.prod(spacing)
    shown = f"{_rounded(volume / 1000)} ml" if volume >= 1 else f"{volume:.3g} mm³"
    return f"{shown} ({voxels} voxels{change}), extent {millimetres} mm ({sizes} voxels, z×y×x)"


def _rounded(value: float) -> str:
    """Three digits that count, and all those before the point."""
    decimals = max(2 - math.floor(math.log10(value)), 0)
    return f"{value:.{decimals}f}"
