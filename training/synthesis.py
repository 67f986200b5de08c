"""Images made anew from a real image and its label map: any contrast, any texture, any scanner.

A region of the label map gets a random brightness; what is not labelled is parted into regions too, by the real image's
intensities. Blur, a bias field, speckle and noise follow, as in Billot et al., "SynthSeg" (2023), in a patch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inference.geometry import voxel
from training.noise import local_mean, smooth_noise


def synthesize(image: Tensor, labels: Tensor, random: np.random.Generator) -> Tensor:
    """A new image of the same anatomy.

    Args:
        image: (D, H, W) normalized image in the window; exact zeros are padding and stay so.
        labels: (D, H, W) integer labels in the window, 0 for what is not labelled.

    Returns:
        (D, H, W) float32, normalized.
    """
    padding = image == 0
    levels = int(random.integers(2, 7))
    edges = torch.quantile(image.flatten()[::7], torch.linspace(0, 1, levels + 1)[1:-1])
    regions = torch.bucketize(image, edges)
    known, inverse = labels.unique(return_inverse=True)
    regions = torch.where(labels > 0, inverse + levels, regions)
    count = levels + len(known)
    means = torch.from_numpy(random.uniform(0, 1, count).astype(np.float32))
    deviations = torch.from_numpy(random.uniform(0, 0.15, count).astype(np.float32))
    texture = smooth_noise(voxel(image.shape), int(random.integers(8, 24)), random)
    made = means[regions] + deviations[regions] * texture
    for _ in range(int(random.integers(0, 3))):
        made = local_mean(made, 3)
    if random.random() < 0.5:
        made = made * torch.exp(0.3 * smooth_noise(voxel(image.shape), int(random.integers(2, 5)), random))
    if random.random() < 0.4:  # Speckle multiplies, as in ultrasound.
        grain = torch.from_numpy(random.rayleigh(1.0, tuple(image.shape)).astype(np.float32)) / 1.25
        made = made * torch.lerp(torch.ones(()), grain, float(random.uniform(0.1, 0.6)))
    noise = torch.from_numpy(random.standard_normal(tuple(image.shape), dtype=np.float32))
    made = made + noise * float(random.uniform(0, 0.1))
    inside = made[~padding]
    if inside.numel() < 2:
        return image
    made = (made - inside.mean()) / inside.std().clamp_min(1e-3)
    return made.masked_fill(padding, 0.0)
