"""The report's pictures: a case through its runs, with box, clicks, truth and result (the paper's Figures 4 to 8)."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from evaluation.cases import EvaluationCase, PlacedClick
from evaluation.results import CaseResult
from inference.geometry import bounding_box

OBJECT_COLOURS = ("#ffb000", "#4cc9f0", "#f06292", "#9ccc65", "#b39ddb", "#ff8a65", "#4db6ac", "#fff176")
FOREGROUND_CLICK, BACKGROUND_CLICK = "#37d67a", "#ff4d4d"

MARGIN = 0.2
"""Surroundings shown beside the objects, the result and the boxes, as a part of their extent."""

FILL = 0.38

PANEL_INCHES = 2.0
TITLE_INCHES = 0.2
DPI = 130


@dataclass(frozen=True)
class Panel:
    """What one panel shows."""

    title: str
    segmentation: NDArray[np.uint8]
    clicks: tuple[tuple[PlacedClick, ...], ...]


def draw_case(case: EvaluationCase, result: CaseResult, segmentations: NDArray[np.uint8]) -> bytes:
    """Draw a case's runs side by side, in the slice with most error over all runs.

    The truth is a line, the result a tint, the box dashed. Clicks made so far are filled where they lie in the slice,
    small and open where they lie in another one.

    Args:
        case: the case; boxes are drawn as the runs were given them.
        result: its result.
        segmentations: (runs, D, H, W), axes z, y, x.

    Returns:
        A WebP image.
    """
    depth = worst_slice(case.truth, segmentations)
    rows, columns = _view(case, segmentations, depth)
    aspect = case.spacing[1] / case.spacing[2]
    height = (rows.stop - rows.start) * aspect / (columns.stop - columns.start)
    panels = _panels(result, segmentations)
    figure = Figure(figsize=(PANEL_INCHES * len(panels), PANEL_INCHES * height + TITLE_INCHES), dpi=DPI)
    lowest, highest = np.percentile(case.image[depth, rows, columns], (0.5, 99.5))
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axis.imshow(case.image[depth], cmap="gray", vmin=lowest, vmax=max(highest, lowest + 1), aspect=aspect)
        _draw_objects(axis, case, panel.segmentation, depth)
        _draw_clicks(axis, panel.clicks, depth)
        axis.set(
            xlim=(columns.start - 0.5, columns.stop - 0.5),
            ylim=(rows.stop - 0.5, rows.start - 0.5),
            xticks=[],
            yticks=[],
        )
        axis.set_title(panel.title, fontsize=8, loc="left", pad=3, color="#1d2733")
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - TITLE_INCHES / figure.get_figheight(), wspace=0.03)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", facecolor="white", pil_kwargs={"quality": 82})
    return buffer.getvalue()


def worst_slice(truth: NDArray[np.integer], segmentations: Iterable[NDArray[np.uint8]]) -> int:
    """Return the z of the slice with the most wrong voxels over all runs; without any, with the most object."""
    wrong = sum((segmentation != truth).sum(axis=(1, 2)) for segmentation in segmentations)
    return int(np.argmax(wrong if wrong.any() else (truth > 0).sum(axis=(1, 2))))


def _panels(result: CaseResult, segmentations: NDArray[np.uint8]) -> list[Panel]:
    runs = zip(result.run_titles, result.steps, segmentations, result.clicks_so_far, strict=False)
    return [Panel(f"{title}   DSC {step.dsc:.3f}", labels, clicks) for title, step, labels, clicks in runs]


def _view(case: EvaluationCase, segmentations: NDArray[np.uint8], depth: int) -> tuple[slice, slice]:
    """Return the rows and columns to show: the objects, results and boxes in the slice, and their surroundings."""
    shown = np.zeros(case.truth.shape[1:], bool)
    shown |= (case.truth[depth] > 0) | (segmentations[:, depth] > 0).any(axis=0)
    for item in case.objects:
        if item.box is not None and item.box.lower[0] <= depth <= item.box.upper[0]:
            shown[item.box.slices[1:]] = True
    box = bounding_box(shown[None])
    if box is None:
        return slice(0, shown.shape[0]), slice(0, shown.shape[1])
    margin = MARGIN * max(box.size[1:])
    rows, columns = (
        slice(max(0, int(edge.start - margin)), min(size, int(np.ceil(edge.stop + margin))))
        for edge, size in zip(box.slices[1:], shown.shape, strict=True)
    )
    return rows, columns


def _draw_objects(axis: Axes, case: EvaluationCase, segmentation: NDArray[np.uint8], depth: int) -> None:
    tint = np.zeros((*case.truth.shape[1:], 4))
    for item in case.objects:
        colour = OBJECT_COLOURS[(item.label - 1) % len(OBJECT_COLOURS)]
        tint[segmentation[depth] == item.label] = (*to_rgb(colour), FILL)
        true = case.truth[depth] == item.label
        if true.any():
            # Padded, so that the line is closed where the object ends with the image.
            axis.contour(
                np.pad(true, 1).astype(float),
                [0.5],
                colors=[colour],
                linewidths=1.1,
                extent=(-1, true.shape[1], -1, true.shape[0]),
            )
        if item.box is not None and item.box.lower[0] <= depth <= item.box.upper[0]:
            (_, top, left), (_, high, wide) = item.box.lower, item.box.size
            axis.add_patch(
                Rectangle((left - 0.5, top - 0.5), wide, high, fill=False, color=colour, lw=0.9, ls=(0, (3, 2)))
            )
    axis.imshow(tint, aspect=axis.get_aspect(), interpolation="nearest")


def _draw_clicks(axis: Axes, clicks: tuple[tuple[PlacedClick, ...], ...], depth: int) -> None:
    for (z, y, x), positive in (click for made in clicks for click in made):
        colour = FOREGROUND_CLICK if positive else BACKGROUND_CLICK
        if z == depth:
            axis.plot(x, y, "o", markersize=7, color=colour, markeredgecolor="black", markeredgewidth=0.7)
            axis.plot(x, y, "+" if positive else "_", markersize=4.5, color="black", markeredgewidth=1.0)
        else:
            # Dark below, coloured above: seen on any background.
            axis.plot(x, y, "o", markersize=4.4, fillstyle="none", color="black", markeredgewidth=2.2, alpha=0.6)
            axis.plot(x, y, "o", markersize=4.4, fillstyle="none", color=colour, markeredgewidth=1.2)
