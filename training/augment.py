"""Changes of a sample that keep its meaning: flips, quarter turns, contrast, noise, blur. Drawn here, and done here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from inference.geometry import Voxel


@dataclass(frozen=True)
class Turn:
    """Axes that are flipped, and pairs of axes that are exchanged after that, one after the other; all below 0."""

    flipped: tuple[int, ...] = ()
    exchanged: tuple[tuple[int, int], ...] = ()

    def of(self, values: Tensor) -> Tensor:
        """(…, D, H, W), turned; a view where nothing is flipped."""
        values = values.flip(self.flipped) if self.flipped else values
        for pair in self.exchanged:
            values = values.transpose(*pair)
        return values

    def of_slices(self, slices: tuple[slice, slice, slice], shape: Voxel) -> tuple[slice, slice, slice]:
        """Where a block of a patch of that shape lies in the turned patch."""
        turned = [*slices]
        for axis in self.flipped:
            # A block that lies past the end would begin before 0, which counts from the end.
            turned[axis] = slice(max(shape[axis] - slices[axis].stop, 0), max(shape[axis] - slices[axis].start, 0))
        for a, b in self.exchanged:
            turned[a], turned[b] = turned[b], turned[a]
        z, y, x = turned
        return z, y, x


@dataclass(frozen=True)
class Intensities:
    """A change of the image: gamma, then ``scale`` (negative where it is inverted) and ``offset``, then blur and noise.

    Args:
        blur: share of the mean over 3×3×3 voxels.
        noise: its deviation.
        seed: of the noise.
    """

    gamma: float = 1.0
    scale: float = 1.0
    offset: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0

    @property
    def numbers(self) -> tuple[float, float, float, float, float]:
        return self.gamma, self.scale, self.offset, self.blur, self.noise


SAME_INTENSITIES = Intensities()


def draw_turn(patch: Voxel, random: np.random.Generator) -> Turn:
    """Flips each axis half of the time and exchanges two axes now and then, where they are of one length."""
    flipped = tuple(axis for axis in (-3, -2, -1) if random.random() < 0.5)
    exchanged = []
    if patch[-1] == patch[-2] and random.random() < 0.5:
        exchanged.append((-1, -2))
    if patch[-1] == patch[-3] and random.random() < 0.15:
        exchanged.append((-1, -3))
    return Turn(flipped, tuple(exchanged))


def draw_intensities(random: np.random.Generator) -> Intensities:
    """Gamma, inversion, contrast, blur and noise, each now and then."""
    gamma = float(np.exp(random.uniform(-0.5, 0.5))) if random.random() < 0.3 else 1.0
    scale, offset = (-1.0 if random.random() < 0.1 else 1.0), 0.0
    if random.random() < 0.5:
        scale, offset = scale * float(np.exp(random.uniform(-0.3, 0.3))), float(random.uniform(-0.3, 0.3))
    blur = float(random.uniform(0.3, 1.0)) if random.random() < 0.15 else 0.0
    noise = float(random.uniform(0.0, 0.25)) if random.random() < 0.25 else 0.0
    return Intensities(gamma, scale, offset, blur, noise, int(random.integers(2**62)) if noise else 0)


def change_intensities(images: Tensor, changes: list[Intensities], numbers: Tensor) -> Tensor:
    """Changes images (N, D, H, W), normalized, each as it is wanted; about normalized out.

    Voxels of exactly 0 with no image around them (padding) stay what they are: inference shows zeros there too.

    Args:
        changes: N.
        numbers: (N, 5), those of ``changes`` on the images' device.
    """
    if images.device.type == "cpu":  # One by one, and only what is wanted: a CPU has no launches to save.
        each = zip(images.split(1), changes, numbers.split(1))
        return torch.cat([_changed(image, [change], own, change) for image, change, own in each])
    return _changed(images, changes, numbers)


def _changed(images: Tensor, changes: list[Intensities], numbers: Tensor, only: Intensities | None = None) -> Tensor:
    """As :func:`change_intensities`; steps that ``only`` does not want are left out, None leaves out none."""
    if only == SAME_INTENSITIES:
        return images
    padding = images == 0
    gamma, scale, offset, blur, noise = (column.view(-1, 1, 1, 1) for column in numbers.unbind(dim=1))
    if only is None or only.gamma != 1:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        span = (high - low).clamp_min(1e-30)
        images = ((images - low) / span) ** gamma * span + low
    images = images * scale + offset
    if only is None or only.blur:
        means = avg_pool3d(images[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
        images = torch.lerp(images, means, blur)
    if any(change.noise for change in changes):
        images = torch.addcmul(images, _noise(images, changes), noise)
    return images.masked_fill(padding, 0.0)


def _noise(images: Tensor, changes: list[Intensities]) -> Tensor:
    """Noise of unit deviation, of each image's own seed; zeros where none is wanted."""
    noise = torch.zeros(images.shape, device=images.device)
    generator = torch.Generator(images.device)
    for values, change in zip(noise, changes):
        if change.noise:
            values.normal_(generator=generator.manual_seed(change.seed))
    return noise
