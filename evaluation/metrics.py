"""The challenge's scores: DSC, NSD at 2 mm, and the area under their curves (paper, section 3.1)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_surface_dice
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from evaluation.crop import bounding_box

NSD_TOLERANCE_MM = 2.0

NSD_MINIMUM_DSC = 0.2
"""A segmentation whose mean DSC is not above this gets NSD 0, without computing it."""

CLICK_RUNS = 5
"""The AUC is taken over the runs with clicks: the run with the box alone is optional."""


@dataclass(frozen=True)
class StepScores:
    """The scores of one label map: means over the objects, each in [0, 1]."""

    dsc: float
    nsd: float


def score_segmentation(
    truth: NDArray[np.integer], segmentation: NDArray[np.integer], spacing: Sequence[float]
) -> StepScores:
    """Score a label map as the organizers do: mean DSC over the objects, and mean NSD if that DSC is above 0.2.

    Args:
        truth: (D, H, W), axes z, y, x; labels, 0 is background. It holds at least one object.
        segmentation: the same shape; an object that it lacks scores 0.
        spacing: voxel size in mm, in the order of the axes.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != segmentation.shape:
        raise ValueError(f"segmentation: shape {segmentation.shape} differs from the truth's {truth.shape}")
    pairs = [(truth == label, segmentation == label) for label in object_labels(truth)]
    dsc = float(np.mean([dice(true, predicted) for true, predicted in pairs]))
    if dsc <= NSD_MINIMUM_DSC:
        return StepScores(dsc=dsc, nsd=0.0)
    return StepScores(dsc=dsc, nsd=float(np.mean([surface_dice(*pair, spacing) for pair in pairs])))


def object_labels(truth: NDArray[np.integer]) -> list[int]:
    """Return the labels of the objects in a label map, ascending, without the background's 0."""
    return [int(label) for label in np.unique(truth) if label != 0]


def dice(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Return the Dice similarity coefficient of two (D, H, W) masks, of which the truth is not empty."""
    return float(2 * np.count_nonzero(truth & predicted) / (np.count_nonzero(truth) + np.count_nonzero(predicted)))


def surface_dice(truth: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """Return the part of both surfaces that lies within 2 mm of the other one (Nikolov et al., arXiv:1809.04430).

    MONAI computes in single precision; its figures agree with the organizers' to better than 1e-6.

    Args:
        truth: (D, H, W), axes z, y, x; not empty.
        predicted: the same shape; when empty, the result is 0.
        spacing: voxel size in mm, in the order of the axes.
    """
    if not predicted.any():
        return 0.0
    box = bounding_box(truth | predicted)
    masks = [torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (predicted, truth)]
    with warnings.catch_warnings():
        # MONAI 1.6 calls its own function with an argument that it has deprecated itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        result = compute_surface_dice(
            *masks,
            [NSD_TOLERANCE_MM],
            include_background=True,
            spacing=[float(edge) for edge in spacing],
            use_subvoxels=True,
        )
    return float(result)


def area_under_curve(values: Sequence[float]) -> float:
    """Return the trapezoid area over the five runs with clicks (the last five values), at most 4."""
    return float(trapezoid(values[-CLICK_RUNS:]))
