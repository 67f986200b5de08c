"""Samples beyond the labels: images made from label maps, and objects made from images.

Images made from label maps stand in for what real images are scarce of: any contrast, any texture, any scanner.

A region of the label map gets a random brightness; what is not labelled is parted into regions too, by the real image's
intensities. Blur, a bias field, speckle and noise follow, as in Billot et al., "SynthSeg" (2023), in a patch.
"""

from __future__ import annotations

import cc3d
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import avg_pool3d, interpolate, max_pool3d


def smooth_noise(shape: tuple[int, int, int], cells: int, random: np.random.Generator) -> Tensor:
    """Smooth noise of about unit deviation, ``cells`` random values along each axis, interpolated."""
    coarse = torch.from_numpy(random.standard_normal((1, 1, cells, cells, cells), dtype=np.float32))
    return interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]


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
    texture = smooth_noise(tuple(image.shape), int(random.integers(8, 24)), random)
    made = means[regions] + deviations[regions] * texture
    for _ in range(int(random.integers(0, 3))):
        made = avg_pool3d(made[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    if random.random() < 0.5:
        made = made * torch.exp(0.3 * smooth_noise(tuple(image.shape), int(random.integers(2, 5)), random))
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


def region(image: Tensor, random: np.random.Generator) -> Tensor | None:
    """A connected region of similar intensity: an object that nobody labelled, with borders that the image shows.

    Args:
        image: (D, H, W) normalized image in the window; exact zeros are padding.

    Returns:
        bool (D, H, W), around a random voxel of the middle of the window; None if what is found there is a few voxels,
        most of the window, at its rim, or ragged.
    """
    smooth = avg_pool3d(image[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    seed = tuple(int(random.integers(n // 4, max(3 * n // 4, n // 4 + 1))) for n in image.shape)
    spread = float(smooth[smooth != 0].std()) if smooth.any() else 0.0
    below, above = random.uniform(0.15, 0.8, 2) * spread
    similar = (smooth > smooth[seed] - float(below)) & (smooth < smooth[seed] + float(above)) & (image != 0)
    labels = cc3d.connected_components(similar.numpy().view(np.uint8), connectivity=6)
    if labels[seed] == 0:
        return None
    found = torch.from_numpy(labels == labels[seed])
    if not 1e-3 < float(found.float().mean()) < 0.35:
        return None
    # What lies along the rim of the image or of the window is mostly background, seen in part.
    rim = functional.pad((image == 0).float(), (1,) * 6, value=1.0)[None, None]
    near_rim = max_pool3d(rim, 3, stride=1)[0, 0] > 0
    if float((found & near_rim).sum()) > 0.02 * float(found.sum()):
        return None
    # Opened and closed a little, as a person would draw it: majority of the neighbourhood.
    found = avg_pool3d(found[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0.45
    if not found.any():
        return None
    box = found.nonzero()
    filled = float(found.sum()) / float((box.amax(dim=0) - box.amin(dim=0) + 1).prod())
    return found if filled > 0.15 else None


def random_shape(shape: tuple[int, int, int], random: np.random.Generator) -> Tensor:
    """A blob: smooth noise and a ball's profile, thresholded; bool (D, H, W), not empty."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    radii = random.uniform(0.25, 0.6, 3)
    squared = sum(
        (axis / float(radius)).square().view([-1 if a == b else 1 for b in range(3)])
        for a, (axis, radius) in enumerate(zip(axes, radii))
    )
    profile = 1 - squared + 0.6 * smooth_noise(shape, int(random.integers(3, 7)), random)
    blob = profile > 0
    blob[tuple(n // 2 for n in shape)] = True
    return blob
