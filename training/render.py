"""Recipes made samples: a batch at a time, on the device where the volumes are.

Nothing here waits for a GPU: what Python decides by stands in the recipes, and all else comes over in one copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from inference.network import IMAGE_AND_PROMPT_CHANNELS
from inference.prompts import BOX, IMAGE, PREVIOUS, box_slices
from inference.window import resampling
from training.augment import SAME_INTENSITIES, change_intensities
from training.dataset import Volume
from training.recipe import Coarse, PackedRecipes, Recipe

remembered_resampling = lru_cache(maxsize=512)(resampling)
"""Windows are of a few hundred sizes, and a GPU would be kept busy with making their weights."""


@dataclass(frozen=True)
class Batch:
    """What one forward is given.

    Args:
        channels: (N, 8, D, H, W) float32, as :func:`inference.prompts.encode` makes them.
        truth: (N, D, H, W) bool.
        first_click: (N,) bool, on the CPU: whether a click comes before the first prediction.
    """

    channels: Tensor
    truth: Tensor
    first_click: Tensor


@torch.no_grad()
def render(packed: PackedRecipes, volumes: Sequence[Volume]) -> Batch:
    """Makes a batch, on the recipes' device.

    Args:
        packed: recipes of one size of patch.
        volumes: those that the recipes count, on the same device unless the recipes carry what is read of them.
    """
    device, recipes = packed.content.device, packed.recipes()
    patch = recipes[0].window.patch
    channels = torch.zeros((len(recipes), IMAGE_AND_PROMPT_CHANNELS, *patch), device=device)
    truth = torch.empty((len(recipes), *patch), dtype=torch.bool, device=device)
    for recipe, shown, target in zip(recipes, channels, truth):
        volume = None if recipe.volume < 0 else volumes[recipe.volume]
        object_ = _object(recipe, volume)
        shown[IMAGE] = recipe.turn.of(_image(recipe, volume))
        if recipe.coarse is not None:
            assert recipe.noise is not None, "the two come together"
            shown[PREVIOUS] = recipe.turn.of(coarse_mask(object_, recipe.coarse, recipe.noise))
        if recipe.box is not None:
            shown[BOX][recipe.turn.of_slices(box_slices(recipe.box, recipe.window), patch)] = 1
        target.copy_(recipe.turn.of(object_ > 0.5))
    changes = [recipe.intensities for recipe in recipes]
    if any(change != SAME_INTENSITIES for change in changes):
        channels[:, IMAGE] = change_intensities(channels[:, IMAGE], changes, packed.intensities())
    return Batch(channels, truth, torch.tensor([recipe.first_click for recipe in recipes]))


def carry(recipe: Recipe, volume: Volume) -> Recipe:
    """Gives a recipe all that its sample takes of the volume, for a device where the volume does not lie.

    That is what is read for the window, as it is stored; what is made of it, where that takes fewer bytes.
    """
    read_image = volume.read_image(recipe.window) if recipe.image is None else None
    read_labels = volume.read_labels(recipe.window)
    recipe = replace(recipe, read_image=read_image, read_labels=read_labels)
    read = read_labels.nbytes + (0 if read_image is None else read_image.nbytes)
    made = math.prod(recipe.window.patch) * torch.float32.itemsize * (1 if read_image is None else 2)
    if read <= made:
        return recipe
    image, truth = _image(recipe, volume), _object(recipe, volume)
    return replace(recipe, image=image, truth=truth, read_image=None, read_labels=None, table=None)


def _image(recipe: Recipe, volume: Volume | None) -> Tensor:
    if recipe.image is not None:
        return recipe.image
    assert volume is not None, "a recipe without an image is of a volume"
    return volume.crop(recipe.window, remembered_resampling, recipe.read_image)


def _object(recipe: Recipe, volume: Volume | None) -> Tensor:
    """The object in the window, before any turn: [0, 1] or bool."""
    if recipe.truth is not None:
        return recipe.truth
    assert volume is not None, "a recipe without a mask is of a volume"

    def values(part: Tensor) -> Tensor:
        if recipe.table is not None:
            return recipe.table[part.int()]
        return (part == recipe.labels[0]).float()

    return volume.crop_labels(recipe.window, values, remembered_resampling, recipe.read_labels)


def coarse_mask(truth: Tensor, coarse: Coarse, noise: Tensor) -> Tensor:
    """A mask as a coarse pass leaves it, float32 of zeros and ones.

    Args:
        truth: (D, H, W), [0, 1].
        noise: as :attr:`training.recipe.Recipe.noise`.
    """
    cells = interpolate(truth[None, None], size=coarse.cells, mode="area")
    smooth = interpolate(cells, size=truth.shape, mode="trilinear", align_corners=False)
    wrong = interpolate(noise[None, None], size=truth.shape, mode="trilinear", align_corners=True)
    return (smooth + wrong * coarse.amplitude > 0.5).float()[0, 0]
