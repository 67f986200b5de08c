"""Objects in several pieces: a click adds the piece that it lies in, or takes one away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from inference.case import Click
from inference.geometry import Box, Voxel, three
from inference.window import Window

CERTAIN = 4.0
"""Log-odds of what a click rules out: p = 0.02."""


def disobeyed(log_odds: Tensor, window: Window, clicks: tuple[Click, ...]) -> list[Click]:
    """The clicks in a window that its patch contradicts, the latest first."""
    return [
        click
        for click in reversed(clicks)
        if (place := _in_patch(click, window)) is not None and (log_odds[place] > 0) != click.positive
    ]


def piece(log_odds: Tensor, window: Window, click: Click) -> Tensor | None:
    """The log-odds of the one connected region that a foreground click lies in; certainly not elsewhere.

    Args:
        log_odds: (D, H, W), of the window's patch.

    Returns:
        None if the click lies in no region, or outside the window.
    """
    place = _in_patch(click, window)
    if place is None or log_odds[place] <= 0:
        return None
    regions = _regions(log_odds)
    return torch.where(regions == regions[place], log_odds, log_odds.clamp(max=-CERTAIN))


def without_ruled_out(log_odds: Tensor, window: Window, clicks: tuple[Click, ...]) -> Tensor:
    """The log-odds without the regions that hold background clicks and no foreground click.

    The largest region is the object itself and stays.

    Args:
        log_odds: (D, H, W), of the window's patch; not changed.
    """
    places = {sign: [p for c in clicks if c.positive is sign and (p := _in_patch(c, window))] for sign in (True, False)}
    if not any(log_odds[place] > 0 for place in places[False]):
        return log_odds
    regions = _regions(log_odds)
    sizes = torch.bincount(regions.flatten())
    kept = {0, int(sizes[1:].argmax()) + 1, *(int(regions[place]) for place in places[True])}
    ruled_out = {int(regions[place]) for place in places[False]} - kept
    if not ruled_out:
        return log_odds
    return torch.where(torch.isin(regions, torch.tensor(sorted(ruled_out))), -CERTAIN, log_odds)


def with_pieces(
    slabs: Iterator[tuple[Box, Tensor]], pieces: list[tuple[Window, Tensor]]
) -> Iterator[tuple[Box, Tensor]]:
    """Adds pieces to pasted log-odds, which are changed in place: the greater of both is taken.

    Args:
        slabs: as :meth:`inference.window.Window.paste` yields them.
        pieces: windows anywhere, and their patches' log-odds.
    """
    for where, values in slabs:
        for window, patch in pieces:
            if (part := where.intersection(window.box)) is not None:
                here = values[part.slices_in(where)]
                torch.maximum(here, window.to_image(patch, part), out=here)
        yield where, values


def _regions(log_odds: Tensor) -> Tensor:
    """(D, H, W) int64: 26-connected regions of the object numbered from 1, 0 elsewhere."""
    from scipy import ndimage  # A tenth of the start, for clicks that the network contradicts only.

    regions, _ = ndimage.label((log_odds > 0).numpy(), structure=np.ones((3, 3, 3)))
    return torch.from_numpy(regions.astype(np.int64))


def _in_patch(click: Click, window: Window) -> Voxel | None:
    """The patch's voxel that a click lies in; None outside the window."""
    if not window.box.contains(click.position):
        return None
    return three(min(max(round(v), 0), n - 1) for v, n in zip(window.to_patch(click.position), window.patch))
