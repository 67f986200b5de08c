"""Voxels and boxes of them: what a challenge file says of a box, and the boxes around what a label map holds.

Axis order is (z, y, x) throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np

Voxel = tuple[int, int, int]

T = TypeVar("T")

_LOWER_KEYS = ("z_min", "z_mid_y_min", "z_mid_x_min")
_UPPER_KEYS = ("z_max", "z_mid_y_max", "z_mid_x_max")


def three(values: Iterable[T]) -> tuple[T, T, T]:
    """Returns three values, one for each axis, as a tuple.

    Unlike ``tuple`` it tells a type checker, and whoever calls it wrongly, that there are three.

    Raises:
        ValueError: there are more or fewer.
    """
    z, y, x = values
    return z, y, x


def voxel(values: Iterable[int]) -> Voxel:
    """Returns (z, y, x) of three whole numbers, numpy's too, as Python's.

    Raises:
        ValueError: there are more or fewer.
    """
    return three(int(v) for v in values)


@dataclass(frozen=True)
class Box:
    """A closed interval of voxels: both corners belong to it."""

    lower: Voxel
    upper: Voxel

    @classmethod
    def of(cls, shape: Sequence[int]) -> Box:
        """All of an image of ``shape``."""
        return cls((0, 0, 0), three(n - 1 for n in shape))

    @property
    def size(self) -> Voxel:
        return three(upper - lower + 1 for lower, upper in zip(self.lower, self.upper))

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        return three(slice(lower, upper + 1) for lower, upper in zip(self.lower, self.upper))

    def contains(self, voxel: Voxel) -> bool:
        return all(lower <= v <= upper for lower, v, upper in zip(self.lower, voxel, self.upper))

    def is_in(self, other: Box) -> bool:
        return other.contains(self.lower) and other.contains(self.upper)

    def union(self, other: Box) -> Box:
        return Box(three(map(min, self.lower, other.lower)), three(map(max, self.upper, other.upper)))

    def clipped(self, shape: Voxel) -> Box | None:
        """The part inside an image of ``shape``; None if there is none."""
        return self.intersection(Box.of(shape))

    def intersection(self, other: Box) -> Box | None:
        """What both have in common; None if there is nothing."""
        lower, upper = three(map(max, self.lower, other.lower)), three(map(min, self.upper, other.upper))
        return Box(lower, upper) if all(a <= b for a, b in zip(lower, upper)) else None

    def slices_in(self, other: Box) -> tuple[slice, slice, slice]:
        """Where this box lies in a box that holds it."""
        return three(slice(a - b, c - b + 1) for a, b, c in zip(self.lower, other.lower, self.upper))

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Box:
        """Returns the box of an entry of a challenge file's ``boxes``, its numbers rounded.

        Its corners are not put in order, and it may lie outside of the image.

        Args:
            entry: ``z_min``, ``z_max``, and of the middle slice ``z_mid_y_min``, ``z_mid_y_max``, ``z_mid_x_min``,
                ``z_mid_x_max``; maxima belong to the box.

        Raises:
            ValueError: the entry is none; the message says what it is or lacks.
        """
        if not isinstance(entry, Mapping):
            raise ValueError("is not a dictionary")
        lower, upper = (rounded_voxel(entry.get(key) for key in keys) for keys in (_LOWER_KEYS, _UPPER_KEYS))
        if lower is None or upper is None:
            raise ValueError("lacks a number")
        return cls(lower, upper)

    def entry(self) -> dict[str, int]:
        """Returns the box as an entry of a challenge file's ``boxes``; its middle slice is ``z_mid``."""
        (z, y, x), (last_z, last_y, last_x) = self.lower, self.upper
        return {
            "z_min": z,
            "z_max": last_z,
            "z_mid": z + self.size[0] // 2,
            "z_mid_x_min": x,
            "z_mid_x_max": last_x,
            "z_mid_y_min": y,
            "z_mid_y_max": last_y,
        }


def rounded_voxel(values: Iterable[Any]) -> Voxel | None:
    """Returns three finite numbers, rounded to a voxel; None if they are not."""
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return None
    if len(numbers) != 3 or not all(math.isfinite(v) and abs(v) < 2**53 for v in numbers):
        return None
    return three(round(v) for v in numbers)


def union(boxes: Sequence[Box]) -> Box:
    """Returns the smallest box that holds all of these, at least one."""
    return reduce(Box.union, boxes)


def bounding_box(volume: np.ndarray) -> Box | None:
    """Returns the box around what is not zero in a volume (D, H, W) of any dtype; None for an empty volume."""
    lower, upper = [], []
    view = volume
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        # Each axis is searched in what the axes before left over.
        occupied = np.flatnonzero(view.any(axis=others))
        if occupied.size == 0:
            return None
        lower.append(int(occupied[0]))
        upper.append(int(occupied[-1]))
        view = view[(slice(None),) * axis + (slice(lower[-1], upper[-1] + 1),)]
    return Box(three(lower), three(upper))


def labels_in(labels: np.ndarray) -> list[int]:
    """Returns the labels that a label map (D, H, W), uint8 or uint16, holds: ascending, without 0."""
    present = np.zeros(np.iinfo(labels.dtype).max + 1, bool)
    for plane in labels:  # Plane by plane: numpy's indices take eight times the memory of what they index.
        present[plane] = True
    return [int(label) for label in np.flatnonzero(present) if label]


def label_extents(labels: np.ndarray) -> dict[int, Box]:
    """Returns the box around each label's voxels, for those labels of an integer label map (D, H, W) that have any."""
    from scipy.ndimage import find_objects  # A tenth of the start, and no first run needs it.

    return {
        label: Box(three(s.start for s in where), three(s.stop - 1 for s in where))
        for label, where in enumerate(find_objects(labels), start=1)
        if where is not None
    }
