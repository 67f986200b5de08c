"""An object to train on: one label of a volume, or several made one. What takes long to find is found once."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.simulated_user import click_from_error, jittered_box, middle_slice_box
from inference.geometry import Box, Voxel, voxel
from training.dataset import Volume

TRIES, POSITIONS = 16, 2048
"""Voxels of the extent that are tried at a time, and how often, before a voxel of the object is searched for."""

FEW = 16
"""The first so many are looked at one by one; for the others the extent is read."""


class Target:
    """An object of a volume.

    Args:
        volume: on the CPU, or on disk.
        labels: that make the object, some of ``volume.objects``.
    """

    def __init__(self, volume: Volume, labels: tuple[int, ...]) -> None:
        self.shape: Voxel = volume.shape
        self.labels = labels
        self.extent = volume.objects[labels[0]]
        for label in labels[1:]:
            self.extent = self.extent.union(volume.objects[label])
        self._voxels = volume.labels
        self._slices = [run for label in labels for run in volume.slices[label]]
        self._known_box = volume.boxes[labels[0]] if len(labels) == 1 else None

    @classmethod
    def of(cls, volume: Volume, labels: tuple[int, ...]) -> Target:
        """The volume's, which keeps it."""
        if (known := volume.targets.get(labels)) is None:
            known = volume.targets[labels] = cls(volume, labels)
        return known

    def mask(self) -> NDArray[np.bool_]:
        """The object within its extent."""
        return self._mask_in(self.extent)

    def box(self, random: np.random.Generator) -> Box:
        """The box that the challenge would give: exact in z, from the middle slice and jittered in y and x."""
        return Box.from_entry(jittered_box(self._middle_slice_box, self.shape[1:], random))

    @cached_property
    def _middle_slice_box(self) -> dict[str, int]:
        if self._known_box is not None:
            return self._known_box
        occupied = np.unique(np.concatenate([np.arange(first, last + 1) for first, last in self._slices]))
        # Of all slices only the one in the middle is read.
        middle = int(occupied[occupied.size // 2])
        part = Box((middle, *self.extent.lower[1:]), (middle, *self.extent.upper[1:]))
        box = middle_slice_box(self._mask_in(part), part.lower)
        return box | {"z_min": int(occupied[0]), "z_max": int(occupied[-1])}

    @cached_property
    def first_click(self) -> Voxel:
        """Where the challenge's user would click first."""
        mask = self.mask()
        click = click_from_error(np.zeros_like(mask), mask)
        if click is None:
            raise ValueError(f"no voxel within {self.extent} has a label of {self.labels}")
        position, _ = click
        return voxel(p + lower for p, lower in zip(position, self.extent.lower))

    def border_voxel(self, random: np.random.Generator) -> Voxel:
        """A voxel at the object's border, reached from any of its voxels along an axis."""
        position = self._voxel(random)
        axis, direction = int(random.integers(3)), int(random.choice((-1, 1)))
        lower, upper = self.extent.lower[axis], self.extent.upper[axis]
        first, last = list(position), list(position)
        if direction > 0:
            last[axis] = upper
        else:
            first[axis] = lower
        line = self._mask_in(Box(voxel(first), voxel(last))).ravel()
        left = np.flatnonzero(~line[::direction])
        steps = int(left[0]) if left.size else len(line) - 1
        return voxel((*position[:axis], position[axis] + direction * steps, *position[axis + 1 :]))

    def _voxel(self, random: np.random.Generator) -> Voxel:
        """Any voxel of the object, each as likely."""
        lower, upper = np.array(self.extent.lower), np.array(self.extent.upper)
        for _ in range(TRIES):
            positions = random.integers(lower, upper + 1, size=(POSITIONS, 3))
            for some in (positions[:FEW], positions[FEW:]):
                hits = self._belongs(self._at(some))
                if hits.any():
                    return voxel(some[hits.argmax()].tolist())
        inside = np.flatnonzero(self.mask())
        position = np.unravel_index(inside[int(random.integers(len(inside)))], self.extent.size)
        return voxel(int(v) + low for v, low in zip(position, self.extent.lower))

    def _at(self, positions: NDArray[np.integer]) -> NDArray[np.integer]:
        """The labels at positions (N, 3) in the extent."""
        if isinstance(self._voxels, Tensor):
            return self._voxels[tuple(torch.from_numpy(positions.T))].numpy()
        if len(positions) <= FEW:
            return np.array([self._voxels[Box(each, each).slices].item() for each in map(voxel, positions.tolist())])
        return self._voxels[self.extent.slices].numpy()[tuple((positions - np.array(self.extent.lower)).T)]

    def _mask_in(self, box: Box) -> NDArray[np.bool_]:
        return self._belongs(self._voxels[box.slices].numpy())

    def _belongs(self, values: NDArray[np.integer]) -> NDArray[np.bool_]:
        return values == self.labels[0] if len(self.labels) == 1 else np.isin(values, self.labels)


def challenge_box(mask: NDArray[np.bool_], slice_edge: int, random: np.random.Generator) -> Box:
    """The box that the challenge would give of a mask (D, H, W) that lies in slices of that many voxels an edge.

    It may reach past the mask's array, as far as the slices do.
    """
    return Box.from_entry(jittered_box(middle_slice_box(mask), (slice_edge, slice_edge), random))
