"""What is said of an object without a network: its previous mask, or what the first of its prompts guesses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from inference.geometry import Box, Voxel, union
from inference.prompt_types import PROMPT_TYPES, ObjectPrompts, PromptType
from inference.window import SLAB

FALLBACK_LOG_ODDS = 2.0
"""How sure the previous mask or an ellipsoid counts among what the network says: p = 0.88."""


def fallback(
    prompts: ObjectPrompts, labels: np.ndarray | None, previous: Box | None, shape: Voxel
) -> Iterator[tuple[Box, Tensor]]:
    """What is said of an object without a network: its previous mask, its box's ellipsoid, or a ball at its clicks."""
    if previous is not None and labels is not None:
        where, inside = previous, partial(_labelled, labels, prompts.label)
    elif (kind := _guessing(prompts)) is not None:
        boxes = kind.guess(prompts)
        where, inside = union(boxes).clipped(shape), partial(_any_ellipsoid, boxes)
    else:
        return
    if where is None:
        return
    for first in range(where.lower[0], where.upper[0] + 1, SLAB):
        last = min(first + SLAB - 1, where.upper[0])
        slab = Box((first, *where.lower[1:]), (last, *where.upper[1:]))
        yield slab, (inside(slab).float() * 2 - 1) * FALLBACK_LOG_ODDS


def fallback_name(prompts: ObjectPrompts, previous: Box | None) -> str:
    if previous is not None:
        return "its previous mask"
    kind = _guessing(prompts)
    return "nothing: it has no prompt" if kind is None else kind.guessed


def _guessing(prompts: ObjectPrompts) -> PromptType | None:
    """The first type of prompt that says roughly where the object is."""
    return next((kind for kind in PROMPT_TYPES if kind.guess(prompts)), None)


def _labelled(labels: np.ndarray, label: int, part: Box) -> Tensor:
    """A label's voxels in a part of the image: bool of the part's shape."""
    return torch.from_numpy(labels[part.slices] == label)


def _any_ellipsoid(boxes: list[Box], part: Box) -> Tensor:
    return torch.stack([_ellipsoid(box, part) for box in boxes]).any(dim=0)


def _ellipsoid(box: Box, part: Box) -> Tensor:
    """The ellipsoid inscribed in a box, in a part of the image: bool of the part's shape."""
    squared = torch.zeros(())
    for axis, (lower, upper, first, last) in enumerate(zip(box.lower, box.upper, part.lower, part.upper)):
        distance = (torch.arange(first, last + 1) - (lower + upper) / 2) / ((upper - lower + 1) / 2)
        squared = squared + distance.square().view([-1 if a == axis else 1 for a in range(3)])
    return squared <= 1
