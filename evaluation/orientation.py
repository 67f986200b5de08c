"""How a plane is turned, and its letters: R and L, A and P, S and I at the edges, where the directions are known.

A letter says what the edge points to: the patient's right or left, front (anterior) or back (posterior), head
(superior) or feet (inferior). An axis that is oblique by some 15° or more has two or three letters, the nearest
direction first, as in DICOM's Patient Orientation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference.geometry import three

if TYPE_CHECKING:  # Matplotlib takes a second, and letters alone do not need it.
    from matplotlib.axes import Axes

Ends = tuple[str, str]
"""The letters at the first and at the last voxel of an axis."""

OBLIQUE = 0.25
"""A direction has a letter if this much of an axis, the sine of about 15°, runs along it."""


def axis_ends(direction: NDArray[np.float64]) -> tuple[Ends, Ends, Ends]:
    """Returns the letters of an array's axes z, y, x.

    Args:
        direction: (3, 3), the columns are the unit vectors of x, y and z in LPS, as ITK and DICOM have them.
    """
    return three((_letters(-column), _letters(column)) for column in np.asarray(direction, float).T[::-1])


def turned(axis: int, ends: tuple[Ends, Ends, Ends] | None) -> tuple[bool, bool]:
    """Returns whether a plane's rows, and whether its columns, are drawn from the last voxel to the first.

    The radiological convention: the patient's left is on the right, the front at the top of an axial plane and on the
    left of a sagittal one, the head at the top of the others. Where it is not known how the patient lies, a plane is
    drawn as it is stored: x to the right, y downwards, z upwards, where the head is in the challenge's files.

    Args:
        axis: of the array, that the plane is perpendicular to: 0 is z, 1 is y, 2 is x.
        ends: of the axes z, y, x (:func:`axis_ends`), or None.
    """
    rows, columns = (other for other in range(3) if other != axis)
    if ends is None:
        return rows == 0, False
    return ends[rows][1][0] in "RAS", ends[columns][1][0] in "RAI"


def _letters(vector: NDArray[np.float64]) -> str:
    ranked = np.argsort(-np.abs(vector), kind="stable")
    shown = [n for rank, n in enumerate(ranked) if rank == 0 or abs(vector[n]) >= OBLIQUE]
    return "".join(("LPS" if vector[n] > 0 else "RAI")[n] for n in shown)


def orient(view: Axes, axis: int, ends: tuple[Ends, Ends, Ends] | None) -> None:
    """Turns a plane that is drawn from the first row and column on (:func:`turned`), and draws its letters, if any.

    Args:
        view: with the plane's image in it, and its limits but for their order.
        axis, ends: as in :func:`turned`.
    """
    upwards, leftwards = turned(axis, ends)
    if upwards:
        view.invert_yaxis()
    if leftwards:
        view.invert_xaxis()
    if ends is not None:
        rows, columns = (other for other in range(3) if other != axis)
        draw_letters(view, ends[rows], ends[columns])


def draw_letters(view: Axes, rows: Ends, columns: Ends) -> None:
    """Draws the letters at the four edges of a plane, whichever way its axes were turned.

    Args:
        view: with the plane's image in it, and its limits as they stay.
        rows, columns: of the array's axes that run down and along the plane.
    """
    (left, right), (bottom, top) = view.get_xlim(), view.get_ylim()
    at_left, at_right = columns if left < right else columns[::-1]
    at_bottom, at_top = rows if bottom < top else rows[::-1]
    for x, y, letter, across, along in (
        (0.015, 0.5, at_left, "left", "center"),
        (0.985, 0.5, at_right, "right", "center"),
        (0.5, 0.015, at_bottom, "center", "bottom"),
        (0.5, 0.985, at_top, "center", "top"),
    ):
        view.text(
            x,
            y,
            letter,
            transform=view.transAxes,
            ha=across,
            va=along,
            color="white",
            fontsize=12,
            fontweight="bold",
            bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.55, "pad": 1.5},
        )
