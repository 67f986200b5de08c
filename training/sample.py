"""One sample drawn: an object, its prompts, and the window that inference would look at, slightly disturbed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from inference.case import Click, ObjectPrompts
from inference.checkpoint import ModelConfig
from inference.geometry import Box, Voxel, voxel
from inference.placement import window_for
from inference.window import Window
from training.appearance import make_image
from training.augment import draw_intensities, draw_turn
from training.config import Sampling, TrainingConfig
from training.dataset import Volume, merged
from training.recipe import Coarse, Recipe
from training.regions import draw_kind, region
from training.render import remembered_resampling
from training.shapes import Scene, procedural
from training.shapes.library import LabelMap, from_library
from training.synthesis import synthesize
from training.target import Target, challenge_box

REGION_ATTEMPTS = 6

SOURCE_POWER = 0.2
"""A source weighs as its number of files to that power. 0 would be all alike, 1 by files."""

TILE_ZOOM = (0.6, 1.3)
"""Voxels of the image a voxel of the patch, in samples for refinement."""

COARSENESS = (1.5, 5.0)
"""Voxels of the patch a voxel of the coarse pass before it."""

MOST_MERGED = 0.8
"""Share of samples with merged objects, of those with a box, in an image of many."""

REGION_ZOOM = (0.6, 4.0)
"""Voxels of the image a voxel of the (coarse) patch, in samples of regions: from a detail to a whole head."""

SLICE_EDGE = 256
"""Voxels along an edge of the slices that a made patch is thought to be from: the box's jitter is in proportion."""

LARGEST_FILL = 0.7
SMALLEST_ZOOM = 0.35
"""A small object's window may shrink until the object fills that share of it, and by so much at most."""


def file_probabilities(volumes: Sequence[Volume], sampling: Sampling) -> np.ndarray:
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


def make_sample(volume: Volume, label: int, config: TrainingConfig, random: np.random.Generator) -> Recipe:
    """The sample of one object of a volume: box or none, window, augmentation.

    ``Recipe.volume`` is left to the caller, who knows where the volume stands, here and below.
    """
    sampling, model = config.sampling, config.model
    chance = random.random()
    has_box = chance >= sampling.no_box + sampling.no_prompt
    target = _target(volume, label, has_box, sampling, random)
    box = target.box(random) if has_box else None
    if has_box:
        window = window_for(ObjectPrompts(label, box=box), target.shape, model.patch, model.isotropic_zoom)
    else:
        window = _window_without_box(target, config, random)
    recipe = _recipe(volume, target, box, window, first_click=sampling.no_prompt <= chance and not has_box)
    if random.random() < sampling.refinement:
        coarse, noise = _draw_coarse(model.patch, random)
        recipe = replace(recipe, window=_tile(target, model, random), first_click=False, coarse=coarse, noise=noise)
    elif random.random() >= sampling.perfect_window:
        recipe = replace(recipe, window=_disturbed(window, target.extent, random))
    if random.random() < sampling.synthetic:
        image = volume.crop(recipe.window, remembered_resampling)
        made = synthesize(image, volume.crop_nearest(recipe.window).int(), random)
        recipe = replace(recipe, image=made.half())
    return _augmented(recipe, random) if sampling.augment else recipe


def make_finer_sample(
    volume: Volume, label: int, config: TrainingConfig, random: np.random.Generator, any_size: bool = False
) -> Recipe | None:
    """The sample of one object of a volume for a finer look, in a finer patch of the window that all is known of.

    Without a box that is not where the object was looked for at first, around a click, but about around the object.

    Args:
        any_size: whether an object will do that is not larger than the patch.

    Returns:
        None if the object is not larger than that.
    """
    sampling, model = config.sampling, config.model
    has_box = random.random() >= sampling.no_box + sampling.no_prompt
    target = _target(volume, label, has_box, sampling, random)
    box = target.box(random) if has_box else None
    known = None if has_box else jittered_extent(target.extent, random)
    window = window_for(ObjectPrompts(label, box=box), target.shape, model.patch, model.isotropic_zoom, known)
    if not window.exceeds_patch and not any_size:
        return None
    if random.random() >= sampling.perfect_window:
        window = _disturbed(window, target.extent, random)
    recipe = _recipe(volume, target, box, window.finer(model.finer), first_click=not has_box)
    return _augmented(recipe, random) if sampling.augment else recipe


def _target(volume: Volume, label: int, has_box: bool, sampling: Sampling, random: np.random.Generator) -> Target:
    """The label's object; with a box it may be joined with others, since the box tells that."""
    share = min(sampling.merged * math.log2(len(volume.objects)), MOST_MERGED) if has_box else 0.0
    if share and random.random() < share:
        return Target.of(volume, merged(volume, label, random))
    return Target.of(volume, (label,))


def _recipe(volume: Volume, target: Target, box: Box | None, window: Window, first_click: bool) -> Recipe:
    table = None
    if len(target.labels) > 1:
        table = torch.zeros(volume.largest_label + 1)
        table[list(target.labels)] = 1
    return Recipe(window, box, first_click, labels=target.labels, table=table)


def make_region_sample(
    volume: Volume, config: TrainingConfig, random: np.random.Generator, finer: int = 1
) -> Recipe | None:
    """A region of a real image that no label knows (:func:`training.regions.region`); None if none was found.

    Args:
        finer: so many times the patch's voxels along each axis.
    """
    kind = draw_kind(random)
    for _ in range(REGION_ATTEMPTS):
        image = region_image(volume, config.model, random, finer)
        truth = region(image, kind, random)
        if truth is not None:
            return _patch_sample(image, truth, config.sampling, random, finer)
    return None


