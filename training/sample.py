"""One training sample: an object, its prompts, and the window that inference would look at, slightly disturbed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from evaluation.simulated_user import box_from_mask, click_from_error
from inference.case import Box, Click, ObjectPrompts
from inference.checkpoint import ModelConfig
from inference.prompts import IMAGE, PromptStyle, encode
from inference.window import Window, window_for
from training.augment import change_intensities, flip_and_turn
from training.config import TrainingConfig
from training.dataset import Volume


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


class Sampler:
    """Draws samples, balanced over modality, then source, then file, then object."""

    def __init__(self, volumes: list[Volume], config: TrainingConfig, seed: int) -> None:
        self.config = config
        self.random = np.random.default_rng(seed)
        weights = dict(config.sampling.modalities)
        self.volumes = volumes
        sources: dict[str, dict[str, list[int]]] = {}
        for index, volume in enumerate(volumes):
            sources.setdefault(volume.modality, {}).setdefault(volume.source, []).append(index)
        total = sum(weights.get(modality, 0.0) for modality in sources)
        self.probabilities = np.zeros(len(volumes))
        for modality, by_source in sources.items():
            # A source of a hundred files weighs as ten of one file: more, but not a hundred times more.
            shares = {source: math.sqrt(len(files)) for source, files in by_source.items()}
            for source, files in by_source.items():
                share = weights.get(modality, 0.0) / total * shares[source] / sum(shares.values())
                self.probabilities[files] = share / len(files)
        self.probabilities /= self.probabilities.sum()

    def draw(self) -> Sample:
        volume = self.volumes[self.random.choice(len(self.volumes), p=self.probabilities)]
        label = int(self.random.choice(list(volume.objects)))
        return make_sample(volume, label, self.config, self.random)


def make_sample(volume: Volume, label: int, config: TrainingConfig, random: np.random.Generator) -> Sample:
    """The sample of one object of a volume: box or none, window, crop, augmentation."""
    sampling, patch, style = config.sampling, config.model.patch, config.model.style
    extent = volume.objects[label]
    shape = tuple(volume.labels.shape)
    prompts = ObjectPrompts(label)
    chance = random.random()
    first_click = chance >= sampling.no_prompt
    if chance >= sampling.no_prompt + sampling.no_box:
        prompts, first_click = replace(prompts, box=_challenge_box(volume, label, extent, random)), False
        window = window_for(prompts, shape, patch, config.model.keep_proportions)
    else:
        window = _window_without_box(volume, label, extent, config.model, random)
    if random.random() >= sampling.perfect_window:
        window = _disturbed(window, random)
    sample = _crop(volume, label, prompts, window, style, first_click)
    return _augmented(sample, random) if sampling.augment else sample


def _crop(
    volume: Volume, label: int, prompts: ObjectPrompts, window: Window, style: PromptStyle, first_click: bool
) -> Sample:
    channels = encode(volume.image.crop(window), None, prompts, window, style)
    return Sample(channels, window.crop_label(volume.labels, label) > 0.5, first_click)


def _challenge_box(volume: Volume, label: int, extent: Box, random: np.random.Generator) -> Box:
    """The box that the challenge would give: exact in z, from the middle slice and jittered in y and x."""
    slices = (slice(extent.lower[0], extent.upper[0] + 1), slice(None), slice(None))
    box = box_from_mask((volume.labels[slices] == label).numpy(), random)
    return Box(
        (box["z_min"] + extent.lower[0], box["z_mid_y_min"], box["z_mid_x_min"]),
        (box["z_max"] + extent.lower[0], box["z_mid_y_max"], box["z_mid_x_max"]),
    )


def _window_without_box(
    volume: Volume, label: int, extent: Box, model: ModelConfig, random: np.random.Generator
) -> Window:
    """As inference sees an object without a box: around its first click, or around a rough previous mask."""
    shape = tuple(volume.labels.shape)
    if random.random() < 0.5:
        mask = (volume.labels[extent.slices] == label).numpy()
        position, _ = click_from_error(np.zeros_like(mask), mask)
        click = Click(tuple(p + lower for p, lower in zip(position, extent.lower)), positive=True)
        return window_for(ObjectPrompts(label, clicks=(click,)), shape, model.patch, model.keep_proportions)
    grow = random.uniform(-0.25, 0.4, size=3)
    lower = tuple(round(a - g * (b - a) / 2) for a, b, g in zip(extent.lower, extent.upper, grow))
    upper = tuple(round(b + g * (b - a) / 2) for a, b, g in zip(extent.lower, extent.upper, grow))
    return window_for(ObjectPrompts(label), shape, model.patch, model.keep_proportions, Box(lower, upper))


def _disturbed(window: Window, random: np.random.Generator) -> Window:
    """Scaled by 0.75 to 1.5, a little differently along each axis, and shifted by up to an eighth of its size."""
    zooms = np.exp(random.uniform(math.log(0.8), math.log(1.4)) + random.uniform(-0.07, 0.07, size=3))
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
