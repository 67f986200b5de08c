"""One training sample: an object, its prompts, and the window that inference would look at, slightly disturbed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from evaluation.simulated_user import box_from_mask, click_from_error
from inference.case import Box, Click, ObjectPrompts, Voxel
from inference.checkpoint import ModelConfig
from inference.placement import window_for
from inference.prompts import IMAGE, encode
from inference.window import Window
from training.appearance import make_image
from training.augment import change_intensities, flip_and_turn
from training.config import Sampling, TrainingConfig
from training.dataset import Volume, merged
from training.noise import smooth_noise
from training.regions import draw_kind, region
from training.shapes import Scene, procedural
from training.shapes.library import LabelMap, from_library
from training.synthesis import synthesize

REGION_ATTEMPTS = 6

SOURCE_POWER = 0.2
"""A source weighs as its number of files to that power. 0 would be all alike, 1 by files."""

TILE_ZOOM = (0.6, 1.3)
"""Voxels of the image a voxel of the patch, in samples for refinement."""

COARSENESS = (1.5, 5.0)
"""Voxels of the patch a voxel of the coarse pass before it."""

MOST_MERGED = 0.8
"""Share of samples with merged objects, in an image of many."""

REGION_ZOOM = (0.6, 4.0)
"""Voxels of the image a voxel of the (coarse) patch, in samples of regions: from a detail to a whole head."""

LARGEST_FILL = 0.7
SMALLEST_ZOOM = 0.35
"""A small object's window may shrink until the object fills that share of it, and by so much at most."""


@dataclass(frozen=True)
class Sample:
    """What the network sees first, and what it should say.

    Args:
        channels: (8, D, H, W) float32, as :func:`inference.prompts.encode` makes them.
        truth: (D, H, W) bool, in the patch.
        first_click: whether a click comes before the first prediction (a sample without a box).
    """

    channels: Tensor
    truth: Tensor
    first_click: bool


def file_probabilities(volumes: list[Volume], sampling: Sampling) -> np.ndarray:
    """How often each volume is drawn: by modality, then source, then file; sums to 1."""
    if not sampling.modalities:
        return np.full(len(volumes), 1 / len(volumes))
    weights = dict(sampling.modalities)
    groups: dict[str, dict[str, list[int]]] = {}
    for index, volume in enumerate(volumes):
        groups.setdefault(volume.modality, {}).setdefault(volume.source, []).append(index)
    probabilities = np.zeros(len(volumes))
    for modality, sources in groups.items():
        # A source of a thousand files weighs as four of one file: more, but not a thousand times more.
        shares = {source: len(files) ** SOURCE_POWER for source, files in sources.items()}
        for source, files in sources.items():
            probabilities[files] = weights.get(modality, 0.0) * shares[source] / sum(shares.values()) / len(files)
    if not probabilities.any():
        raise ValueError(f"no volume of the modalities {', '.join(weights)}; found {', '.join(sorted(groups))}")
    return probabilities / probabilities.sum()


def make_sample(volume: Volume, label: int, config: TrainingConfig, random: np.random.Generator) -> Sample:
    """The sample of one object of a volume: box or none, window, crop, augmentation."""
    sampling, model = config.sampling, config.model
    all_labels = volume.labels
    volume = _perhaps_merged(volume, label, sampling, random)
    shape, extent = tuple(volume.labels.shape), volume.objects[label]
    chance = random.random()
    has_box = chance >= sampling.no_box + sampling.no_prompt
    prompts = ObjectPrompts(label)
    if has_box:
        prompts = replace(prompts, box=_box_of(volume, label, random))
        window = window_for(prompts, shape, model.patch, model.keep_proportions)
    else:
        window = _window_without_box(volume, label, extent, model, random)
    first_click, previous = sampling.no_prompt <= chance and not has_box, None
    if random.random() < sampling.refinement:
        window = _tile(volume, label, extent, model, random)
        first_click, previous = False, _coarse(window.crop_label(volume.labels, label), random)
    elif random.random() >= sampling.perfect_window:
        window = _disturbed(window, extent, random)
    sample = crop(volume, prompts, window, model, first_click, previous)
    if random.random() < sampling.synthetic:
        sample.channels[IMAGE] = synthesize(sample.channels[IMAGE], window.crop_nearest(all_labels), random)
    return _augmented(sample, random) if sampling.augment else sample


