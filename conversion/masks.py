"""Label maps that belong to an image: read, checked, numbered as the challenge numbers objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from conversion.volume import ConversionError, check_same_grid, read_volume
from inference.case import MAX_OBJECTS


def read_labels(path: Path, image: sitk.Image) -> NDArray[np.uint8]:
    """Reads a label map of the image's grid.

    Returns:
        (D, H, W), labels as they are in the file.

    Raises:
        ConversionError: unreadable, of another grid, or no label map of 0 to 255.
    """
    mask = read_volume(path)
    check_same_grid(path, mask, image)
    labels = sitk.GetArrayFromImage(mask)
    low, high = labels.min(), labels.max()
    if not (low >= 0 and high <= MAX_OBJECTS) or (labels.dtype.kind == "f" and (labels != np.rint(labels)).any()):
        raise ConversionError(
            f"{path}: holds values from {low:g} to {high:g}; expected whole numbers, 0 for background and labels to "
            f"{MAX_OBJECTS}"
        )
    return labels.astype(np.uint8)


def consecutive(labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[int]]:
    """The label map with labels 1…K, as the challenge wants them, and the labels that they were."""
    found = [int(label) for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)) if label]
    table = np.zeros(256, np.uint8)
    table[found] = np.arange(1, len(found) + 1)
    return table[labels], found
