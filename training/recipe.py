"""What a sample is made from: all that is random about it, but little of its content, so that it is cheap to hand over.

Processes draw recipes; :func:`training.render.render` makes a batch of them, on whatever device the volumes are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inference.geometry import Box, Voxel
from inference.window import Window
from training.augment import SAME_INTENSITIES, Intensities, Turn

ALIGNMENT = 16
"""Bytes; every array begins at a multiple of it."""


@dataclass(frozen=True)
class Coarse:
    """How a mask is made one that a coarse pass left: without detail, and with its border off here and there.

    Args:
        cells: (z, y, x), the voxels that the coarse pass had for the patch.
        amplitude: of smooth noise, whose few values are :attr:`Recipe.noise`.
    """

    cells: Voxel
    amplitude: float


@dataclass(frozen=True)
class Recipe:
    """A sample before it is made.

    Args:
        window: the part of the image that the patch shows; all of the patch where no volume is looked at.
        box: the prompt, in image coordinates.
        first_click: whether a click comes before the first prediction (a sample without a box).
        volume: which of the volumes; -1 where image and truth are given.
        labels: that make the object.
        coarse: how the previous mask is made from the object; None for none.
        turn: flips and exchanged axes.
        intensities: how the image is changed.
        image: (D, H, W) floating point in the patch, normalized; None where it is the volume's.
        truth: (D, H, W) bool, or a share of each voxel, in the patch; None where it is the volume's labels.
        table: (L,) float32, 1 for labels of the object, for all labels of the volume; None for an object of one label.
        noise: (n, n, n) float32, for ``coarse``.
        read_image, read_labels: what was read of the volume for the window, as it is stored, where the volume itself
            is not on the device (:func:`training.render.carry`).
    """

    window: Window
    box: Box | None
    first_click: bool
    volume: int = -1
    labels: tuple[int, ...] = ()
    coarse: Coarse | None = None
    turn: Turn = field(default_factory=Turn)
    intensities: Intensities = SAME_INTENSITIES
    image: Tensor | None = None
    truth: Tensor | None = None
    table: Tensor | None = None
    noise: Tensor | None = None
    read_image: Tensor | None = None
    read_labels: Tensor | None = None


ARRAYS = ("image", "truth", "table", "noise", "read_image", "read_labels")
"""Those of a recipe's fields that are tensors or None."""


@dataclass(frozen=True)
class PackedRecipes:
    """The recipes of a batch with all their tensors in one, which is copied to a device at once.

    Args:
        content: (bytes,) uint8.
        bare: the recipes without their tensors.
        places: of each recipe, field -> first byte, shape and dtype.
        numbers: first byte of the intensity changes' parameters, (N, 5) float32.
    """

    content: Tensor
    bare: list[Recipe]
    places: list[dict[str, tuple[int, tuple[int, ...], torch.dtype]]]
    numbers: int

    def __len__(self) -> int:
        return len(self.bare)

    def recipes(self) -> list[Recipe]:
        """The recipes, whose tensors are parts of ``content``."""
        return [
            replace(recipe, **{name: self._at(*place) for name, place in places.items()})
            for recipe, places in zip(self.bare, self.places)
        ]

    def intensities(self) -> Tensor:
        """(N, 5) float32: the fields of :class:`training.augment.Intensities`, the seed left out."""
        return self._at(self.numbers, (len(self.bare), 5), torch.float32)

    def _at(self, first: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self.content[first : first + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def pin_memory(self) -> PackedRecipes:
        return replace(self, content=self.content.pin_memory())

    def to(self, device: torch.device) -> PackedRecipes:
        return replace(self, content=self.content.to(device, non_blocking=True))


def pack(recipes: list[Recipe]) -> PackedRecipes:
    """Puts a batch's tensors one after the other."""
    numbers = torch.tensor([recipe.intensities.numbers for recipe in recipes])
    found, places, end = [(0, numbers)], [], _aligned(numbers.nbytes)
    for recipe in recipes:
        places.append({})
        for name in ARRAYS:
            if (array := getattr(recipe, name)) is not None:
                places[-1][name] = (end, tuple(array.shape), array.dtype)
                found.append((end, array))
                end += _aligned(array.nbytes)
    content = torch.empty(end, dtype=torch.uint8)
    for first, array in found:
        content[first : first + array.nbytes] = array.contiguous().view(-1).view(torch.uint8)
    bare = [replace(recipe, **dict.fromkeys(ARRAYS)) for recipe in recipes]
    return PackedRecipes(content, bare, places, numbers=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