def region_image(volume: Volume, model: ModelConfig, random: np.random.Generator, finer: int = 1) -> Tensor:
    """The normalized image in a window of any place and zoom, to look for a region in; (D, H, W) float32."""
    shape = volume.shape
    # A finer look is had of what is larger.
    zoom = float(np.exp(random.uniform(math.log(REGION_ZOOM[0] * finer), math.log(REGION_ZOOM[1]))))
    # Along a short axis no more than the image, so that the window is not mostly padding.
    size = voxel(max(min(round(zoom * n), max(n, extent)), 8) for n, extent in zip(model.patch, shape))
    # The middle of the window lies anywhere in the image.
    start = voxel(int(random.integers(-(n // 2), extent - n // 2 + 1)) for n, extent in zip(size, shape))
    return volume.crop(Window(start, size, model.patch).finer(finer), remembered_resampling)


def make_drawn_sample(
    maps: list[LabelMap], config: TrainingConfig, random: np.random.Generator, finer: int = 1
) -> Recipe:
    """An object without an image, and an image made for it: what no data set holds, or holds without images.

    Args:
        maps: where the object is from; drawn procedurally if there are none, or none fits.
        finer: so many times the patch's voxels along each axis.
    """
    patch = voxel(n * finer for n in config.model.patch)
    scene: Scene | None = from_library(maps, patch, random) if maps else None
    if scene is None:
        scene = procedural(patch, random)
    image, truth = make_image(scene, random)
    return _patch_sample(image, truth, config.sampling, random, finer)


def _patch_sample(image: Tensor, truth: Tensor, sampling: Sampling, random: np.random.Generator, finer: int) -> Recipe:
    """A sample from an image and an object that exist in the patch, or a finer one, only.

    Args:
        image: (D, H, W) float32 of the patch's shape, normalized; exact zeros are padding.
        truth: (D, H, W) bool.
    """
    has_box = random.random() >= sampling.no_box
    patch = voxel(truth.shape)
    zoom = float(np.exp(random.uniform(*np.log(REGION_ZOOM))))
    slice_edge = max(round(SLICE_EDGE * finer / zoom), *patch[1:])
    box = challenge_box(truth.numpy(), slice_edge, random) if has_box else None
    window = Window((0, 0, 0), patch, patch)
    recipe = Recipe(window, box, not has_box, image=image.half(), truth=truth)
    return _augmented(recipe, random) if sampling.augment else recipe


def _window_without_box(target: Target, config: TrainingConfig, random: np.random.Generator) -> Window:
    """As inference sees an object without a box: around its first click, or around a rough previous mask."""
    model, clicks, previous = config.model, (), None
    if random.random() >= config.sampling.extent_windows:
        clicks = (Click(target.first_click, positive=True),)
    else:
        previous = jittered_extent(target.extent, random)
    known = ObjectPrompts(target.labels[0], clicks=clicks)
    return window_for(known, target.shape, model.patch, model.isotropic_zoom, previous)


def jittered_extent(extent: Box, random: np.random.Generator) -> Box:
    """Returns about where an object is: its extent, along each axis up to 0.4 longer or 0.25 shorter."""
    grow = random.uniform(-0.25, 0.4, size=3)
    lower = voxel(round(a - g * (b - a) / 2) for a, b, g in zip(extent.lower, extent.upper, grow))
    upper = voxel(round(b + g * (b - a) / 2) for a, b, g in zip(extent.lower, extent.upper, grow))
    return Box(lower, upper)


def _tile(target: Target, model: ModelConfig, random: np.random.Generator) -> Window:
    """A window of about native resolution at a random place of the object's border."""
    position = target.border_voxel(random)
    zoom = float(np.exp(random.uniform(math.log(TILE_ZOOM[0]), math.log(TILE_ZOOM[1]))))
    size = voxel(max(round(zoom * n), 8) for n in model.patch)
    return Window(voxel(v - n // 2 for v, n in zip(position, size)), size, model.patch)


def _draw_coarse(patch: Voxel, random: np.random.Generator) -> tuple[Coarse, Tensor]:
    """What makes a mask a coarse one (:func:`training.render.coarse_mask`), and its noise."""
    edge = float(random.uniform(*COARSENESS))
    cells = voxel(max(round(n / edge), 2) for n in patch)
    noise = torch.from_numpy(random.standard_normal((int(random.integers(4, 12)),) * 3, dtype=np.float32))
    return Coarse(cells, float(random.uniform(0, 0.4))), noise


def _disturbed(window: Window, extent: Box, random: np.random.Generator) -> Window:
    """Scaled by up to 1.5, a little differently along each axis, and shifted by up to an eighth of its size.

    It shrinks to 0.75 of itself, or further where the object stays small in it: to be seen upsampled.
    """
    fill = max(n / wide for n, wide in zip(extent.size, window.size))
    least = min(max(fill / LARGEST_FILL, SMALLEST_ZOOM), 0.8)
    zooms = np.exp(random.uniform(math.log(least), math.log(1.4)) + random.uniform(-0.07, 0.07, size=3))
    size = voxel(max(round(n * zoom), 8) for n, zoom in zip(window.size, zooms))
    shift = random.uniform(-0.125, 0.125, size=3)
    start = voxel(
        round(begin + (before - after) / 2 + after * s)
        for begin, before, after, s in zip(window.start, window.size, size, shift)
    )
    return Window(start, size, window.patch)


def _augmented(recipe: Recipe, random: np.random.Generator) -> Recipe:
    return replace(recipe, turn=draw_turn(recipe.window.patch, random), intensities=draw_intensities(random))
