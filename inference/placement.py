"""Where windows go: around what the user said, around what the network has found."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inference.case import ObjectPrompts
from inference.geometry import Box, Voxel, three, union, voxel
from inference.window import MARGIN, Window

TOUCH = 0.002
"""An object touches a window's border if it covers more than this share of it."""

GROWTH = 1 / 4
"""A window grows by that share of itself on a side that an object reaches out of. More would make all that is seen much
smaller, for the sake of an object that may end just behind the border."""


LEAK = 1.5
"""A mask has leaked if a background click lies so many times as deep in it as any foreground click."""

DEEPEST = 64
"""Voxels. A foreground click as deep as that is in a large object."""


def window_for(
    prompts: ObjectPrompts, shape: Voxel, patch: Voxel, isotropic_zoom: bool, previous: Box | None = None
) -> Window:
    """Where to look for an object.

    Around its box if it has one, widened to hold what of the other prompts would otherwise lie outside the window.
    Without a box, around the other prompts and the previous mask. With none of it, around the central third (equation
    4).

    Args:
        prompts: what the user said.
        shape: (D, H, W) of the image.
        patch: the network's patch.
        isotropic_zoom: as in :meth:`Window.around`.
        previous: the extent of the object's previous mask, if it has one.
    """
    extents = prompts.extents()
    if prompts.box is not None:
        window = Window.around(prompts.box, patch, isotropic_zoom)
        if all(extent.is_in(window.box) for extent in extents):
            return window
        # All of them, not only those outside: the wider window has another centre.
        return Window.around(union(extents), patch, isotropic_zoom)
    if previous is not None:
        return Window.around(union([*extents, previous]), patch, isotropic_zoom)
    region = _at_native_resolution(union(extents), patch) if extents else central_third(shape)
    return Window.around(region, patch, isotropic_zoom)


def zoomed_out(window: Window, log_odds: Tensor, shape: Voxel, isotropic_zoom: bool) -> Window | None:
    """A larger window, for an object that reaches out of this one.

    It grows by a quarter on each side where the object touches the window's border and the image goes on behind it.

    Args:
        window: where the network has looked.
        log_odds: what it said there, of the patch's shape.
        shape: (D, H, W) of the image.
        isotropic_zoom: as in :meth:`Window.around`.

    Returns:
        None if the object touches no such border.
    """
    inside = log_odds > 0
    start, size = list(window.start), list(window.size)
    for axis in range(3):
        along = inside.movedim(axis, 0).flatten(1)
        least = max(along.shape[1] * TOUCH, 1)
        room = max(int(size[axis] * GROWTH), 1)
        before = int(along[0].sum()) >= least and window.start[axis] > 0
        after = int(along[-1].sum()) >= least and window.start[axis] + window.size[axis] < shape[axis]
        start[axis] -= room * before
        size[axis] += room * (before + after)
    if tuple(size) == window.size:
        return None
    if isotropic_zoom:
        zoom = max(n / p for n, p in zip(size, window.patch))
        larger = [math.ceil(zoom * p - 1e-9) for p in window.patch]
        start = [s - (wide - n) // 2 for s, n, wide in zip(start, size, larger)]
        size = larger
    return Window(three(start), three(size), window.patch)


def has_leaked(labels: Tensor, prompts: ObjectPrompts) -> bool:
    """Whether the newest click says that an object's previous mask is mostly something else, and larger.

    A window around such a mask shows the object too small to be found in it, and shown the mask, the network keeps it.

    Args:
        labels: the previous label map (D, H, W).
        prompts: of the object; only one without a box that has foreground clicks, and a background click after them,
            can have leaked: a box says where it ends.
    """
    foreground = prompts.foreground
    if prompts.box is not None or not foreground or prompts.clicks[-1].positive:
        return False
    inside = max(_depth(labels, prompts.label, position, DEEPEST) for position in foreground)
    return _depth(labels, prompts.label, prompts.clicks[-1].position, math.ceil(LEAK * DEEPEST) + 1) > LEAK * inside


def recentered(
    window: Window, log_odds: Tensor, prompts: ObjectPrompts, shape: Voxel, isotropic_zoom: bool
) -> Window | None:
    """The window that an object would have got, had it been known before what the network has found.

    Args:
        window: where the network has looked.
        log_odds: what it said there, of the patch's shape.
        prompts, shape, isotropic_zoom: as in :func:`window_for`.

    Returns:
        None if it found nothing in the image, or that window is the same.
    """
    found = (log_odds > 0).nonzero()
    if not len(found):
        return None
    lower, upper = found.amin(dim=0).tolist(), found.amax(dim=0).tolist()
    extent = window.image_box(three(lower), three(upper)).clipped(shape)
    if extent is None:
        return None
    focused = window_for(prompts, shape, window.patch, isotropic_zoom, extent)
    return None if focused == window else focused


def central_third(shape: Voxel) -> Box:
    """The paper's box where none is given (equation 4)."""
    return Box(three(n // 3 for n in shape), three(max(2 * n // 3, n // 3) for n in shape))


def allowed_region(prompts: ObjectPrompts, previous: Box | None, shape: Voxel) -> Box:
    """Returns the part of the image in which an object can be: its box's slices, all of the image without a box.

    A box goes from the first to the last slice of its object, while in y and x it is that of the middle slice, widened
    at random (challenge rule): elsewhere the object may leave it. So its slices are the only exact bound.

    A prompt in the object (a foreground click) before the box's first slice, or behind its last, says that the box is
    too short there, and so does a previous mask that reaches further: then the object is not bounded on that side.

    Args:
        prompts: what the user said.
        previous: where the object's previous mask lies; None if there is none.
        shape: (D, H, W) of the image.
    """
    image = Box.of(shape)
    if prompts.box is None:
        return image
    known = prompts.inside() + ([] if previous is None else [previous])
    lower, upper = prompts.box.lower[0], prompts.box.upper[0]
    first = max(lower, 0) if all(part.lower[0] >= lower for part in known) else 0
    last = min(upper, image.upper[0]) if all(part.upper[0] <= upper for part in known) else image.upper[0]
    return Box((first, 0, 0), (last, *image.upper[1:]))


def _depth(labels: Tensor, label: int, position: Voxel, most: int) -> float:
    """How far the nearest voxel of another label is, in voxels; ``most`` if it is not nearer than that."""
    around = Box(three(v - most for v in position), three(v + most for v in position)).clipped(voxel(labels.shape))
    if around is None:
        return 0.0
    z, y, x = (
        (torch.arange(lower, upper + 1, dtype=torch.int32, device=labels.device) - v) ** 2
        for lower, upper, v in zip(around.lower, around.upper, position)
    )
    squares = z[:, None, None] + y[:, None] + x
    return math.sqrt(int(squares.masked_fill_(labels[around.slices] == label, most**2).min().clamp(max=most**2)))


def _at_native_resolution(region: Box, patch: Voxel) -> Box:
    """A region as large as its window is not magnified for: clicks do not tell an object's extent."""
    room = [max(math.ceil(p * MARGIN) - n, 0) for n, p in zip(region.size, patch)]
    lower = three(v - r // 2 for v, r in zip(region.lower, room))
    return Box(lower, three(v + n + r - 1 for v, n, r in zip(lower, region.size, room)))
