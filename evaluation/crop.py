"""The smallest box around a mask: components, distances and scores are computed inside it only."""

import numpy as np
from numpy.typing import NDArray

BoxSlices = tuple[slice, slice, slice]


def bounding_box(mask: NDArray[np.bool_]) -> BoxSlices | None:
    """Return the slices (z, y, x) of the smallest box around a (D, H, W) mask's true voxels; `None` without any."""
    box = [slice(None)] * 3
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if occupied.size == 0:
            return None
        box[axis] = slice(int(occupied[0]), int(occupied[-1]) + 1)
    return tuple(box)
