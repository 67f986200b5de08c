"""Cases to evaluate, and the input file that the organizers make of one for every run."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import object_labels
from evaluation.simulated_user import box_from_mask
from inference.case import CaseError, ObjectPrompts, read_case
from inference.geometry import Box, Voxel
from inference.npz import NpzError, read_array

PlacedClick = tuple[Voxel, bool]
"""Position (z, y, x), and whether it lies in the object."""

FOREGROUND, BACKGROUND = "fg", "bg"


@dataclass(frozen=True)
class EvaluationCase:
    """A case with its ground truth.

    Args:
        name: the file's name, such as `CT_spleen2.npz`.
        image: (D, H, W), axes z, y, x.
        truth: (D, H, W); labels 1…K, 0 is background.
        spacing: voxel size in mm along z, y, x.
        objects: the objects with their boxes (or none).
        stored: the file's `imgs`, `spacing` and, if any, `boxes` as they are stored; runs are handed these bytes
            unchanged.
        boxes_dropped: the file has boxes, but the case is to be run without them.
    """

    name: str
    image: NDArray
    truth: NDArray[np.integer]
    spacing: tuple[float, float, float]
    objects: tuple[ObjectPrompts, ...]
    stored: dict[str, bytes]
    boxes_dropped: bool = False

    @property
    def has_boxes(self) -> bool:
        return "boxes" in self.stored

    @property
    def classes(self) -> int:
        return len(object_labels(self.truth))

    @property
    def checksum(self) -> str:
        """SHA-256 of what results are measured on: image, spacing, boxes and truth."""
        digest = hashlib.sha256(f"{self.truth.shape} {self.truth.dtype}".encode())
        for key in sorted(self.stored):
            digest.update(self.stored[key])
        digest.update(np.ascontiguousarray(self.truth).data)
        return digest.hexdigest()


def list_cases(*folders: Path) -> list[Path]:
    """Return the case files of folders, one folder after the other, each in the order of their names.

    Raises:
        CaseError: a folder is missing or holds no `.npz` file, or two hold a file of the same name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise CaseError(f"{folder}: no such folder; expected a folder of .npz cases")
        paths = sorted(folder.glob("*.npz"))
        if not paths:
            raise CaseError(f"{folder}: no .npz file in it; expected a folder of .npz cases")
        for path in paths:
            if path.name in found:
                raise CaseError(
                    f"{path}: {found[path.name]} has the same name; expected each name once: results are kept by it"
                )
            found[path.name] = path
    return list(found.values())


def read_evaluation_case(path: Path, truths: Path | None = None) -> EvaluationCase:
    """Read a case and its ground truth.

    Args:
        path: the case file (`imgs`, `spacing`, and possibly `boxes` and `gts`).
        truths: a folder with files of the same name that hold `gts`, if the case files do not.

    Raises:
        CaseError: the file cannot be read, the truth is missing, or the two do not fit each other.
    """
    case = read_case(path)
    truth_path = path if truths is None else truths / path.name
    truth = _read_truth(truth_path)
    if truth.shape != case.image.shape:
        raise CaseError(f"{path.name}: gts has shape {truth.shape}; expected {case.image.shape}, the shape of imgs")
    labels = object_labels(truth)
    if labels != list(range(1, len(labels) + 1)) or not labels:
        found = ", ".join(map(str, labels[:10])) or "none"
        raise CaseError(f"{path.name}: gts has the labels {found}; expected 1…K without a gap")
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        if "spacing.npy" not in members:
            raise CaseError(f"{path.name}: no key 'spacing'; expected the voxel size, three numbers in mm")
        stored = {key: archive.read(f"{key}.npy") for key in ("imgs", "spacing", "boxes") if f"{key}.npy" in members}
    if "boxes" in stored and len(case.objects) != len(labels):
        raise CaseError(
            f"{path.name}: {len(case.objects)} boxes for {len(labels)} objects in gts; expected one for each"
        )
    objects = case.objects if "boxes" in stored else tuple(ObjectPrompts(label=label) for label in labels)
    return EvaluationCase(path.name, case.image, truth, case.spacing, objects, stored)


def without_boxes(case: EvaluationCase) -> EvaluationCase:
    """Return the case as if its file had no boxes."""
    return replace(
        case,
        objects=tuple(replace(item, box=None) for item in case.objects),
        stored={key: content for key, content in case.stored.items() if key != "boxes"},
        boxes_dropped=case.has_boxes,
    )


def with_boxes(case: EvaluationCase, rng: np.random.Generator) -> EvaluationCase:
    """Return the case with a box for each object, made from its truth as the organizers make theirs.

    Args:
        rng: source of the boxes' jitter.
    """
    boxes = [box_from_mask(case.truth == item.label, rng) for item in case.objects]
    objects = tuple(replace(item, box=Box.from_entry(box)) for item, box in zip(case.objects, boxes, strict=True))
    return replace(case, objects=objects, stored=case.stored | {"boxes": _npy(np.array(boxes))})


def write_step_input(
    path: Path, case: EvaluationCase, clicks: Sequence[Sequence[PlacedClick | None]], previous: NDArray[np.uint8] | None
) -> None:
    """Write the input of one run as the organizers do, without the ground truth.

    Args:
        path: the `.npz` to write.
        case: the case; its image, spacing and boxes are stored as they came.
        clicks: for each object its click of every step so far, `None` where it had no error.
        previous: (D, H, W) label map of the previous run; `None` in the run with the boxes alone, which carries no
            clicks.
    """
    members = dict(case.stored)
    if previous is not None:
        by_kind = [
            {
                kind: [
                    list(np.array(click[0]))
                    for click in steps
                    if click is not None and click[1] == (kind == FOREGROUND)
                ]
                for kind in (FOREGROUND, BACKGROUND)
            }
            for steps in clicks
        ]
        order = [
            [None if click is None else FOREGROUND if click[1] else BACKGROUND for click in steps] for steps in clicks
        ]
        members |= {
            "clicks": _npy(np.array(by_kind)),
            "clicks_order": _npy(np.array(order)),
            "prev_pred": _npy(previous),
        }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)


def _read_truth(path: Path) -> NDArray[np.integer]:
    """Return the array `gts` of a file."""
    try:
        truth = read_array(path, "gts")
    except NpzError as error:
        raise CaseError(f"{error}; expected the ground truth, a (D, H, W) label map") from error
    if truth.dtype.kind not in "ui":
        raise CaseError(f"{path.name}: gts has dtype {truth.dtype}; expected integers")
    return truth


def _npy(array: NDArray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array))
    return buffer.getvalue()
