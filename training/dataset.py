"""Labelled volumes: measured once, their objects listed with where they lie, their voxels read where a window looks.

The voxels lie in memory, or on disk (:mod:`training.stored`); what is read of them is the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evaluation.simulated_user import middle_slice_box
from inference.case import CaseError
from inference.geometry import Box, Voxel, label_extents, voxel
from inference.normalization import NormalizedImage
from inference.npz import NpzError, open_npz, read_member
from inference.window import Window
from training.device import process_rank

if TYPE_CHECKING:
    from training.target import Target

T = TypeVar("T")

IMAGE, LABELS, NORMALIZATION = "imgs", "gts", "normalization"
"""The arrays of a case; the last one, scale and offset, only where the image is a part of a larger one."""

SMALLEST_OBJECT = 8
"""Voxels; smaller objects are not worth a sample."""


class Voxels(Protocol):
    """A volume (D, H, W) that is read in parts: a tensor, or an array on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def __getitem__(self, where: tuple[slice, slice, slice], /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Volume:
    """A labelled image.

    Args:
        name: the file's name without suffix.
        modality, source: the name's first word, and its first two, which tell what data set it is from.
        image: normalized where it is cropped; its ``volume`` is read in parts only.
        labels: (D, H, W) integer labels, 0 for none, in the smallest of uint8, int16 and int32 that holds them.
        objects: label -> extent.
        likeness: label -> mean intensity, in deviations of the image, and the size's logarithm.
        slices: label -> first and last of each run of slices along z that hold it.
        boxes: label -> the box that the challenge would give, before its jitter
            (:func:`evaluation.simulated_user.middle_slice_box`).
        largest_label: of all labels, also those too small to be an object.
        targets: what is known of objects that were looked at before, by their labels.
    """

    name: str
    modality: str
    source: str
    image: NormalizedImage
    labels: Voxels
    objects: dict[int, Box]
    likeness: dict[int, tuple[float, float]]
    slices: dict[int, list[tuple[int, int]]]
    boxes: dict[int, dict[str, int]]
    largest_label: int
    targets: dict[tuple[int, ...], Target] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> Voxel:
        return voxel(self.labels.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the voxels, decoded."""
        return math.prod(self.shape) * (self.image.volume.dtype.itemsize + self.labels.dtype.itemsize)

    def to(self, device: torch.device) -> Volume:
        """The volume on a device, as it is stored."""
        return replace(self, image=self.image.to(device), labels=self.labels[Box.of(self.shape).slices].to(device))

    def read_image(self, window: Window) -> Tensor:
        """The image's own values in what of a window lies in its support; without voxels if nothing does."""
        return _read(self.image.volume, self._seen(window))

    def read_labels(self, window: Window) -> Tensor:
        """The labels in what of a window lies in the image; without voxels if nothing does."""
        return _read(self.labels, window.box.clipped(self.shape))

    def crop(self, window: Window, weights: Callable[..., Tensor] | None = None, image: Tensor | None = None) -> Tensor:
        """The normalized image in a window, as :meth:`inference.normalization.NormalizedImage.crop` gives it.

        Args:
            weights: as in :meth:`inference.window.Window.resampled`.
            image: what :meth:`read_image` has read for the window, on the device where it is cropped.
        """
        seen = self._seen(window)
        image = _read(self.image.volume, seen) if image is None else image
        return _from(window, seen).crop(image, None, self.image.scale, self.image.offset, weights=weights)

    def crop_labels(
        self,
        window: Window,
        values: Callable[[Tensor], Tensor],
        weights: Callable[..., Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """What ``values`` makes of the labels in a window, resampled to the patch; float32, 0 outside the image.

        Args:
            weights: as in :meth:`inference.window.Window.resampled`.
            labels: what :meth:`read_labels` has read for the window, on the device where they are cropped.
        """
        seen = window.box.clipped(self.shape)
        labels = _read(self.labels, seen) if labels is None else labels
        return _from(window, seen).resampled(labels, values, weights=weights)

    def crop_nearest(self, window: Window) -> Tensor:
        """All labels in a window, as :meth:`inference.window.Window.crop_nearest` gives them."""
        seen = window.box.clipped(self.shape)
        return _from(window, seen).crop_nearest(_read(self.labels, seen))

    def _seen(self, window: Window) -> Box | None:
        return None if self.image.support is None else window.box.intersection(self.image.support)


def _read(voxels: Voxels, box: Box | None) -> Tensor:
    """What lies in a box: read at once, as resampling goes through it in slabs thinner than what a disk gives."""
    return voxels[(slice(0), slice(0), slice(0)) if box is None else box.slices]


def _from(window: Window, box: Box | None) -> Window:
    """The window as seen from a box's lower corner."""
    if box is None:
        return window
    return replace(window, start=tuple(start - lower for start, lower in zip(window.start, box.lower)))


def load_volume(path: Path) -> Volume:
    """Reads ``imgs`` and ``gts`` of a case, and ``normalization``, scale and offset, where it is part of a larger one.

    Raises:
        NpzError: unreadable, without ``gts``, of different shapes, or without an object.
    """
    with open_npz(path) as archive:
        image, labels = read_member(archive, IMAGE), read_member(archive, LABELS)
        known = read_member(archive, NORMALIZATION) if f"{NORMALIZATION}.npy" in archive.namelist() else None
    if image.ndim != 3 or image.shape != labels.shape or labels.dtype.kind not in "ui":
        raise CaseError(
            f"{path.name}: imgs {image.shape} and gts {labels.dtype} {labels.shape}; expected one shape, integer labels"
        )
    labels = _compact(labels)
    normalized = NormalizedImage.of(image)
    if known is not None:
        if known.shape != (2,) or known.dtype.kind != "f" or not np.isfinite(known).all():
            raise CaseError(f"{path.name}: normalization is {known.dtype} {known.shape}; expected scale and offset")
        normalized = replace(normalized, scale=float(known[0]), offset=float(known[1]))
    objects, likeness, slices, boxes = {}, {}, {}, {}
    for label, box in label_extents(labels).items():
        mask = labels[box.slices] == label
        inside = image[box.slices][mask]
        if inside.size >= SMALLEST_OBJECT:
            objects[label] = box
            likeness[label] = (float(inside.mean(dtype=np.float64)) * normalized.scale, math.log(inside.size))
            slices[label] = _runs(np.flatnonzero(mask.any(axis=(1, 2))) + box.lower[0])
            boxes[label] = middle_slice_box(mask, box.lower)
    if not objects:
        raise CaseError(f"{path.name}: gts holds no object of at least {SMALLEST_OBJECT} voxels")
    return Volume(
        path.stem,
        modality_of(path.stem),
        source_of(path),
        normalized,
        torch.from_numpy(labels),
        objects,
        likeness,
        slices,
        boxes,
        int(labels.max()),
    )


def _runs(numbers: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers, which ascend."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]


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


def modality_of(name: str) -> str:
    """The first word of a case's name."""
    return name.split("_")[0]


def source_of(path: Path) -> str:
    """The data set that a file is from: the first two words of its name."""
    return "_".join(path.stem.split("_")[:2])


def by_source(items: Iterable[T], source: Callable[[T], str]) -> dict[str, list[T]]:
    """Source -> what is from it, both in the order in which they come."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(source(item), []).append(item)
    return groups


def find_cases(folders: Path | Sequence[Path], exclude: Sequence[str] = (), at_most: int | None = None) -> list[Path]:
    """The ``*.npz`` of folders, all or the first few.

    Args:
        folders: one or more; of files of one name, the first counts.
        exclude: files whose names begin so are left out, for example ``MR_acdc``.

    Raises:
        FileNotFoundError: a folder does not exist.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected *.npz with imgs and gts in it")
        for path in sorted(folder.glob("*.npz")):
            if not path.name.startswith(tuple(exclude)):
                found.setdefault(path.name, path)
    return list(found.values())[:at_most]


def load_volumes(
    folders: Path | Sequence[Path], exclude: Sequence[str] = (), at_most: int | None = None
) -> list[Volume]:
    """Reads cases into memory (:func:`find_cases`). A broken file is named on stderr, skipped and counted.

    Of several processes that read the same, the first alone says so.

    Raises:
        FileNotFoundError: no usable case in the folders.
    """
    paths = find_cases(folders, exclude, at_most)
    first = process_rank() == 0
    if first:
        print(f"reading {len(paths)} volumes", flush=True)  # The bar is for terminals only.
    volumes: list[Volume] = []
    broken = []

    def attempt(path: Path) -> Volume | NpzError:
        try:
            return load_volume(path)
        except NpzError as error:
            return error

    with ThreadPoolExecutor() as pool:
        results, silent = pool.map(attempt, paths), None if first else True
        for result in tqdm(results, total=len(paths), desc="reading", unit="case", disable=silent):
            if isinstance(result, NpzError):
                broken.append(str(result))
            else:
                volumes.append(result)
    report(folders, len(paths), volumes, broken)
    return volumes


def report(folders: Path | Sequence[Path], files: int, volumes: Sequence[Volume], broken: Sequence[str]) -> None:
    """Says what was found in folders; of several processes, the first does.

    Args:
        files: how many were looked at.
        broken: what is wrong with those that cannot be used, a line each.

    Raises:
        FileNotFoundError: none can be used.
    """
    if process_rank() == 0:
        for line in broken:
            print(f"skipped: {line}", file=sys.stderr)
    names = ", ".join(map(str, [folders] if isinstance(folders, Path) else folders))
    if not len(volumes):
        raise FileNotFoundError(f"{names}: no usable case among {files} *.npz files; expected imgs and gts")
    if process_rank() == 0:
        objects = sum(len(volume.objects) for volume in volumes)
        print(f"{names}: {len(volumes)} volumes, {objects} objects, {len(broken)} broken files skipped", flush=True)
