"""All objects -> one label map (paper, section 2.5), without ever holding all of them."""

from __future__ import annotations

import math
from collections.abc import Container

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from inference.case import Box, ObjectPrompts, Voxel
from inference.window import SLAB

INNER_FIRST = 0.1
"""Power of the ratio of two boxes' volumes that the p of the inner one is multiplied by where their objects compete."""

INSIDE = 0.9
"""A box lies inside another if this share of it does: the challenge widens each of them at random."""

CLEARLY_SMALLER = 0.9
"""Boxes whose volumes are in a larger ratio are taken for equally large, for the same reason."""


class Fusion:
    """The paper's argmax over the background, Π (1 − p_c), and every p_c, kept as a running best in log space.

    Holds 9 bytes a voxel, whatever the number of objects: the best foreground's log p, its label, and the sum of
    log (1 − p) over all objects. Outside an object's window its p is 0. Ties go to the lower label, the background
    first, as argmax has it.

    An object may be given an advantage over others (:func:`advantages`) where its p is above a half, so that it beats
    the background without one.
    """

    def __init__(self, shape: Voxel, device: torch.device | str = "cpu") -> None:
        self.best = torch.full(shape, -torch.inf, device=device)
        self.background = torch.zeros(shape, device=device)
        self.label = torch.zeros(shape, dtype=torch.uint8, device=device)

    @property
    def shape(self) -> Voxel:
        return tuple(self.label.shape)

    def add(self, label: int, where: Box, log_odds: Tensor, advantage: float = 0.0) -> None:
        """Adds an object's log-odds in a part of the image, each voxel at most once an object.

        Labels must come in ascending order, so that ties go to the lower one.

        Args:
            advantage: is added to log p where p is above a half; at least 0.
        """
        best, background = self.best[where.slices], self.background[where.slices]
        log_p = logsigmoid(log_odds)
        background += log_p - log_odds  # log (1 − p) = log p − log-odds
        if advantage:
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
    found: dict[int, float] = {}
    outer: list[tuple[Box, int, float]] = []  # With volume and advantage; the largest first.
    boxed = [item for item in objects if item.box is not None]
    for item in sorted(boxed, key=lambda item: math.prod(item.box.size), reverse=True):
        volume = math.prod(item.box.size)
        advantage = 0.0
        if not item.clicks and item.label not in seen:
            for box, larger, its_own in outer:
                shared = item.box.intersection(box)
                if volume < CLEARLY_SMALLER * larger and shared and math.prod(shared.size) >= INSIDE * volume:
                    advantage = max(advantage, its_own + INNER_FIRST * math.log(larger / volume))
        if advantage:
            found[item.label] = advantage
        outer.append((item.box, volume, advantage))
    return found
