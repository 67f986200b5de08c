"""An image of a scene that has none: any contrast, texture and scanner, from hardly visible to obvious.

A structure's pieces look alike. Partial volume, thick slices, rims, textures, bias fields and the noises of magnetic
resonance, ultrasound, CT and fluorescence come and go, so that none of them can be relied on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from inference.geometry import voxel
from training.noise import generator, grown, smooth_noise
from training.shapes.fields import Scene, coordinates

CONTRAST = (0.5, 16.0)
"""Difference between the object's mean and its surroundings, in deviations of the noise."""

LEAST_CONTRAST_OF_THIN = 1.5
"""The same at least where hardly a voxel of the object is surrounded by it: there is little to average over."""

STYLES = {"plain": 0.45, "flat": 0.15, "speckle": 0.15, "fluorescence": 0.15, "textured": 0.1}
"""How often an image looks like MR, CT, ultrasound, fluorescence or electron microscopy, roughly."""


def make_image(scene: Scene, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A scene's image and its object.

    Returns:
        image: (D, H, W) float32, normalized; exact zeros are padding.
        truth: (D, H, W) bool, as the image shows it: without what lies in the padding, in slices as thick as its.
    """
    style = str(random.choice(list(STYLES), p=list(STYLES.values())))
    labels, truth = scene.labels.long(), scene.truth
    thin = int((~grown(~truth, 1)).sum()) < 0.2 * int(truth.sum())
    signal = _signal(labels, truth, thin, style, random)
    signal = _partial_volume(signal, random)
    if random.random() < 0.2:
        signal, truth = _thick_slices(signal, truth, random)
    if style in ("plain", "speckle") and random.random() < 0.5:
        signal = signal * torch.exp(0.3 * smooth_noise(voxel(signal.shape), int(random.integers(2, 5)), random))
    image = _noisy(signal, truth, thin, style, random)
    padding = _padding(truth, random) if random.random() < 0.2 else None
    if padding is None:
        image = (image - image.mean()) / image.std().clamp_min(1e-6)
        return image, truth
    inside = image[~padding]
    image = (image - inside.mean()) / inside.std().clamp_min(1e-6)
    return image.masked_fill_(padding, 0.0), truth & ~padding


def _signal(labels: Tensor, truth: Tensor, thin: bool, style: str, random: np.random.Generator) -> Tensor:
    """The scene without blur and noise: a mean for each structure, tissues behind it, textures, rims."""
    shape = voxel(labels.shape)
    structures = int(labels.max()) + 1
    regions, tissues = _tissues(labels, random)
    means = random.uniform(0, 1, structures + tissues)
    if style == "fluorescence":
        means[[0, *range(structures, structures + tissues)]] *= 0.15
        means[1:structures] = random.uniform(0.3, 1, structures - 1)
    around = _around(truth)
    owner = int(torch.mode(regions[truth][:4096]).values)
    if owner < structures:
        counts = torch.bincount(regions[around], minlength=len(means)).numpy().astype(float)
        counts[owner] = 0
        means[owner] = _mean_of_object(means, counts, thin, style, random)
    signal = torch.from_numpy(means.astype(np.float32))[regions]
    if random.random() < 0.15:  # A capsule, a halo, an edge that the scanner overdraws.
        rim = grown(truth, 1) & ~truth
        signal = signal.masked_fill_(rim, float(means[owner] + random.choice((-1, 1)) * random.uniform(0.2, 0.6)))
    if style != "flat" and random.random() < 0.8:
        strongest = 0.25 if style == "textured" else 0.1
        for _ in range(int(random.integers(1, 3))):
            share = random.uniform(0, strongest, len(means)) * (random.random(len(means)) < 0.6)
            signal.addcmul_(torch.from_numpy(share.astype(np.float32))[regions], _texture(shape, random))
    return signal


def _mean_of_object(
    means: np.ndarray, counts: np.ndarray, thin: bool, style: str, random: np.random.Generator
) -> float:
    """Brighter or darker than what lies around it, and unlike each of its larger neighbours.

    Args:
        means: of all structures.
        counts: voxels of each next to the object.
    """
    if not counts.any():
        return float(random.uniform(0, 1))
    behind = float((counts * means).sum() / counts.sum())
    neighbours = means[counts >= min(0.15 * counts.sum(), counts.max())]
    steps = random.uniform(0.25, 0.9, 12) if thin else random.uniform(0.1, 0.7, 12)
    candidates = behind + steps * np.where(random.random(12) < (0.1 if style == "fluorescence" else 0.5), -1, 1)
    gaps = np.abs(candidates[:, None] - neighbours).min(axis=1)
    unlike = gaps > (0.2 if thin else 0.1)
    return float(candidates[unlike.argmax() if unlike.any() else gaps.argmax()])


def _tissues(labels: Tensor, random: np.random.Generator) -> tuple[Tensor, int]:
    """What lies behind the structures, parted into up to five tissues, at times in a body with air around it.

    Returns:
        the structures and tissues, numbered on, and how many tissues there are.
    """
    shape, first = voxel(labels.shape), int(labels.max()) + 1
    tissues, regions = int(random.integers(0, 5)), labels
    if tissues > 1:
        noise = smooth_noise(shape, int(random.integers(3, 9)), random)
        edges = torch.from_numpy(np.sort(random.normal(0, 0.9, tissues - 1)).astype(np.float32))
        regions = torch.where(labels == 0, torch.bucketize(noise, edges) + first, labels)
    if random.random() < 0.15:
        (u, v, w), half = coordinates(shape, random)
        radii = half * random.uniform(0.8, 1.5, 3)
        air = sum((axis / float(r)).square() for axis, r in zip((u, v, w), radii)) > 1
        regions = torch.where((labels == 0) & air, first + tissues, regions)
        tissues += 1
    return regions, tissues


def _texture(shape: tuple[int, int, int], random: np.random.Generator) -> Tensor:
    """Smooth noise, fine or coarse, or stripes; of about unit deviation."""
    if random.random() < 0.25:
        (u, _, _), half = coordinates(shape, random)
        waves = float(random.uniform(3, 12)) * math.pi / half
        return torch.sin(u * waves + smooth_noise(shape, 4, random)) * 1.4
    fine = np.exp(random.uniform(math.log(6), math.log(max(*shape, 12) / 2), 3))
    cells = voxel(fine if random.random() < 0.3 else np.full(3, fine[0]))
    return smooth_noise(shape, cells, random)


def _around(truth: Tensor) -> Tensor:
    """The object's surroundings: within two voxels of it."""
    return grown(truth, 2) & ~truth


def _blurred(image: Tensor, axis: int) -> Tensor:
    """A quarter, a half and a quarter of three neighbours along an axis."""
    n = image.shape[axis]
    blurred = image * 0.5
    blurred.narrow(axis, 1, n - 1).add_(image.narrow(axis, 0, n - 1), alpha=0.25)
    blurred.narrow(axis, 0, n - 1).add_(image.narrow(axis, 1, n - 1), alpha=0.25)
    for edge in (0, n - 1):
        blurred.narrow(axis, edge, 1).add_(image.narrow(axis, edge, 1), alpha=0.25)
    return blurred


def _partial_volume(signal: Tensor, random: np.random.Generator) -> Tensor:
    """Borders of a voxel or two; more along one axis at times."""
    times = [int(random.choice(3, p=(0.25, 0.55, 0.2)))] * 3
    if random.random() < 0.2:
        times[int(random.integers(3))] += int(random.integers(1, 4))
    for axis, count in enumerate(times):
        for _ in range(count):
            signal = _blurred(signal, axis)
    return signal


def _thick_slices(signal: Tensor, truth: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Both as if of slices 2 to 4 voxels thick along one axis; as they are, if the object would not survive it."""
    axis, thick = int(random.integers(3)), int(random.integers(2, 5))
    shape = list(signal.shape)
    few = [max(n // thick, 2) if a == axis else n for a, n in enumerate(shape)]

    def sliced(volume: Tensor) -> Tensor:
        slices = interpolate(volume[None, None], size=few, mode="area")
        return interpolate(slices, size=shape, mode="trilinear", align_corners=False)[0, 0]

    seen = sliced(truth.float()) > 0.5
    if int(seen.sum()) < 0.7 * int(truth.sum()):
        return signal, truth
    return sliced(signal), seen


def _noisy(signal: Tensor, truth: Tensor, thin: bool, style: str, random: np.random.Generator) -> Tensor:
    """Noise of the style's kind, as strong as a contrast drawn at random says."""
    shape, white = tuple(signal.shape), generator(random)
    around = _around(truth)
    if not around.any():
        around = ~truth
    # The root of the mean square: what is darker than one neighbour and brighter than another differs from both.
    difference = float((signal[around] - signal[truth].mean()).square().mean().sqrt())
    least, most = CONTRAST
    least = LEAST_CONTRAST_OF_THIN if thin else least
    # The root: more often plain than hardly visible.
    contrast = least * (most / least) ** math.sqrt(random.random())
    deviation = max(difference, 0.02) / contrast

    def grains() -> Tensor:
        """Noise of unit deviation, white or of a few voxels."""
        noise = torch.randn(shape, generator=white)
        if correlated:
            for axis, times in enumerate(correlated):
                for _ in range(times):
                    noise = _blurred(noise, axis)
            noise /= noise.std()
        return noise

    correlated = None
    if random.random() < (0.8 if style == "speckle" else 0.4):
        correlated = [int(random.integers(0, 3)) for _ in range(3)]
    if style == "speckle":
        # Multiplies: the deviation is that around the object. Rayleigh's has a mean of 1.25 and a deviation of 0.65.
        signal = signal - min(float(signal.min()), 0.0) + 0.05
        share = min(deviation / float(signal[around].mean()) / 0.52, 1.0)
        grain = (grains().square_() + grains().square_()).sqrt_() / 1.25
        image = signal * torch.lerp(torch.ones(()), grain, share)
        return torch.log(image + 0.05) if random.random() < 0.5 else image
    if style == "fluorescence":
        signal = (signal - min(float(signal.min()), 0.0)).clamp_min_(0.0)
        level = max(float(signal[around].mean()), float(signal[truth].mean())) + 1e-3
        photons = min(max(level / deviation**2, 2.0), 1e4)
        image = torch.poisson(signal * photons, generator=white)
        return image.sqrt() if random.random() < 0.3 else image
    if style == "plain" and random.random() < 0.3:  # Rician: the length of a complex signal.
        signal = signal - float(signal.min())
        return ((signal + grains() * deviation).square_() + (grains() * deviation).square_()).sqrt_()
    return signal + grains() * deviation


def _padding(truth: Tensor, random: np.random.Generator) -> Tensor | None:
    """Up to a third of the patch at one or two sides of it that no image covers; None if the object would lose half."""
    padding = torch.zeros_like(truth)
    for axis in random.permutation(3)[: int(random.integers(1, 3))]:
        n = truth.shape[int(axis)]
        thick = int(random.integers(1, n // 3 + 1))
        padding.narrow(int(axis), 0 if random.random() < 0.5 else n - thick, thick).fill_(True)
    left = int((truth & ~padding).sum())
    return padding if left >= max(8, 0.5 * int(truth.sum())) else None
