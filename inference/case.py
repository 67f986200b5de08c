"""A case on disk: read, repaired, written (the challenge's ``.npz`` contract).

Axis order is (z, y, x) throughout. Files are read by :mod:`inference.npz`: nothing in them can run code.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inference.atomic import replacing
from inference.geometry import Voxel, labels_in, three
from inference.npz import MAX_PICKLE_BYTES, NpzError, open_npz, read_member
from inference.prompt_types import PROMPT_TYPES, ObjectPrompts
from inference.prompt_types import Click as Click  # A case is made of both, and they are taken from here.

MAX_OBJECTS = 255
WORKING_BYTES_A_VOXEL = 16
"""What segmenting takes beside the image: 4 for a copy as float32, 9 to fuse, 2 for the label maps of this and the
previous run, 1 for masks while reading."""
WORKING_BYTES = 2**30
"""What the network takes, and the slabs of a window's resampling."""


class CaseError(NpzError):
    """A case that cannot be used; the message is one line: which file, what is wrong, what is expected."""


@dataclass(frozen=True)
class Case:
    """An image and what the user said about it.

    Args:
        name: the file's name without folder.
        image: (D, H, W), a real dtype, finite.
        spacing: millimetres along z, y, x.
        objects: one an object, labels ascending: 1…K in a run of the challenge.
        previous: (D, H, W) uint8 label map of the previous run, or None.
        notes: what was repaired or left aside while reading, a line each.
    """

    name: str
    image: np.ndarray
    spacing: tuple[float, float, float]
    objects: tuple[ObjectPrompts, ...]
    previous: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)


def read_case(path: str | os.PathLike) -> Case:
    """Reads a challenge file.

    Prompts that make no sense (a click outside the image, an inverted box) are repaired or left aside and noted in
    ``Case.notes``. The objects are 1…K, K the number of boxes, else of clicks; without either, they are the labels that
    the previous mask holds, else 1.

    Raises:
        CaseError: the file is unreadable, unsafe, or has no usable image.
    """
    try:
        with open_npz(Path(path)) as archive:
            return _read_case(archive, Path(path).name)
    except NpzError as error:
        raise CaseError(str(error)) from error


def write_segmentation(path: str | os.PathLike, segmentation: np.ndarray) -> None:
    """Writes ``segs`` as the evaluator wants it: whole or not at all, mode 0644, an older file kept until replaced.

    Args:
        path: the ``.npz`` to write.
        segmentation: (D, H, W) uint8 label map.

    Raises:
        ValueError: not a uint8 volume.
        OSError: the folder cannot be written; nothing is left behind.
    """
    if segmentation.dtype != np.uint8 or segmentation.ndim != 3:
        raise ValueError(f"segmentation {segmentation.dtype} {segmentation.shape}: expected a uint8 volume (D, H, W)")
    # The evaluator reads every *.npz of the folder, so an unfinished file must not be called that.
    with (
        replacing(Path(path)) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("segs.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array(member, np.ascontiguousarray(segmentation), allow_pickle=False)


def _read_case(archive: zipfile.ZipFile, name: str) -> Case:
    notes: list[str] = []
    members = {member.removesuffix(".npy") for member in archive.namelist()}
    image = _usable_image(_read_volume(archive, "imgs"), notes)
    shape = image.shape
    spacing = _spacing(_optional(archive, members, "spacing"), notes)
    entries = {key: _entries(_optional(archive, members, key)) for kind in PROMPT_TYPES for key in kind.keys}
    previous = _previous(archive, shape, notes) if "prev_pred" in members else None
    prompted = [len(entries[kind.keys[0]]) for kind in PROMPT_TYPES if entries[kind.keys[0]]]
    if prompted:
        labels = range(1, prompted[0] + 1)
    else:
        # The labels that are there, not as many as the greatest: a mask of 0 and 255 is one object.
        labels = labels_in(previous) if previous is not None and previous.any() else [1]
        neither = " nor ".join(kind.keys[0] for kind in PROMPT_TYPES)
        notes.append(f"neither {neither}; taking {len(labels)} object(s) from the previous mask, or one")
    if len(labels) > MAX_OBJECTS:
        raise CaseError(f"{len(labels)} objects; labels are uint8, so at most {MAX_OBJECTS} are expected")
    objects = tuple(_object(entries, index, shape, label, notes) for index, label in enumerate(labels))
    return Case(name, image, spacing, objects, previous, tuple(notes))


def _object(entries: dict[str, list], index: int, shape: Voxel, label: int, notes: list[str]) -> ObjectPrompts:
    """What was said of one object; ``entries``: of each key, one an object."""
    said = {}
    for kind in PROMPT_TYPES:
        if index < len(entries[kind.keys[0]]):
            own = [entries[key][index] if index < len(entries[key]) else None for key in kind.keys]
            said[kind.field] = kind.read(own, shape, label, notes)
    return ObjectPrompts(label, **said)


def _optional(archive: zipfile.ZipFile, members: set[str], key: str) -> np.ndarray | None:
    # Prompts and the spacing: a real file holds some kilobytes of them.
    return read_member(archive, key, MAX_PICKLE_BYTES) if key in members else None


def _read_volume(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """A volume of the image's shape, if there is memory to segment the image beside it."""
    return read_member(archive, key, beside=WORKING_BYTES_A_VOXEL, reserve=WORKING_BYTES)


def _usable_image(image: np.ndarray, notes: list[str]) -> np.ndarray:
    if image.ndim != 3 or image.size == 0:
        raise CaseError(f"imgs has shape {image.shape}; expected three axes (D, H, W), none empty")
    if image.dtype.kind not in "buif":
        raise CaseError(f"imgs has dtype {image.dtype}; expected a real number")
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        if not finite.all():
            notes.append(f"imgs has {image.size - int(finite.sum())} voxels that are not finite; taken as 0")
            image = np.where(finite, image, 0)
    return image


def _spacing(spacing: np.ndarray | None, notes: list[str]) -> tuple[float, float, float]:
    try:
        if spacing is not None and spacing.size == 3:
            values = three(float(v) for v in spacing.ravel())
            if all(math.isfinite(v) and v > 0 for v in values):
                return values
    except (TypeError, ValueError):
        pass  # Falls through to the note below, as any other unusable spacing does.
    notes.append("no usable spacing; taken as 1 mm along each axis")
    return (1.0, 1.0, 1.0)


def _previous(archive: zipfile.ZipFile, shape: Voxel, notes: list[str]) -> np.ndarray | None:
    """The previous run's label map; None, with a note, if it is none of this image: it can be done without."""
    try:
        previous = _read_volume(archive, "prev_pred")
        if previous.shape != shape or previous.dtype.kind not in "buif":
            raise CaseError(f"key 'prev_pred' is {previous.dtype} {previous.shape}; expected integers {shape}")
    except NpzError as error:
        notes.append(f"{error}; it is not used")
        return None
    if previous.dtype == np.uint8:
        return previous
    # What is no label, as a NaN or a negative number, must not become one by wrapping around.
    return np.where((previous >= 0) & (previous <= MAX_OBJECTS), previous, 0).astype(np.uint8)


def _entries(value: np.ndarray | None) -> list:
    """The entries of an array of one entry an object."""
    if value is None or (value.ndim == 0 and value.item() is None):
        return []
    if value.ndim == 0:
        entry = value.item()
        return list(entry) if isinstance(entry, (list, tuple)) else [entry]
    return list(value)
