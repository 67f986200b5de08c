"""A picture of a result: for each object three planes through its middle, with its box and its clicks."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from conversion.source import Source
from conversion.volume import patient_ends
from evaluation.orientation import Ends, orient
from evaluation.voxel_axes import draw_voxel_numbers
from inference.atomic import replacing
from inference.case import ObjectPrompts
from inference.geometry import Voxel, voxel

FAINT = 0.4
"""Opacity of a click, or a box, that does not lie in the slice that is shown."""

MOST_OBJECTS = 12
"""Rows of the picture; further objects are left out of it."""

PLANES = {"L": "sagittal", "R": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}
"""The direction that a plane is perpendicular to, and what the plane is called."""

UNKNOWN = "the image does not say how the patient lies: as stored"


def write_preview(path: Path, source: Source, labels: NDArray[np.uint8]) -> None:
    """Writes the picture as PNG, whole or not at all.

    Planes are turned as in :func:`evaluation.orientation.turned`, as nearly as the image's axes allow, and letters at
    the edges say where they point; nothing is resampled. Of an image that does not say how the patient lies, planes
    have no names and no letters, and the title says so. Numbers along the edges are voxels, as they are typed.

    Args:
        labels: (D, H, W) label map of the source's objects.
    """
    objects = source.objects[:MOST_OBJECTS]
    figure, axes = pyplot.subplots(
        len(objects), 3, figsize=(12, 4.8 * len(objects) + 0.4), squeeze=False, facecolor="black", layout="constrained"
    )
    ends = patient_ends(source.image)
    for item, row in zip(objects, axes):
        mask = labels == item.label
        middle = _middle(mask, item)
        for axis, view in enumerate(row):
            _draw(view, source, mask, item, axis, middle, ends)
        row[1].set_title(f"object {item.label}: {int(mask.sum())} voxels\n{row[1].get_title()}", color="white")
    legend = "mask in orange, box dashed, clicks + in and × out (faint: other slices); voxels as --click z,y,x"
    figure.suptitle(legend if ends is not None else f"{legend}\n{UNKNOWN}", color="white")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)
    pyplot.close(figure)


def _draw(
    view: Axes,
    source: Source,
    mask: NDArray[np.bool_],
    item: ObjectPrompts,
    axis: int,
    middle: Voxel,
    ends: tuple[Ends, Ends, Ends] | None,
) -> None:
    rows, columns = (other for other in range(3) if other != axis)
    view.imshow(
        np.take(source.volume, middle[axis], axis),
        cmap="gray",
        interpolation="nearest",
        aspect=source.spacing[rows] / source.spacing[columns],
        origin="upper",
    )
    plane = np.take(mask, middle[axis], axis)
    if plane.any() and not plane.all():
        view.contour(plane, levels=[0.5], colors=["tab:orange"], linewidths=1.2)
    if item.box is not None:
        crossed = item.box.lower[axis] <= middle[axis] <= item.box.upper[axis]
        view.add_patch(
            Rectangle(
                (item.box.lower[columns] - 0.5, item.box.lower[rows] - 0.5),
                item.box.size[columns],
                item.box.size[rows],
                fill=False,
                edgecolor="tab:cyan",
                linestyle="--",
                alpha=1 if crossed else FAINT,
            )
        )
    for click in item.clicks:
        colour = "lime" if click.positive else "red"
        marker = "+" if click.positive else "x"
        alpha = 1 if click.position[axis] == middle[axis] else FAINT
        view.plot(click.position[columns], click.position[rows], marker, color=colour, ms=9, alpha=alpha)
    orient(view, axis, ends)
    name = "" if ends is None else f"{PLANES[ends[axis][1][0]]}, "
    view.set_title(f"{name}{'zyx'[axis]} = {middle[axis]}", color="white")
    draw_voxel_numbers(view, rows, columns)


def _middle(mask: NDArray[np.bool_], item: ObjectPrompts) -> Voxel:
    """Where to cut: through the newest click, or else the slices with most of the object, or the middle of its box."""
    if item.clicks:
        return item.clicks[-1].position
    if mask.any():
        return voxel(int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))
    if item.box is not None:
        return voxel((lower + upper) // 2 for lower, upper in zip(item.box.lower, item.box.upper))
    return voxel(n // 2 for n in mask.shape)