def make_finer_sample(
    volume: Volume, label: int, config: TrainingConfig, random: np.random.Generator, any_size: bool = False
) -> Sample | None:
    """The sample of one object of a volume for a finer look, in a finer patch of the window that all is known of.

    Without a box that is not where the object was looked for at first, around a click, but about around the object.

    Args:
        any_size: whether an object will do that is not larger than the patch.

    Returns:
        None if the object is not larger than that.
    """
    sampling, model = config.sampling, config.model
    volume = _perhaps_merged(volume, label, sampling, random)
    shape, extent = tuple(volume.labels.shape), volume.objects[label]
    has_box = random.random() >= sampling.no_box + sampling.no_prompt
    prompts = ObjectPrompts(label, box=_box_of(volume, label, random) if has_box else None)
    known = None if has_box else _rough(extent, random)
    window = window_for(prompts, shape, model.patch, model.keep_proportions, known)
    if not window.outgrown and not any_size:
        return None
    if random.random() >= sampling.perfect_window:
        window = _disturbed(window, extent, random)
    sample = crop(volume, prompts, window.finer(model.finer), model, first_click=not has_box)
    return _augmented(sample, random) if sampling.augment else sample


def _perhaps_merged(volume: Volume, label: int, sampling: Sampling, random: np.random.Generator) -> Volume:
    if sampling.merged and random.random() < min(sampling.merged * math.log2(len(volume.objects)), MOST_MERGED):
        return merged(volume, label, random)
    return volume


def _box_of(volume: Volume, label: int, random: np.random.Generator) -> Box:
    # Only the object's slices: its box in y and x is that of a slice.
    extent = volume.objects[label]
    slices = volume.labels[extent.slices[0]] == label
    return _challenge_box(slices, random, first_slice=extent.lower[0])


def make_region_sample(
    volume: Volume, config: TrainingConfig, random: np.random.Generator, finer: int = 1
) -> Sample | None:
    """A region of a real image that no label knows (:func:`training.regions.region`); None if none was found.

    Args:
        finer: so many times the patch's voxels along each axis.
    """
    kind = draw_kind(random)
    for _ in range(REGION_ATTEMPTS):
        image = region_image(volume, config.model, random, finer)
        truth = region(image, kind, random)
        if truth is not None:
            return _patch_sample(image, truth, config.sampling, config.model, random)
    return None


