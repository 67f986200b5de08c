"""Regions of real images that nobody labelled: objects whose borders the image shows.

Solid ones are of similar intensity, thin ones stand out from what is close to them, and scattered ones are the
brightest or darkest pieces of a part of the window.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, find_objects
from scipy.ndimage import label as connected_components
from torch import Tensor
from torch.nn.functional import pad

from inference.geometry import voxel
from training.noise import grown, local_mean

KINDS = {"solid": 0.4, "thin": 0.3, "scattered": 0.3}
"""How often each kind is looked for."""

LARGEST = 0.5
"""Share of a window, and of the image in it."""

LEAST_DIFFERENCE = 0.35
"""Between a region's mean and that of its surroundings, in deviations of the window's image."""

AT_RIM = 0.06
"""Share of a solid region's voxels that may lie at the rim of the window or of the image: with more it is mostly
background, seen in part; with less, hardly one is found."""

LEAST_ABOVE_NOISE = 3.5
"""A thin or scattered region's mean differs from that of its surroundings by so many deviations of the image from voxel
to voxel; mere peaks of noise by about 3."""

LEAST_THIN = 40
"""Voxels of a thin region."""

MOST_THIN = 0.25
"""Share of the voxels of a thin region, at most, that are surrounded by it."""

LEAST_PIECE, LEAST_PIECES = 3, 4
"""Voxels of a piece, and pieces of a scattered region."""

ANY_NEIGHBOUR = np.ones((3, 3, 3), bool)


def draw_kind(random: np.random.Generator) -> str:
    """One of :data:`KINDS`."""
    return str(random.choice(list(KINDS), p=list(KINDS.values())))


def region(image: Tensor, kind: str, random: np.random.Generator) -> Tensor | None:
    """An object that nobody labelled.

    Args:
        image: (D, H, W) normalized image in the window; exact zeros are padding.
        kind: one of :data:`KINDS`.

    Returns:
        bool (D, H, W); None if nothing was found but specks, most of the window, what lies at its rim, rags, or what
        hardly differs from its surroundings.
    """
    content = image != 0
    if not content.any():
        return None
    return {"solid": _solid, "thin": _thin, "scattered": _scattered}[kind](image, content, random)


def _solid(image: Tensor, content: Tensor, random: np.random.Generator) -> Tensor | None:
    """A connected region of similar intensity."""
    smooth = local_mean(image, 3)
    low = float(random.uniform(0, 0.9))
    high = low + float(random.uniform(0.1, 0.6))
    band = torch.quantile(smooth[content][::5], torch.tensor([low, min(high, 1.0)]))
    inside = (smooth >= band[0]) & (smooth <= band[1]) & content
    labels, sizes = _components(inside, touching=False)
    at_rim = _at_rim(labels, content, len(sizes))
    boxes = find_objects(labels)
    candidates = [
        label
        for label in np.flatnonzero((sizes > 1e-3 * image.numel()) & (sizes < LARGEST * image.numel()))
        if at_rim[label] <= AT_RIM * sizes[label]
        and sizes[label] > 0.15 * np.prod([s.stop - s.start for s in boxes[label - 1]])
    ]
    if not candidates:
        return None
    found = torch.from_numpy(labels == int(random.choice(candidates)))
    near = grown(found, 2)
    means = _means(smooth, found, near & ~found & content, content)
    if means is None:
        return None
    within, without = means
    # The band's edges are anywhere on the border's slope; the border itself is halfway.
    found = near & content & ((smooth - (within + without) / 2) * (within - without) > 0)
    # Opened and closed a little, as a person would draw it: majority of the neighbourhood.
    found = local_mean(found.float(), 3, count_include_pad=True) > 0.45
    if random.random() < 0.5:  # A whole with what it encloses, as a head or a kidney is.
        found = torch.from_numpy(binary_fill_holes(found.numpy()))
    # What is found may be more than the candidate was: the air around a small image.
    return found if 0 < int(found.sum()) < LARGEST * int(content.sum()) else None


def _thin(image: Tensor, content: Tensor, random: np.random.Generator) -> Tensor | None:
    """A connected thin region, a tube or a sheet: what is brighter, or darker, than the mean around it."""
    content = _without_rim(content)
    if not content.any():
        return None
    contrast = _local_contrast(image, content, random)
    strong, weak = torch.quantile(contrast[content][::5], torch.tensor([random.uniform(0.93, 0.99), 0.88])).tolist()
    weak = max(weak, strong / 2)
    if weak <= 0:
        return None
    labels, sizes = _components((contrast > weak) & content)
    seeds = np.bincount(labels[(contrast > strong).numpy()], minlength=len(sizes))
    at_rim = _at_rim(labels, content, len(sizes))
    candidates = np.flatnonzero(
        (sizes >= LEAST_THIN) & (sizes < 0.15 * image.numel()) & (seeds > 0) & (at_rim <= 0.1 * sizes)
    )
    if not len(candidates):
        return None
    # By size: there are many more specks than vessels.
    chosen = random.choice(candidates, p=sizes[candidates] / sizes[candidates].sum())
    found = torch.from_numpy(labels == int(chosen))
    core = ~grown(~found, 1)
    if int(core.sum()) > MOST_THIN * int(found.sum()):
        return None
    return found if _stands_out(image, found, content) else None


def _scattered(image: Tensor, content: Tensor, random: np.random.Generator) -> Tensor | None:
    """The brightest or darkest pieces of a part of the window, all of them: one object."""
    content = _without_rim(content)
    if not content.any():
        return None
    values = local_mean(image, 3) if random.random() < 0.5 else image
    if random.random() < 0.5:
        values = _local_contrast(image, content, random)
    elif random.random() < 0.4:
        values = -values
    part = content & _part(voxel(image.shape), random)
    inside = values[part][::3]
    if len(inside) < 500:
        return None
    threshold = torch.quantile(inside, float(random.uniform(0.93, 0.997)))
    labels, sizes = _components((values > threshold) & part)
    at_rim = _at_rim(labels, part, len(sizes))
    kept = (sizes >= LEAST_PIECE) & (at_rim <= 0.2 * sizes)
    kept[0] = False
    if kept.sum() < LEAST_PIECES or sizes[kept].max() > 0.7 * sizes[kept].sum():
        return None
    found = torch.from_numpy(kept[labels])
    return found if _stands_out(image, found, content) else None


def _local_contrast(image: Tensor, content: Tensor, random: np.random.Generator) -> Tensor:
    """How much brighter, or darker, each voxel is than what is around it; 0 outside ``content``."""
    wide = int(random.choice((7, 9, 13)))
    fine = local_mean(image, 3) if random.random() < 0.7 else image
    mean = local_mean(image * content, wide) / local_mean(content.float(), wide).clamp_min(1e-3)
    contrast = (fine - mean) * float(random.choice((-1, 1)))
    return contrast.masked_fill(~content, 0.0)


def _without_rim(content: Tensor) -> Tensor:
    """Without two voxels next to padding, where smoothing mixes both."""
    return ~grown(~content, 2)


def _stands_out(image: Tensor, found: Tensor, content: Tensor) -> bool:
    """Whether a region differs from its surroundings, and not by noise only."""
    around = grown(found, 2) & ~found & content
    means = _means(image, found, around, content)
    if means is None:
        return False
    # 1.48 medians of the absolute value are the deviation of what is noise; borders are too few to matter.
    noise = 1.48 * float((image - local_mean(image, 3))[content][::3].abs().median())
    return abs(means[0] - means[1]) > LEAST_ABOVE_NOISE * noise


def _part(shape: tuple[int, int, int], random: np.random.Generator) -> Tensor:
    """A box of 40 to 100 % of each edge, bool (D, H, W)."""
    part = torch.zeros(shape, dtype=torch.bool)
    slices = []
    for n in shape:
        size = max(round(n * random.uniform(0.4, 1.0)), 1)
        first = int(random.integers(0, n - size + 1))
        slices.append(slice(first, first + size))
    part[tuple(slices)] = True
    return part


def _components(mask: Tensor, touching: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Labels of connected components, and their voxels by label; 0 for label 0, which is no component.

    Args:
        touching: whether voxels are connected that share a corner, or a face only.
    """
    labels, count = connected_components(mask.numpy(), ANY_NEIGHBOUR if touching else None)
    sizes = np.bincount(labels.ravel(), minlength=count + 1).astype(float)
    sizes[0] = 0
    return labels, sizes


def _at_rim(labels: np.ndarray, content: Tensor, count: int) -> np.ndarray:
    """Voxels of each label next to the window's rim or to padding: mostly background, seen in part."""
    rim = grown(pad(~content, (1,) * 6, value=True), 1)[1:-1, 1:-1, 1:-1]
    return np.bincount(labels[rim.numpy()], minlength=count)


def _means(image: Tensor, found: Tensor, around: Tensor, content: Tensor) -> tuple[float, float] | None:
    """The image's means in a region and around it; None if they hardly differ."""
    if not around.any():
        return None
    within, without = float(image[found].mean()), float(image[around].mean())
    if abs(within - without) < LEAST_DIFFERENCE * float(image[content].std()):
        return None
    return within, without
