"""All objects -> one label map (paper, section 2.5), without ever holding all of them; prompts enforced in it."""

from __future__ import annotations

import math
from collections.abc import Container

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from inference.geometry import Box, Voxel, voxel
from inference.prompt_types import PROMPT_TYPES, ObjectPrompts
from inference.window import SLAB

INNER_FIRST = 0.1
"""Power of the ratio of two boxes' volumes that the p of the inner one is multiplied by where their objects compete."""

INSIDE = 0.9
"""A box lies inside another if this share of it does: the challenge widens each of them at random."""

CLEARLY_SMALLER = 0.9
"""Boxes whose volumes are in a larger ratio are taken for equally large, for the same reason."""

NEAREST_CLICK = 0.3
"""Power of the distance to an object's nearest foreground click that its p is divided by where objects compete."""


class Fusion:
    """The paper's argmax over the background, Π (1 − p_c), and every p_c, kept as a running best in log space.

    Holds 9 bytes a voxel, whatever the number of objects: the best foreground's log p, its label, and the sum of
    log (1 − p) over all objects. Outside an object's window its p is 0. Ties go to the lower label, the background
    first, as argmax has it.

    An object may be given an advantage over others (:func:`advantages`, :func:`nearness`) where its p is above a half,
    so that it beats the background without one.
    """

    def __init__(self, shape: Voxel, device: torch.device | str = "cpu") -> None:
        self.best = torch.full(shape, -torch.inf, device=device)
        self.background = torch.zeros(shape, device=device)
        self.label = torch.zeros(shape, dtype=torch.uint8, device=device)

    @property
    def shape(self) -> Voxel:
        return voxel(self.label.shape)

    def add(self, label: int, where: Box, log_odds: Tensor, advantage: float | Tensor = 0.0) -> None:
        """Adds an object's log-odds in a part of the image, each voxel at most once an object.

        Labels must come in ascending order, so that ties go to the lower one.

        Args:
            advantage: is added to log p where p is above a half; at least 0, one number or of the shape of ``where``.
        """
        best, background = self.best[where.slices], self.background[where.slices]
        log_p = logsigmoid(log_odds)
        background += log_p - log_odds  # log (1 − p) = log p − log-odds
        if isinstance(advantage, Tensor) or advantage:
            log_p += advantage * (log_odds > 0)
        better = log_p > best
        best.copy_(torch.where(better, log_p, best))
        self.label[where.slices].masked_fill_(better, label)

    def label_map(self) -> Tensor:
        """(D, H, W) uint8, on the CPU: the best label where it beats the background, else 0.

        It is made in the place of :attr:`label`, since another byte a voxel would be the peak of a whole run: nothing
        can be added after it.
        """
        for first in range(0, self.shape[0], SLAB):
            slab = slice(first, first + SLAB)
            self.label[slab] *= self.best[slab] > self.background[slab]
        return self.label.cpu()


def advantages(objects: tuple[ObjectPrompts, ...], seen: Container[int]) -> dict[int, float]:
    """Label -> what is added to log p of an object whose box lies inside another's and is all that is known of it.

    An object inside another (a cavity in its wall, a core in its tumour) is claimed twice while there are only boxes,
    since a box looks the same whether its object is full or hollow: both p are near 1, and do not say which is right.
    Of claims so alike the inner one is taken: the outer object would leave nothing of it. A click or a previous mask
    tells the network more than this does, so an object that has one gets nothing.

    Args:
        seen: labels of the objects that have a previous mask.
    """
    boxed = [(item, item.box) for item in objects if item.box is not None]
    boxed.sort(key=lambda pair: pair[1].voxels, reverse=True)
    found: dict[int, float] = {}
    for index, (item, box) in enumerate(boxed):
        if item.extents() != [box] or item.label in seen:
            continue
        gains = [
            found.get(outer.label, 0.0) + INNER_FIRST * math.log(outer_box.voxels / box.voxels)
            for outer, outer_box in boxed[:index]
            if _is_inside(box, outer_box)
        ]
        if gains:
            found[item.label] = max(gains)
    return found


def nearness(prompts: ObjectPrompts, where: Box, shape: Voxel, device: torch.device | str = "cpu") -> Tensor:
    """What is added to log p of an object of which clicks alone say where it is: more, the nearer one of them lies.

    Without a box an object may be found in its neighbours too, and as surely as they are; their clicks say that
    they are not its.

    Args:
        prompts: of the object; one without a foreground click gets nothing.
        where: a part of the image.
        shape: (D, H, W) of the image; what is as far from a click as its diagonal is long gets nothing.

    Returns:
        float32 (D, H, W) of ``where``, on the device.
    """
    axes = [torch.arange(low, high + 1.0, device=device) for low, high in zip(where.lower, where.upper)]
    nearest = torch.full(where.size, float(sum(n**2 for n in shape)), device=device)
    for part in prompts.inside():
        z, y, x = ((place - place.clamp(low, high)) ** 2 for place, low, high in zip(axes, part.lower, part.upper))
        nearest = torch.minimum(nearest, z[:, None, None] + y[:, None] + x)
    return NEAREST_CLICK * (math.log(math.hypot(*shape) + 1) - nearest.sqrt_().log1p_())


def enforce_prompts(labels: np.ndarray, objects: tuple[ObjectPrompts, ...]) -> None:
    """Sees to it that the label map says what the user said for certain: of each click's voxel, whose it is.

    Where prompts contradict each other, the later one of an object and the later object win.

    Args:
        labels: (D, H, W) uint8 label map, changed in place.
    """
    for prompts in objects:
        for kind in PROMPT_TYPES:
            kind.enforce(labels, prompts)


def _is_inside(inner: Box, outer: Box) -> bool:
    if inner.voxels >= CLEARLY_SMALLER * outer.voxels:
        return False
    shared = inner.intersection(outer)
    return shared is not None and shared.voxels >= INSIDE * inner.voxels
