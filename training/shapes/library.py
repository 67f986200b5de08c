"""Shapes of real anatomy without images: label maps, seen through windows of any place, zoom and orientation."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.case import CaseError
from inference.geometry import Box, Voxel, label_extents, voxel
from inference.npz import NpzError, read_array
from inference.window import Window
from training.dataset import SMALLEST_OBJECT
from training.device import process_rank
from training.shapes.fields import Scene

ATTEMPTS = 8

ZOOM = (0.3, 4.0)
"""Voxels of the label map a voxel of the patch."""

LARGEST = 0.6
"""Share of the patch that an object may fill."""

LOOKS = 6
"""Kinds of other structures: so many ways to look they share."""


@dataclass(frozen=True)
class LabelMap:
    """Labels without an image.

    Args:
        name: the file's name without suffix.
        source: its first word, which tells what data set it is from.
        labels: (D, H, W) int16.
        objects: label -> extent.
        sizes: label -> voxels.
    """

    name: str
    source: str
    labels: Tensor
    objects: dict[int, Box]
    sizes: dict[int, int]


def load_shapes(folder: Path) -> list[LabelMap]:
    """Reads the ``gts`` of the ``*.npz`` of a folder. A broken file is named on stderr, skipped and counted.

    Of several processes that read the same, the first alone says so.

    Raises:
        FileNotFoundError: no usable label map in the folder.
    """
    paths, maps, broken = sorted(folder.glob("*.npz")), [], []
    for path in paths:
        try:
            maps.append(load_shape(path))
        except NpzError as error:
            broken.append(str(error))
    if not maps:
        raise FileNotFoundError(f"{folder}: no usable label map among {len(paths)} *.npz files; expected gts")
    if process_rank() == 0:
        for line in broken:
            print(f"skipped: {line}", file=sys.stderr)
        objects = sum(len(each.objects) for each in maps)
        print(f"{folder}: {len(maps)} label maps, {objects} objects, {len(broken)} broken files skipped")
    return maps


def load_shape(path: Path) -> LabelMap:
    """Reads one label map.

    Raises:
        NpzError: unreadable, not of three dimensions, not integers, or without an object.
    """
    labels = read_array(path, "gts")
    if labels.ndim != 3 or labels.dtype.kind not in "ui":
        raise CaseError(f"{path.name}: gts {labels.dtype} {labels.shape}; expected (D, H, W) integer labels")
    labels = labels.astype(np.int16, copy=False)
    counts = np.bincount(labels.ravel())
    objects = {label: box for label, box in label_extents(labels).items() if counts[label] >= SMALLEST_OBJECT}
    if not objects:
        raise CaseError(f"{path.name}: gts holds no object of at least {SMALLEST_OBJECT} voxels")
    sizes = {label: int(counts[label]) for label in objects}
    return LabelMap(path.stem, path.stem.split("_")[0], torch.from_numpy(labels), objects, sizes)


def from_library(maps: list[LabelMap], patch: Voxel, random: np.random.Generator) -> Scene | None:
    """An object of a label map in a window, and what lies around it; None if none was found in a few attempts."""
    sources = sorted({each.source for each in maps})
    source = sources[int(random.integers(len(sources)))]
    of_source = [each for each in maps if each.source == source]
    for _ in range(ATTEMPTS):
        scene = _try(of_source[int(random.integers(len(of_source)))], patch, random)
        if scene is not None:
            return scene
    return None


def _try(shapes: LabelMap, patch: Voxel, random: np.random.Generator) -> Scene | None:
    chosen = _joined(shapes, int(random.choice(list(shapes.objects))), random)
    window = _window(shapes, chosen, patch, random)
    inside = window.box.intersection(Box.of(voxel(shapes.labels.shape)))
    if inside is None:
        return None
    part = shapes.labels[inside.slices]
    local = Window(voxel(s - lower for s, lower in zip(window.start, inside.lower)), window.size, patch)
    is_object = torch.zeros(int(part.max()) + 1)
    is_object[[label for label in chosen if label < len(is_object)]] = 1
    truth = local.crop(is_object[part.long()]) > 0.5
    if not SMALLEST_OBJECT <= int(truth.sum()) <= LARGEST * truth.numel():
        return None
    # The object's labels look alike, mostly; the others share a few looks, and some are not there at all.
    looks = torch.from_numpy(random.integers(0 if random.random() < 0.5 else 2, LOOKS + 2, len(is_object)))
    looks[looks == 1] = 0
    alike = random.random() < 0.75
    ours = is_object > 0
    looks[ours] = 1 if alike else torch.from_numpy(random.integers(1, 4, int(ours.sum())))
    looks[0] = 0
    nearest = local.crop_nearest(part).long()
    labels = looks[nearest]
    labels[truth & (is_object[nearest] == 0)] = 1
    labels[~truth & (is_object[nearest] > 0)] = 0
    order = tuple(int(axis) for axis in random.permutation(3)) if len(set(patch)) == 1 else (0, 1, 2)
    return Scene(labels.to(torch.uint8).permute(order).contiguous(), truth.permute(order).contiguous())


def _joined(shapes: LabelMap, label: int, random: np.random.Generator) -> list[int]:
    """The label alone, with its nearest, with those of its size, or all."""
    chance, others = random.random(), len(shapes.objects) - 1
    if chance < 0.5 or not others:
        return [label]
    if chance < 0.6:
        return list(shapes.objects)
    middle = {each: np.add(box.lower, box.upper) / 2 for each, box in shapes.objects.items()}

    def unlike(each: int) -> float:
        if chance < 0.8:
            return float(np.linalg.norm(middle[each] - middle[label]))
        ratio = abs(math.log(shapes.sizes[each] / shapes.sizes[label]))
        mine, its = (np.sort(np.log(shapes.objects[one].size)) for one in (label, each))
        return ratio + float(np.abs(mine - its).sum())

    count = int(np.exp(random.uniform(0, np.log(others + 1))))
    return sorted(shapes.objects, key=unlike)[: count + 1]


def _window(shapes: LabelMap, chosen: list[int], patch: Voxel, random: np.random.Generator) -> Window:
    """As inference places it around the objects, disturbed, or anywhere on one of them with any zoom."""
    box = shapes.objects[chosen[0]]
    if random.random() < 0.6:
        for label in chosen[1:]:
            box = box.union(shapes.objects[label])
        around = Window.around(box, patch, isotropic_zoom=False)
        size, middle = np.array(around.size), np.array(around.start) + np.array(around.size) / 2
        size = size * math.exp(random.uniform(-0.4, 0.4))
        middle = middle + random.uniform(-0.12, 0.12, 3) * size
    else:
        where = (shapes.labels[box.slices] == chosen[0]).nonzero()
        middle = where[int(random.integers(len(where)))].numpy() + np.array(box.lower)
        size = np.array(patch) * math.exp(random.uniform(math.log(ZOOM[0]), math.log(ZOOM[1])))
        # Not much more than there is.
        size = np.minimum(size, 1.5 * np.array(shapes.labels.shape))
        middle = middle + random.uniform(-0.25, 0.25, 3) * size
    if random.random() < 0.3:
        size = size * np.exp(random.uniform(-0.5, 0.5, 3))
    size = voxel(max(round(n), 6) for n in size)
    return Window(voxel(round(m - n / 2) for m, n in zip(middle, size)), size, patch)
