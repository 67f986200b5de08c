"""Samples beyond the labels: images made from label maps, and objects made from images.

Images made from label maps stand in for what real images are scarce of: any contrast, any texture, any scanner.

A region of the label map gets a random brightness; what is not labelled is parted into regions too, by the real image's
intensities. Blur, a bias field, speckle and noise follow, as in Billot et al., "SynthSeg" (2023), in a patch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate, pad

LARGEST_REGION = 0.5
"""Share of a window."""


def smooth_noise(shape: tuple[int, int, int], cells: int, random: np.random.Generator) -> Tensor:
    """Smooth noise of about unit deviation, ``cells`` random values along each axis, interpolated."""
    coarse = torch.from_numpy(random.standard_normal((1, 1, cells, cells, cells), dtype=np.float32))
    return interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]


def smoothed(image: Tensor) -> Tensor:
    """The mean over 3×3×3 voxels, of those inside, float32 (D, H, W). On a CPU far faster than average pooling."""
    for axis in range(3):
        across = image.movedim(axis, 0)
        sums = across.clone()
        sums[1:] += across[:-1]
        sums[:-1] += across[1:]
        counts = torch.full((len(across), 1, 1), 3.0)
        counts[0] -= 1
        counts[-1] -= 1
        image = (sums / counts).movedim(0, axis)
    return image


def dilated(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The mask and all within that many voxels along each axis."""
    for axis in range(3):
        for _ in range(radius):
            across = np.moveaxis(mask, axis, 0)
            wider = across.copy()
            wider[1:] |= across[:-1]
            wider[:-1] |= across[1:]
            mask = np.moveaxis(wider, 0, axis)
    return mask


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
        made = smoothed(made)
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
        bool (D, H, W); None if nothing was found but specks, most of the window, what lies at its rim, rags, or what
        hardly differs from its surroundings.
    """
    content = image != 0
    if not content.any():
        return None
    smooth = smoothed(image)
    low = float(random.uniform(0, 0.9))
    high = low + float(random.uniform(0.1, 0.6))
    band = torch.quantile(smooth[content][::5], torch.tensor([low, min(high, 1.0)]))
    inside = (smooth >= band[0]) & (smooth <= band[1]) & content
    labels, _ = ndimage.label(inside.numpy())
    sizes, boxes = np.bincount(labels.ravel()).astype(float), ndimage.find_objects(labels)
    # What lies along the rim of the image or of the window is mostly background, seen in part.
    rim = dilated(np.pad(~content.numpy(), 1, constant_values=True), 1)[1:-1, 1:-1, 1:-1]
    at_rim = np.bincount(labels[rim], minlength=len(sizes))
    candidates = [
        label
        for label in np.flatnonzero((sizes > 1e-3 * image.numel()) & (sizes < LARGEST_REGION * image.numel()))
        if label > 0
        and at_rim[label] <= 0.02 * sizes[label]
        and sizes[label] > 0.15 * np.prod([s.stop - s.start for s in boxes[label - 1]])
    ]
    if not candidates:
        return None
    found = torch.from_numpy(labels == int(random.choice(candidates)))
    near = torch.from_numpy(dilated(found.numpy(), 2))
    around = near & ~found & content
    if not around.any():
        return None
    within, without = float(smooth[found].mean()), float(smooth[around].mean())
    if abs(within - without) < 0.35 * float(smooth[content].std()):
        return None
    # The band's edges are anywhere on the border's slope; the border itself is halfway.
    found = near & content & ((smooth - (within + without) / 2) * (within - without) > 0)
    # Opened and closed a little, as a person would draw it: majority of the neighbourhood.
    found = smoothed(pad(found.float(), (1,) * 6))[1:-1, 1:-1, 1:-1] > 0.45
    if random.random() < 0.5:  # A whole with what it encloses, as a head or a kidney is.
        found = torch.from_numpy(ndimage.binary_fill_holes(found.numpy()))
    return found if found.any() else None


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
