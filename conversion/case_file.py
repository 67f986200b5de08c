"""A case file as the challenge has it: written from an image and prompts, and its result read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conversion.volume import ConversionError
from inference.atomic import replacing
from inference.npz import NpzError, open_npz, read_member
from inference.prompt_types import PROMPT_TYPES, ObjectPrompts


def write_case(
    path: Path,
    image: NDArray,
    spacing: tuple[float, float, float],
    objects: Sequence[ObjectPrompts],
    truth: NDArray[np.uint8] | None = None,
    previous: NDArray[np.uint8] | None = None,
    ids: Sequence[int] = (),
) -> None:
    """Writes a case, whole or not at all.

    Args:
        path: the ``.npz`` to write; an older file is replaced.
        image: (D, H, W), [0, 255].
        spacing: millimetres along z, y, x.
        objects: labels 1…K; a box for each or for none. Without boxes or clicks only the image and the truth are
            written.
        truth: ``gts``, (D, H, W), labels 0…K.
        previous: ``prev_pred``, (D, H, W). With clicks and none of it, the empty one that the evaluator gives.
        ids: what the labels 1…K are called in the masks that they come from, where that is something else: kept as
            ``label_ids``, which nothing but :func:`read_ids` reads.

    Raises:
        ConversionError: some objects have a box and others none.
        OSError: the folder cannot be written.
    """
    arrays: dict[str, NDArray] = {"imgs": image, "spacing": np.array(spacing, np.float64)}
    boxes = [item.box for item in objects if item.box is not None]
    if boxes and len(boxes) != len(objects):
        raise ConversionError(
            f"{len(boxes)} boxes for {len(objects)} objects; expected a --box for each object of a case, or for none"
        )
    for kind in PROMPT_TYPES:
        arrays |= kind.arrays(objects)
    if arrays.keys() - {"imgs", "spacing", "boxes"}:  # The evaluator's first run has boxes alone, or else a mask.
        previous = np.zeros(image.shape, np.uint8) if previous is None else previous
    if previous is not None:
        arrays["prev_pred"] = previous
    if truth is not None:
        arrays["gts"] = truth
    if list(ids) != list(range(1, len(ids) + 1)):
        arrays["label_ids"] = np.array(ids)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, allow_pickle=True, **arrays)


def read_result(path: Path) -> NDArray[np.uint8]:
    """Reads ``segs`` of a result.

    Raises:
        ConversionError: unreadable, a case in place of a result, or not a label map.
    """
    try:
        with open_npz(path) as archive:
            if "imgs.npy" in (found := archive.namelist()) and "segs.npy" not in found:
                raise NpzError("is a case, not a result; segfm3d predict makes results of cases, which hold segs")
            labels = read_member(archive, "segs")
    except NpzError as error:
        raise ConversionError(str(error)) from error
    if labels.ndim != 3 or not labels.size or labels.dtype.kind not in "bui" or labels.min() < 0 or labels.max() > 255:
        raise ConversionError(
            f"{path}: segs is {labels.dtype} {labels.shape}; expected a label map (D, H, W), 0 to 255"
        )
    return labels.astype(np.uint8)


def read_ids(path: Path) -> list[int]:
    """Reads what the labels 1…K of a case are called outside of it; empty if they are called that.

    Raises:
        ConversionError: unreadable, or no labels.
    """
    try:
        with open_npz(path) as archive:
            if "label_ids.npy" not in archive.namelist():
                return []
            ids = read_member(archive, "label_ids")
    except NpzError as error:
        raise ConversionError(str(error)) from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not 1 <= len(ids) <= 255 or ids.min() < 1:
        raise ConversionError(f"{path}: label_ids holds no labels; expected what segfm3d case make wrote")
    return ids.tolist()
