"""The challenge's scores: DSC, NSD at 2 mm, and the area under their curves (paper, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

NSD_TOLERANCE_MM = 2.0

NSD_MINIMUM_DSC = 0.2
"""A segmentation whose mean DSC is not above this gets NSD 0, without computing it."""

CLICK_RUNS = 5
"""The AUC is taken over the runs with clicks: the run with the box alone is optional."""


@dataclass(frozen=True)
class StepScores:
    """The scores of one label map, each in [0, 1].

    Args:
        dsc: mean over the objects.
        nsd: mean over the objects.
        object_dsc: DSC of each object, in the order of the labels.
    """

    dsc: float
    nsd: float
    object_dsc: tuple[float, ...]


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
    object_dsc = tuple(dice(true, predicted) for true, predicted in pairs)
    dsc = float(np.mean(object_dsc))
    if dsc <= NSD_MINIMUM_DSC:
        return StepScores(dsc, 0.0, object_dsc)
    # Here, because commands that score nothing should not need the package for it.
    from evaluation.surface import surface_dice

    nsd = float(np.mean([surface_dice(*pair, spacing, NSD_TOLERANCE_MM) for pair in pairs]))
    return StepScores(dsc, nsd, object_dsc)


def object_labels(truth: NDArray[np.integer]) -> list[int]:
    """Return the labels of the objects in a label map, ascending, without the background's 0."""
    return [int(label) for label in np.unique(truth) if label != 0]


def dice(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Return the Dice similarity coefficient of two (D, H, W) masks, of which the truth is not empty."""
    return float(2 * np.count_nonzero(truth & predicted) / (np.count_nonzero(truth) + np.count_nonzero(predicted)))


def area_under_curve(values: Sequence[float]) -> float:
    """Return the trapezoid area over the five runs with clicks (the last five values), at most 4."""
    return float(trapezoid(values[-CLICK_RUNS:]))
