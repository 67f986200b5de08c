"""The network's input channels, and what is drawn into them (paper, section 2.2; nnInteractive's order)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.geometry import Box, three
from inference.network import IMAGE_AND_PROMPT_CHANNELS
from inference.window import Window

if TYPE_CHECKING:
    from inference.prompt_types import Click, ObjectPrompts

IMAGE, PREVIOUS, BOX, BOX_NEGATIVE, CLICK, CLICK_NEGATIVE, SCRIBBLE, SCRIBBLE_NEGATIVE = range(8)


@dataclass(frozen=True)
class PromptStyle:
    """How clicks are drawn: a property of the weights, stored with them.

    Args:
        radius: of a click's ball, in voxels of the patch (equations 2 and 3).
        falloff: False for the paper's binary ball; True for nnInteractive's, which falls off from 1 at the centre.
        decay: factor on every click for each click made after it (1: none; nnInteractive v1.0: 0.9).
    """

    radius: int = 4
    falloff: bool = False
    decay: float = 1.0


PAPER_STYLE = PromptStyle()
NNINTERACTIVE_STYLE = PromptStyle(falloff=True, decay=0.9)


def encode(
    image: Tensor, previous: Tensor | None, prompts: ObjectPrompts, window: Window, style: PromptStyle
) -> Tensor:
    """The network's input for one object.

    Args:
        image: the normalized image in the window, float32 of the patch's shape (D, H, W).
        previous: the object's previous mask in the window, [0, 1], same shape; None if there is none.
        prompts: in image coordinates; what lies outside the window is not drawn.

    Returns:
        (8, D, H, W) float32: image, previous mask, box+, box−, click+, click−, scribble+, scribble−.
    """
    channels = torch.zeros((IMAGE_AND_PROMPT_CHANNELS, *window.patch), device=image.device)
    channels[IMAGE] = image
    if previous is not None:
        channels[PREVIOUS] = previous
    prompts.draw(channels, window, style)
    return channels


def draw_box(channel: Tensor, box: Box, window: Window) -> None:
    """Sets the box's voxels to 1 (equation 1)."""
    channel[box_slices(box, window)] = 1


def box_slices(box: Box, window: Window) -> tuple[slice, slice, slice]:
    """A box's voxels in the window's patch. It stays at least a voxel thick, however small the patch."""
    slices = []
    for lower, upper, start, size, patch in zip(box.lower, box.upper, window.start, window.size, window.patch):
        first, last = (round((edge - start) * patch / size) for edge in (lower, upper + 1))
        if last <= first:  # Thinner than a voxel of the patch: the one that holds its centre.
            first = math.floor(((lower + upper + 1) / 2 - start) * patch / size)
            last = first + 1
        slices.append(slice(max(first, 0), max(last, 0)))
    return three(slices)


def draw_clicks(
    positive: Tensor, negative: Tensor, clicks: tuple[Click, ...], window: Window, style: PromptStyle
) -> None:
    """Draws a ball at each click (equations 2 and 3), drawn after resampling so that none is lost."""
    ball = click_ball(style.radius, style.falloff).to(positive.device)
    for age, click in enumerate(reversed(clicks)):
        channel = positive if click.positive else negative
        centre = [round(v) for v in window.to_patch(click.position)]
        target, source = [], []
        for c, n in zip(centre, window.patch):
            first, last = max(c - style.radius, 0), min(c + style.radius + 1, n)
            target.append(slice(first, max(last, first)))
            source.append(slice(first - c + style.radius, max(last, first) - c + style.radius))
        here = channel[tuple(target)]
        if here.numel():
            torch.maximum(here, ball[tuple(source)] * style.decay**age, out=here)


@functools.lru_cache(maxsize=8)
def click_ball(radius: int, falloff: bool) -> Tensor:
    """A ball of voxels at most ``radius`` from its centre, (2 radius + 1,) * 3.

    With ``falloff``, a voxel's value is its distance to the nearest voxel outside the ball over the centre's.
    """
    axis = torch.arange(-radius, radius + 1)
    squared = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    ball = (squared <= radius**2).float()
    if not falloff:
        return ball
    # The nearest outside voxel may lie one voxel beyond the array's faces.
    padded = torch.nn.functional.pad(ball, (1,) * 6)
    outside = (padded == 0).nonzero().float()
    inside = (padded > 0).nonzero()
    values = torch.zeros_like(padded)
    values[tuple(inside.T)] = torch.cdist(inside.float(), outside).amin(dim=1)
    return (values / values.max())[1:-1, 1:-1, 1:-1].contiguous()
