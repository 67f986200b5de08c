"""Label maps that belong to an image: read, checked, and renumbered as the challenge numbers objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from conversion.volume import ConversionError, check_same_grid, read_volume
from inference.case import MAX_OBJECTS, labels_in

WHOLE = 1e-3
"""A label may be this far from a whole number: programs scale label maps as they scale images."""

MAX_LABEL = 2**31 - 1
"""The largest label that is read."""


def read_labels(path: Path, image: sitk.Image) -> tuple[NDArray[np.unsignedinteger], tuple[int, ...]]:
    """Reads a label map of the image's grid.

    Returns:
        (D, H, W), labels as they are in the file, in the smallest unsigned type that holds them; and the labels that
        it holds, ascending, without 0.

    Raises:
        ConversionError: unreadable, of another grid, no label map, or of more labels than objects can be.
    """
    mask = read_volume(path)
    check_same_grid(path, mask, image)
    labels = sitk.GetArrayViewFromImage(mask)
    low, high = labels.min(), labels.max()
    if labels.dtype.kind == "f":
        whole = np.rint(labels)
        fits = bool((np.abs(labels - whole) <= WHOLE).all())  # False where there is a NaN.
        labels = whole
    else:
        fits = True
    if not (fits and low >= -WHOLE and high <= MAX_LABEL):
        raise ConversionError(
            f"{path}: holds values from {low:g} to {high:g}, not all of them labels; expected whole numbers, 0 for "
            "background: save it as a label map"
        )
    labels = labels.astype(np.min_scalar_type(int(np.rint(high))))
    ids = labels_in(labels) if labels.dtype.itemsize <= 2 else [int(label) for label in np.unique(labels) if label]
    if len(ids) > MAX_OBJECTS:
        raise ConversionError(f"{path}: holds {len(ids)} labels; expected at most {MAX_OBJECTS}: is it a label map?")
    return labels, tuple(ids)


def renumber(labels: NDArray[np.unsignedinteger], ids: Sequence[int]) -> NDArray[np.uint8]:
    """The label map with labels 1…K for ``ids``, which are ascending and hold all of its labels."""
    known = np.array([0, *ids])
    numbered = np.empty(labels.shape, np.uint8)
    for plane, result in zip(labels, numbered):
        result[...] = np.searchsorted(known, plane)
    return numbered


def restore_ids(labels: NDArray[np.uint8], ids: Sequence[int]) -> NDArray[np.unsignedinteger]:
    """The label map with ``ids`` for labels 1…K: the way back from :func:`renumber`."""
    return np.array([0, *ids], np.min_scalar_type(max(ids)))[labels]
