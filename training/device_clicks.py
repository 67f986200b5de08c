"""The simulated user's clicks for a whole batch, on the batch's device and without waiting for it.

A program that reads a number from a GPU waits until the GPU has caught up. So nothing here is read: components come
from max-pooling and pointer jumping, depths from separable minima, and where the clicks are stays a tensor.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from inference.prompts import CLICK, CLICK_NEGATIVE, PromptStyle, click_ball

ROUNDS = 24
"""Of pooling and jumping. A component so winding that they do not span it counts as several."""

CHUNK_NUMBERS = 2**26
"""Most float32 numbers that the separable minima hold at a time (256 MiB), whatever the batch."""

MOST_VOXELS = 2**24
"""Of a patch with its border: float32 counts no further."""


@dataclass(frozen=True)
class Placement:
    """Where in an error the simulated user clicks. The default is the challenge's user.

    Args:
        spread: 0 for the deepest voxel of a component, any one of equally deep ones. Otherwise a voxel is drawn with a
            probability proportional to its depth to the power of 1 / spread: 1 for proportional to the depth, and
            nearer to uniform the larger it is. Depth is the distance to the nearest voxel outside the component.
        other_component: share of the clicks that are on another component than the largest, if there is one; which
            one is drawn with a probability proportional to its voxels.
    """

    spread: float = 0.0
    other_component: float = 0.0

    def __post_init__(self) -> None:
        if self.spread < 0 or not 0 <= self.other_component <= 1:
            raise ValueError(f"{self}: expected a spread of at least 0 and a share of other components in [0, 1]")


CHALLENGE = Placement()

HUMAN = Placement(spread=1.0, other_component=0.25)
"""As people click: somewhere inside an error, and not always in the largest one."""


@dataclass(frozen=True)
class BatchClicks:
    """A click for each sample of a batch.

    Args:
        position: (N, 3) int64, axes z, y, x, in voxels of the patch.
        positive: (N,) bool, whether it is in the object.
        made: (N,) bool, whether there is one; where not, the others mean nothing.
    """

    position: Tensor
    positive: Tensor
    made: Tensor


@torch.no_grad()
def batch_clicks(
    prediction: Tensor,
    truth: Tensor,
    placement: Placement = CHALLENGE,
    generator: torch.Generator | None = None,
    wanted: Tensor | None = None,
) -> BatchClicks:
    """The clicks on the errors of a batch; as :func:`evaluation.simulated_user.click_from_error` but for ties.

    Components are 26-connected, depth is Euclidean in voxels, and all beyond the patch is background. Of equally large
    components the first in memory order is taken; of equally deep voxels one is drawn evenly.

    Args:
        prediction: (N, D, H, W) bool, on any device.
        truth: the same.
        generator: of the device, for what is drawn; None for PyTorch's own.
        wanted: (N,) bool, the samples that get a click if they have an error; None for all.

    Raises:
        ValueError: the patch has more than 2²⁴ voxels, its border included.
    """
    error = pad(prediction ^ truth, (1,) * 6)
    samples, shape = len(error), error.shape[1:]
    if error[0].numel() > MOST_VOXELS:
        raise ValueError(f"patch {tuple(truth.shape[1:])}: expected at most 2**24 voxels, its border included")
    component = _component(_labels(error), placement, generator)
    squared_depth = squared_distance(component.view_as(error)).view(samples, -1)
    if placement.spread:
        # The largest of log-weights and Gumbel noise is a draw in proportion to the weights.
        noise = torch.rand(squared_depth.shape, generator=generator, device=error.device)
        gumbel = noise.clamp_(1e-7, 1 - 1e-7).log_().neg_().log_().neg_()
        key = squared_depth.log().mul_(0.5).add_(gumbel, alpha=placement.spread)
    else:
        # Squares are whole numbers: less than one orders ties only.
        key = squared_depth + 0.5 * torch.rand(squared_depth.shape, generator=generator, device=error.device)
    where = key.argmax(dim=1)
    made = error.view(samples, -1).any(dim=1)
    if wanted is not None:
        made = made & wanted
    position = _position(where, shape)
    inside = position.clamp_min(0)  # Where there is no error, a voxel of the border may come out.
    for axis, size in enumerate(truth.shape[1:]):
        inside[:, axis].clamp_max_(size - 1)
    _, _, height, width = truth.shape
    index = (inside[:, 0] * height + inside[:, 1]) * width + inside[:, 2]
    positive = truth.reshape(samples, -1).gather(1, index[:, None])[:, 0]
    return BatchClicks(inside, positive, made)


@torch.no_grad()
def draw(channels: Tensor, clicks: BatchClicks, style: PromptStyle, scale: int = 1) -> None:
    """Draws a ball at each click, in place, as :func:`inference.prompts.draw_clicks` does for one object.

    Clicks are drawn in the order in which they were made: each lets those before it fade.

    Args:
        channels: (N, 8, D, H, W), contiguous, on the clicks' device.
        scale: voxels of these channels along an axis for each voxel that the clicks are in.
    """
    samples, patch = len(channels), channels.shape[2:]
    drawn = channels[:, CLICK : CLICK_NEGATIVE + 1]
    if style.decay != 1:
        drawn.mul_(torch.where(clicks.made, style.decay, 1.0).view(-1, 1, 1, 1, 1))
    offsets, values = _ball(style.radius, style.falloff, channels.device)
    centre = clicks.position
    if scale != 1:
        centre = ((centre + 0.5) * scale - 0.5).round().long()
    voxels = centre[:, None] + offsets
    inside = clicks.made[:, None].expand(voxels.shape[:2])
    index = (~clicks.positive).long()[:, None]
    for axis, size in enumerate(patch):
        along = voxels[..., axis]
        inside = inside & (along >= 0) & (along < size)
        index = index * size + along.clamp(0, size - 1)
    # A ball's part beyond the patch is 0, and the largest of 0 and what is there changes nothing.
    drawn.view(samples, -1).scatter_reduce_(1, index, (values * inside).to(channels.dtype), "amax")


def squared_distance(inside: Tensor) -> Tensor:
    """(N, D, H, W) bool -> float32, each voxel's squared distance to the nearest false one of its sample, exactly.

    The faces of the patch must be false. The first axis is scanned; then the minimum over each further axis is taken
    of the square so far plus the square of the way along the axis, some samples and slices at a time.
    """
    depth = inside.shape[1]
    step = torch.arange(depth, device=inside.device, dtype=torch.float32).view(1, -1, 1, 1)
    before = torch.where(inside, 0.0, step).cummax(dim=1).values
    after = torch.where(inside, depth - 1.0, step).flip(1).cummin(dim=1).values.flip(1)
    squares = torch.minimum(step - before, after - step).square_()
    for axis in (2, 3):
        squares = _nearest_along(squares.movedim(axis, -1)).movedim(-1, axis)
    return squares.contiguous()


def _nearest_along(squares: Tensor) -> Tensor:
    """(…, W) -> the same; along the last axis, the smallest of the squares plus the squared way there."""
    width = squares.shape[-1]
    step = torch.arange(width, device=squares.device, dtype=torch.float32)
    ways = (step[:, None] - step).square_()
    rows = squares.reshape(-1, width)
    nearest = torch.empty_like(rows)
    size = max(CHUNK_NUMBERS // width**2, 1)
    for first in range(0, len(rows), size):
        chunk = rows[first : first + size]
        torch.amin(chunk[:, None, :] + ways, dim=-1, out=nearest[first : first + size])
    return nearest.view(squares.shape)


def _labels(error: Tensor) -> Tensor:
    """(N, D, H, W) bool, false at its faces -> (N, D · H · W) int64, 0 outside and one number a component.

    Components that come earlier in memory order have larger numbers.
    """
    samples, shape, voxels = len(error), error.shape[1:], error[0].numel()
    error = error.flip(1, 2, 3)  # A voxel's number is its place in memory, and the largest wins: the last one's.
    labels = torch.arange(voxels, dtype=torch.float32, device=error.device).view(1, *shape) * error
    for _ in range(ROUNDS):
        # Each voxel takes the largest number around it, then the number that the voxel of that number has.
        around = max_pool3d(labels[:, None], 3, stride=1, padding=1)[:, 0]
        flat = around.view(samples, voxels)
        labels = flat.gather(1, flat.long()).view_as(error) * error
    return labels.flip(1, 2, 3).view(samples, voxels).long()


def _component(labels: Tensor, placement: Placement, generator: torch.Generator | None) -> Tensor:
    """(N, V) labels -> (N, V) bool, the component that is clicked on."""
    counts = torch.zeros(labels.shape, device=labels.device)
    counts.scatter_add_(1, labels, (labels > 0).float())
    largest = counts.shape[1] - 1 - counts.flip(1).argmax(dim=1, keepdim=True)
    chosen = largest
    if placement.other_component:
        others = (labels > 0) & (labels != largest)
        voxel = (torch.rand(labels.shape, generator=generator, device=labels.device) + 1).mul_(others)
        voxel = voxel.argmax(dim=1, keepdim=True)
        wanted = torch.rand((len(labels), 1), generator=generator, device=labels.device) < placement.other_component
        chosen = torch.where(wanted & others.any(dim=1, keepdim=True), labels.gather(1, voxel), largest)
    return (labels == chosen) & (labels > 0)


def _position(where: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N,) place in memory of a patch with its border -> (N, 3) voxel of the patch without."""
    _, height, width = shape
    return torch.stack((where // (height * width), where // width % height, where % width), dim=1) - 1


@functools.lru_cache(maxsize=8)
def _ball(radius: int, falloff: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offsets (M, 3) from a click's centre, and the ball's values there (M,)."""
    ball = click_ball(radius, falloff)
    offsets = ball.nonzero() - radius
    return offsets.to(device), ball[ball != 0].to(device)