def region_image(volume: Volume, model: ModelConfig, random: np.random.Generator, finer: int = 1) -> Tensor:
    """The normalized image in a window of any place and zoom, to look for a region in; (D, H, W) float32."""
    shape = volume.labels.shape
    # A finer look is had of what is larger.
    zoom = float(np.exp(random.uniform(math.log(REGION_ZOOM[0] * finer), math.log(REGION_ZOOM[1]))))
    # Along a short axis no more than the image, so that the window is not mostly padding.
    size = tuple(max(min(round(zoom * n), max(n, extent)), 8) for n, extent in zip(model.patch, shape))
    # The middle of the window lies anywhere in the image.
    start = tuple(int(random.integers(-(n // 2), extent - n // 2 + 1)) for n, extent in zip(size, shape))
    return volume.image.crop(Window(start, size, model.patch).finer(finer))


def make_drawn_sample(
    maps: list[LabelMap], config: TrainingConfig, random: np.random.Generator, finer: int = 1
) -> Sample:
    """An object without an image, and an image made for it: what no data set holds, or holds without images.

    Args:
        maps: where the object is from; drawn procedurally if there are none, or none fits.
        finer: so many times the patch's voxels along each axis.
    """
    patch = tuple(n * finer for n in config.model.patch)
    scene: Scene | None = from_library(maps, patch, random) if maps else None
    if scene is None:
        scene = procedural(patch, random)
    image, truth = make_image(scene, random)
    return _patch_sample(image, truth, config.sampling, config.model, random)


def _patch_sample(
    image: Tensor, truth: Tensor, sampling: Sampling, model: ModelConfig, random: np.random.Generator
) -> Sample:
    """A sample from an image and an object that exist in the patch, or a finer one, only."""
    prompts, patch = ObjectPrompts(1), tuple(truth.shape)
    has_box = random.random() >= sampling.no_box
    if has_box:
        prompts = replace(prompts, box=_challenge_box(truth, random))
    channels = encode(image, None, prompts, Window((0, 0, 0), patch, patch), model.style)
    sample = Sample(channels, truth, first_click=not has_box)
    return _augmented(sample, random) if sampling.augment else sample


def crop(
    volume: Volume,
    prompts: ObjectPrompts,
    window: Window,
    model: ModelConfig,
    first_click: bool,
    previous: Tensor | None = None,
) -> Sample:
    """The object of ``prompts.label`` in a window, prompted and encoded as inference does it."""
    truth = window.crop_label(volume.labels, prompts.label) > 0.5
    return Sample(encode(volume.image.crop(window), previous, prompts, window, model.style), truth, first_click)


def _challenge_box(mask: Tensor, random: np.random.Generator, first_slice: int = 0) -> Box:
    """The box that the challenge would give: exact in z, from the middle slice and jittered in y and x.

    Args:
        mask: (D, H, W) bool, of which ``first_slice`` says where its first slice lies in the image.
    """
    box = box_from_mask(mask.numpy(), random)
    return Box(
        (box["z_min"] + first_slice, box["z_mid_y_min"], box["z_mid_x_min"]),
        (box["z_max"] + first_slice, box["z_mid_y_max"], box["z_mid_x_max"]),
    )


def _window_without_box(
    volume: Volume, label: int, extent: Box, model: ModelConfig, random: np.random.Generator
) -> Window:
    """As inference sees an object without a box: around its first click, or around a rough previous mask."""
    if random.random() < 0.5:
        mask = (volume.labels[extent.slices] == label).numpy()
        position, _ = click_from_error(np.zeros_like(mask), mask)
        click = Click(tuple(p + lower for p, lower in zip(position, extent.lower)), positive=True)
        known, previous = ObjectPrompts(label, clicks=(click,)), None
    else:
        known, previous = ObjectPrompts(label), _rough(extent, random)
    shape: Voxel = tuple(volume.labels.shape)
    return window_for(known, shape, model.patch, model.keep_proportions, previous)


def _rough(extent: Box, random: np.random.Generator) -> Box:
    """About where the object is."""
    grow = random.uniform(-0.25, 0.4, size=3)
    lower = tuple(round(a - g * (b - a) / 2) for a, b, g in zip(extent.lower, extent.upper, grow))
    upper = tuple(round(b + g * (b - a) / 2) for a, b, g in zip(extent.lower, extent.upper, grow))
    return Box(lower, upper)


def _tile(volume: Volume, label: int, extent: Box, model: ModelConfig, random: np.random.Generator) -> Window:
    """A window of about native resolution at a random place of the object's border."""
    mask = volume.labels[extent.slices] == label
    inside = mask.nonzero()
    position = inside[int(random.integers(len(inside)))].tolist()
    axis, direction = int(random.integers(3)), int(random.choice((-1, 1)))
    while 0 <= position[axis] + direction < mask.shape[axis] and mask[tuple(position)]:
        position[axis] += direction
    zoom = float(np.exp(random.uniform(*map(math.log, TILE_ZOOM))))
    size = tuple(max(round(zoom * n), 8) for n in model.patch)
    start = tuple(p + lower - n // 2 for p, lower, n in zip(position, extent.lower, size))
    return Window(start, size, model.patch)


def _coarse(truth: Tensor, random: np.random.Generator) -> Tensor:
    """A mask as a coarse pass leaves it: without detail, and with its border off here and there.

    Args:
        truth: (D, H, W), [0, 1].
    """
    shape = tuple(truth.shape)
    edge = float(random.uniform(*COARSENESS))
    cells = [max(round(n / edge), 2) for n in shape]
    coarse = interpolate(truth[None, None], size=cells, mode="area")
    smooth = interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0, 0]
    wrong = smooth_noise(shape, int(random.integers(4, 12)), random) * float(random.uniform(0, 0.4))
    return (smooth + wrong > 0.5).float()


def _disturbed(window: Window, extent: Box, random: np.random.Generator) -> Window:
    """Scaled by up to 1.5, a little differently along each axis, and shifted by up to an eighth of its size.

    It shrinks to 0.75 of itself, or further where the object stays small in it: to be seen upsampled.
    """
    fill = max(n / wide for n, wide in zip(extent.size, window.size))
    least = min(max(fill / LARGEST_FILL, SMALLEST_ZOOM), 0.8)
    zooms = np.exp(random.uniform(math.log(least), math.log(1.4)) + random.uniform(-0.07, 0.07, size=3))
    size = tuple(max(round(n * zoom), 8) for n, zoom in zip(window.size, zooms))
    shift = random.uniform(-0.125, 0.125, size=3)
    start = tuple(
        round(begin + (before - after) / 2 + after * s)
        for begin, before, after, s in zip(window.start, window.size, size, shift)
    )
    return Window(start, size, window.patch)


def _augmented(sample: Sample, random: np.random.Generator) -> Sample:
    channels, truth = flip_and_turn(sample.channels, sample.truth, random)
    channels[IMAGE] = change_intensities(channels[IMAGE], random)
    return Sample(channels, truth, sample.first_click)
