"""A case on disk: read, repaired, written (the challenge's ``.npz`` contract).

Axis order is (z, y, x) throughout. Files are read by :mod:`inference.npz`: nothing in them can run code.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inference.atomic import replacing
from inference.geometry import Box, Voxel, labels_in, rounded_voxel, three
from inference.npz import MAX_PICKLE_BYTES, NpzError, open_npz, read_member

MAX_OBJECTS = 255
WORKING_BYTES_A_VOXEL = 16
"""What segmenting takes beside the image: 4 for a copy as float32, 9 to fuse, 2 for the label maps of this and the
previous run, 1 for masks while reading."""
WORKING_BYTES = 2**30
"""What the network takes, and the slabs of a window's resampling."""


class CaseError(NpzError):
    """A case that cannot be used; the message is one line: which file, what is wrong, what is expected."""


@dataclass(frozen=True)
class Click:
    """A voxel that belongs to the object (``positive``) or does not."""

    position: Voxel
    positive: bool


@dataclass(frozen=True)
class ObjectPrompts:
    """What the user said about one object; clicks in the order in which they were made."""

    label: int
    box: Box | None = None
    clicks: tuple[Click, ...] = ()


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
    boxes = _entries(_optional(archive, members, "boxes"))
    clicks = _entries(_optional(archive, members, "clicks"))
    orders = _entries(_optional(archive, members, "clicks_order"))
    previous = _previous(archive, shape, notes) if "prev_pred" in members else None
    if boxes or clicks:
        labels = range(1, len(boxes or clicks) + 1)
    else:
        # The labels that are there, not as many as the greatest: a mask of 0 and 255 is one object.
        labels = labels_in(previous) if previous is not None and previous.any() else [1]
        notes.append(f"neither boxes nor clicks; taking {len(labels)} object(s) from the previous mask, or one")
    if len(labels) > MAX_OBJECTS:
        raise CaseError(f"{len(labels)} objects; labels are uint8, so at most {MAX_OBJECTS} are expected")
    objects = tuple(
        ObjectPrompts(
            label=label,
            box=_box(boxes[index], shape, label, notes) if index < len(boxes) else None,
            clicks=_clicks(
                clicks[index] if index < len(clicks) else None,
                orders[index] if index < len(orders) else None,
                shape,
                label,
                notes,
            ),
        )
        for index, label in enumerate(labels)
    )
    return Case(name, image, spacing, objects, previous, tuple(notes))


def _optional(archive: zipfile.ZipFile, members: set[str], key: str) -> np.ndarray | None:
    # Boxes, clicks and their order: a real file holds some kilobytes of them.
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


def _box(entry: Any, shape: Voxel, label: int, notes: list[str]) -> Box | None:
    """The box of an entry; None, with a note, if it says nothing about this image."""
    try:
        stated = Box.from_entry(entry)
    except ValueError as error:
        notes.append(f"object {label}: its box {error}; the object is taken as having none")
        return None
    box = Box(three(map(min, stated.lower, stated.upper)), three(map(max, stated.lower, stated.upper)))
    clipped = box.clipped(shape)
    if box != stated:
        notes.append(f"object {label}: its box is inverted; its corners are put in order")
    if clipped is None:
        notes.append(f"object {label}: its box lies outside the image; the object is taken as having none")
    elif clipped != box:
        notes.append(f"object {label}: its box reaches outside the image; the part inside is used")
    return clipped


def _clicks(entry: Any, order: Any, shape: Voxel, label: int, notes: list[str]) -> tuple[Click, ...]:
    """An object's clicks, in the order given; foreground first where the order does not fit the lists."""
    if not isinstance(entry, dict):
        return ()
    lists = {kind: _as_list(entry.get(kind)) for kind in ("fg", "bg")}
    kinds = [str(kind) for kind in _as_list(order) if isinstance(kind, str) and kind in lists]
    if any(kinds.count(kind) != len(lists[kind]) for kind in lists):
        notes.append(f"object {label}: clicks_order does not fit its clicks; foreground clicks are taken first")
        kinds = ["fg"] * len(lists["fg"]) + ["bg"] * len(lists["bg"])
    positions = {kind: iter(lists[kind]) for kind in lists}
    clicks = []
    for kind in kinds:
        position = rounded_voxel(next(positions[kind]))
        if position is None or not all(0 <= v < n for v, n in zip(position, shape)):
            notes.append(f"object {label}: a click that is no voxel of the image is left aside")
        else:
            clicks.append(Click(position, positive=kind == "fg"))
    return tuple(clicks)


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim) else []
