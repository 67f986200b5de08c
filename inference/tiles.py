"""Tiles of native resolution along a border that was seen coarsely, and how they are blended into it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import avg_pool3d, max_pool3d

from inference.case import Box, Voxel
from inference.placement import LARGE
from inference.window import SEAM, Window

LEAST_WORTH = 0.02
"""A tile that would hold less than this share of a border's uncertainty is not worth its time: it would be one of so
many that only a patchwork could be done, as with what is scattered over a whole image."""

UNCLEAR = 0.2
"""Above this, on a scale where 1 is a border or p = 1/2, a voxel is one that tiles may change."""


def tiles(window: Window, log_odds: Tensor, shape: Voxel) -> Iterator[Window]:
    """Windows of native resolution along an object's border, the longest and least certain parts of it first.

    An axis along which the window has about native resolution is not divided.

    Args:
        window: where the network has looked.
        log_odds: what it said there, of the patch's shape.
        shape: (D, H, W) of the image.
    """
    large = [n > LARGE * p for n, p in zip(window.size, window.patch)]
    inside = window.box.clipped(shape)
    if inside is None or not any(large):
        return
    size = tuple(p if wide else n for wide, n, p in zip(large, window.size, window.patch))
    worth = _uncertainty(log_odds).cpu()
    # A tile's heart, without its seams, in voxels of the patch.
    heart = tuple(
        max(round(t * (1 - 2 * SEAM) * p / n), 1) if wide else p
        for wide, t, n, p in zip(large, size, window.size, window.patch)
    )
    least = worth.sum() * LEAST_WORTH
    while True:
        sums = _sums(worth, heart)
        if float(sums.max()) <= least:
            return
        corner = np.unravel_index(int(sums.argmax()), sums.shape)
        worth[tuple(slice(c, c + h) for c, h in zip(corner, heart))] = 0
        start = []
        for axis in range(3):
            if not large[axis]:
                start.append(window.start[axis])
                continue
            middle = window.start[axis] + (corner[axis] + heart[axis] / 2) * window.size[axis] / window.patch[axis]
            # Not beyond the image, nor beyond the window, for as far as there is room.
            latest = min(inside.upper[axis], window.box.upper[axis]) + 1 - size[axis]
            start.append(max(min(round(middle - size[axis] / 2), latest), inside.lower[axis]))
        yield Window(tuple(start), size, window.patch)


def blended(
    around: Window,
    log_odds: Tensor,
    tiles: list[tuple[Window, Tensor]],
    pieces: list[tuple[Window, Tensor]],
    wanted: Box,
    pasted: Iterator[tuple[Box, Tensor]] | None = None,
) -> Iterator[tuple[Box, Tensor]]:
    """A window's log-odds in the image, with tiles blended in, each over those before it, and pieces added.

    A tile counts near the border that it was cut for. Further inside and outside, the window has the wider view.

    Args:
        around: the window.
        log_odds: what was said there, of the patch's shape.
        tiles: windows inside it, and their patches' log-odds.
        pieces: windows anywhere, and their patches' log-odds; the greater of both is taken.
        wanted: the part of the image.
        pasted: the window's log-odds in the image, which are changed in place; as :meth:`Window.paste` makes them by
            default.

    Yields:
        as :meth:`Window.paste`.
    """
    near = _near_border(log_odds) if tiles else None
    for where, values in around.paste(log_odds, wanted) if pasted is None else pasted:
        for window, patch in tiles:
            if (part := where.intersection(window.box)) is not None:
                here = values[part.slices_in(where)]
                weight = window.weight(part, around) * around.sample(near, part)
                here.lerp_(window.sample(patch, part), weight)
        for window, patch in pieces:
            if (part := where.intersection(window.box)) is not None:
                here = values[part.slices_in(where)]
                torch.maximum(here, window.sample(patch, part), out=here)
        yield where, values


def _sums(values: Tensor, block: Voxel) -> Tensor:
    """(D, H, W) -> the sum over every block of that size inside it, an axis at a time."""
    for axis, length in enumerate(block):
        # In double precision: what is summed up from the edge and subtracted again may be large.
        total = functional.pad(values.double().movedim(axis, -1).cumsum(-1), (1, 0))
        values = (total[..., length:] - total[..., :-length]).movedim(-1, axis)
    return values.float()


def _near_border(log_odds: Tensor) -> Tensor:
    """(D, H, W) in [0, 1]: 1 within two voxels of the object's border and where p is not clear, then less."""
    unclear = (_uncertainty(log_odds) > UNCLEAR).float()[None, None]
    wide = max_pool3d(unclear, 3, stride=1, padding=1)
    return avg_pool3d(wide, 3, stride=1, padding=1, count_include_pad=False)[0, 0]


def _uncertainty(log_odds: Tensor) -> Tensor:
    """(D, H, W) log-odds -> high along the object's border, a voxel to either side, and where p is near 1/2."""
    p = torch.sigmoid(log_odds)
    within = avg_pool3d((p > 0.5).float()[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    return 4 * within * (1 - within) + 4 * p * (1 - p)
