"""Changes of a sample that keep its meaning: flips, quarter turns, contrast, noise, blur."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def flip_and_turn(channels: Tensor, truth: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flips each axis half of the time and exchanges two axes now and then; channels (8, D, H, W), truth (D, H, W)."""
    flipped = [axis for axis in (-3, -2, -1) if random.random() < 0.5]
    channels, truth = channels.flip(flipped), truth.flip(flipped)
    if truth.shape[-1] == truth.shape[-2] and random.random() < 0.5:
        channels, truth = channels.transpose(-1, -2), truth.transpose(-1, -2)
    if truth.shape[-1] == truth.shape[-3] and random.random() < 0.15:
        channels, truth = channels.transpose(-1, -3), truth.transpose(-1, -3)
    return channels.contiguous(), truth.contiguous()


def change_intensities(image: Tensor, random: np.random.Generator) -> Tensor:
    """Contrast, gamma, inversion, blur and noise, each now and then; (D, H, W) normalized in, about normalized out.

    Voxels of exactly 0 with no image around them (padding) stay what they are: inference shows zeros there too.
    """
    padding = image == 0
    if random.random() < 0.3:
        low, high = float(image.min()), float(image.max())
        if high > low:
            gamma = float(np.exp(random.uniform(-0.5, 0.5)))
            image = ((image - low) / (high - low)) ** gamma * (high - low) + low
    if random.random() < 0.1:
        image = -image
    if random.random() < 0.5:
        image = image * float(np.exp(random.uniform(-0.3, 0.3))) + float(random.uniform(-0.3, 0.3))
    if random.random() < 0.15:
        blurred = torch.nn.functional.avg_pool3d(image[None, None], 3, stride=1, padding=1, count_include_pad=False)
        image = torch.lerp(image, blurred[0, 0], float(random.uniform(0.3, 1.0)))
    if random.random() < 0.25:
        noise = torch.from_numpy(random.standard_normal(image.shape, dtype=np.float32))
        image = image + noise * float(random.uniform(0.0, 0.25))
    return image.masked_fill(padding, 0.0)
