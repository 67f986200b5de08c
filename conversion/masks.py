"""Label maps that belong to an image: read, checked, and renumbered as the challenge numbers objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from conversion.volume import ConversionError, check_same_grid, read_volume
from inference.case import MAX_OBJECTS
from inference.geometry import labels_in

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
    mask = _read_mask(path, image)
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


def _read_mask(path: Path, image: sitk.Image) -> sitk.Image:
    """A mask; 3D Slicer's, which may be cropped to its segments, in the image's size."""
    try:
        mask = read_volume(path)
    except ConversionError as error:
        if path.name.lower().endswith(".seg.nrrd") and "values a voxel" in str(error):
            raise ConversionError(
                f"{path}: its segments lie in several layers, so that they may overlap; expected one label map: export "
                "it in 3D Slicer (Segmentations, Export to new labelmap) and save that"
            ) from error
        raise
    if not path.name.lower().endswith(".seg.nrrd") or mask.GetSize() == image.GetSize():
        return mask
    first = image.TransformPhysicalPointToIndex(mask.GetOrigin())
    before = [max(-a, 0) for a in first]
    after = [max(a + n - m, 0) for a, n, m in zip(first, mask.GetSize(), image.GetSize())]
    if any(cut >= n for cut, n in zip(map(sum, zip(before, after)), mask.GetSize())):
        return mask  # It lies elsewhere, as its size or its corners will say.
    inside = mask[tuple(slice(a, n - b) for a, b, n in zip(before, after, mask.GetSize()))]
    lower = [max(a, 0) for a in first]
    upper = [m - a - n for m, a, n in zip(image.GetSize(), lower, inside.GetSize())]
    return sitk.ConstantPad(inside, lower, upper, 0)


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
