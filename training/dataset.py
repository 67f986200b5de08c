"""Labelled volumes in memory: decoded once, measured once, their objects listed with where they lie."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from inference.case import CaseError
from inference.geometry import Box, label_extents
from inference.normalization import NormalizedImage
from inference.npz import NpzError, read_array

if TYPE_CHECKING:
    from training.target import Target

T = TypeVar("T")

SMALLEST_OBJECT = 8
"""Voxels; smaller objects are not worth a sample."""


@dataclass(frozen=True)
class Volume:
    """A labelled image.

    Args:
        name: the file's name without suffix.
        modality, source: the name's first word, and its first two, which tell what data set it is from.
        image: normalized where it is cropped.
        labels: (D, H, W) integer labels, 0 for none, in the smallest of uint8, int16 and int32 that holds them.
        objects: label -> extent.
        likeness: label -> mean intensity, in deviations of the image, and the size's logarithm.
        targets: what is known of objects that were looked at before, by their labels.
    """

    name: str
    modality: str
    source: str
    image: NormalizedImage
    labels: Tensor
    objects: dict[int, Box]
    likeness: dict[int, tuple[float, float]]
    targets: dict[tuple[int, ...], Target] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def largest_label(self) -> int:
        return int(self.labels.max())

    def to(self, device: torch.device) -> Volume:
        """The volume on a device, as it is stored."""
        return replace(self, image=self.image.to(device), labels=self.labels.to(device))


def load_volume(path: Path) -> Volume:
    """Reads ``imgs`` and ``gts`` of a case.

    Raises:
        NpzError: unreadable, without ``gts``, of different shapes, or without an object.
    """
    image, labels = read_array(path, "imgs"), read_array(path, "gts")
    if image.ndim != 3 or image.shape != labels.shape or labels.dtype.kind not in "ui":
        raise CaseError(
            f"{path.name}: imgs {image.shape} and gts {labels.dtype} {labels.shape}; expected one shape, integer labels"
        )
    labels = _compact(labels)
    normalized = NormalizedImage.of(image)
    objects, likeness = {}, {}
    for label, box in label_extents(labels).items():
        inside = image[box.slices][labels[box.slices] == label]
        if inside.size >= SMALLEST_OBJECT:
            objects[label] = box
            likeness[label] = (float(inside.mean(dtype=np.float64)) * normalized.scale, math.log(inside.size))
    if not objects:
        raise CaseError(f"{path.name}: gts holds no object of at least {SMALLEST_OBJECT} voxels")
    modality = path.stem.split("_")[0]
    return Volume(path.stem, modality, source_of(path), normalized, torch.from_numpy(labels), objects, likeness)


def _compact(labels: np.ndarray) -> np.ndarray:
    """In as few bytes as hold the labels; what is below 0 is none."""
    labels = np.maximum(labels, 0) if labels.dtype.kind == "i" and labels.min() < 0 else labels
    largest = int(labels.max())
    return labels.astype(np.uint8 if largest <= 255 else np.int16 if largest <= 32767 else np.int32, copy=False)


def merged(volume: Volume, label: int, random: np.random.Generator) -> tuple[int, ...]:
    """The labels of several objects made one: an object and from one of the others to all of them.

    What a data set takes apart, users ask for whole: a brain of a hundred regions, a heart of three chambers. Half of
    the time those nearest to the object come first, half of the time those most like it in intensity and size.

    Returns:
        ``label`` alone if the volume has no other.
    """
    others = len(volume.objects) - 1
    if not others:
        return (label,)
    middle = {each: np.add(box.lower, box.upper) / 2 for each, box in volume.objects.items()}
    where = middle if random.random() < 1 / 2 else {each: np.array(volume.likeness[each]) for each in volume.objects}
    nearest = sorted(volume.objects, key=lambda each: float(np.linalg.norm(where[each] - where[label])))
    # As often 1 to 2 others as 10 to 20; all of them half of the time.
    count = others if random.random() < 1 / 2 else int(np.exp(random.uniform(0, np.log(others + 1))))
    return tuple(sorted({label, *nearest[: count + 1]}))


def source_of(path: Path) -> str:
    """The data set that a file is from: the first two words of its name."""
    return "_".join(path.stem.split("_")[:2])


def by_source(items: Iterable[T], source: Callable[[T], str]) -> dict[str, list[T]]:
    """Source -> what is from it, both in the order in which they come."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(source(item), []).append(item)
    return groups


def load_volumes(
    folders: Path | Sequence[Path], exclude: Sequence[str] = (), at_most: int | None = None
) -> list[Volume]:
    """Reads the ``*.npz`` of folders, all or the first few. A broken file is named on stderr, skipped and counted.

    Args:
        folders: one or more; of files of one name, the first counts.
        exclude: files whose names begin so are left out, for example ``MR_acdc``.

    Raises:
        FileNotFoundError: no usable case in the folders.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected *.npz with imgs and gts in it")
        for path in sorted(folder.glob("*.npz")):
            if not path.name.startswith(tuple(exclude)):
                found.setdefault(path.name, path)
    paths = list(found.values())[:at_most]
    volumes, broken = [], 0

    def attempt(path: Path) -> Volume | NpzError:
        try:
            return load_volume(path)
        except NpzError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for result in tqdm(pool.map(attempt, paths), total=len(paths), desc="reading", unit="case", disable=None):
            if isinstance(result, NpzError):
                broken += 1
                print(f"skipped: {result}", file=sys.stderr)
            else:
                volumes.append(result)
    names = ", ".join(str(folder) for folder in folders)
    if not volumes:
        raise FileNotFoundError(f"{names}: no usable case among {len(paths)} *.npz files; expected imgs and gts")
    objects = sum(len(volume.objects) for volume in volumes)
    print(f"{names}: {len(volumes)} volumes, {objects} objects, {broken} broken files skipped", flush=True)
    return volumes
