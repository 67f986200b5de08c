"""All objects -> one label map (paper, section 2.5), without ever holding all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from inference.case import Box, Voxel
from inference.window import SLAB


class Fusion:
    """The paper's argmax over the background, Π (1 − p_c), and every p_c, kept as a running best in log space.

    Holds 9 bytes a voxel, whatever the number of objects: the best foreground's log p, its label, and the sum of
    log (1 − p) over all objects. Outside an object's window its p is 0. Ties go to the lower label, the background
    first, as argmax has it.
    """

    def __init__(self, shape: Voxel, device: torch.device | str = "cpu") -> None:
        self.best = torch.full(shape, -torch.inf, device=device)
        self.background = torch.zeros(shape, device=device)
        self.label = torch.zeros(shape, dtype=torch.uint8, device=device)

    @property
    def shape(self) -> Voxel:
        return tuple(self.label.shape)

    def add(self, label: int, where: Box, log_odds: Tensor) -> None:
        """Adds an object's log-odds in a part of the image, each voxel at most once an object.

        Labels must come in ascending order, so that ties go to the lower one.
        """
        best, background = self.best[where.slices], self.background[where.slices]
        log_p = logsigmoid(log_odds)
        background += log_p - log_odds  # log (1 − p) = log p − log-odds
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
