"""Whether parallel slices are a volume: their even, straight grid, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conversion.errors import ConversionError

EVEN = 0.05
"""A slice may lie this part of the distance between slices from where even distances would have it."""

ROUNDED = 0.06
"""Millimetres by which it may be off as well, up to a quarter of that distance: writers round positions to 0.1 mm."""

STRAIGHT = 0.1
"""Slices may be shifted against each other, from the first to the last, by this part of a pixel."""

APART = 0.01
"""Millimetres; slices that are nearer than that lie in the same place."""

PARALLEL = 1e-3
"""Slices are parallel if no direction cosine differs by more."""


@dataclass(frozen=True)
class Slices:
    """Where slices lie.

    Args:
        names: what people call each.
        positions: (N, 3), the centre of each one's first pixel, LPS, mm.
        orientations: (N, 6), the direction along a row, then along a column.
        pixel: millimetres between rows and between columns.
        thickness: millimetres from one to the next where there is only one, if it is known.
    """

    names: Sequence[str]
    positions: NDArray[np.float64]
    orientations: NDArray[np.float64]
    pixel: tuple[float, float]
    thickness: float | None = None


@dataclass(frozen=True)
class Grid:
    """An even grid, as ITK describes one.

    Args:
        origin: the first voxel's centre, LPS, mm.
        spacing: millimetres along x, y, z.
        direction: (3, 3), the axes as columns.
        off: millimetres that a slice is off its place in the grid at most.
        order: which slice is the first, the second, …
    """

    origin: NDArray[np.float64]
    spacing: tuple[float, float, float]
    direction: NDArray[np.float64]
    off: float
    order: NDArray[np.intp]


def even_grid(path: Path, slices: Slices) -> Grid:
    """The grid that slices, in any order, lie on.

    Args:
        path: the file or folder, for the message.

    Raises:
        ConversionError: they lie on none; it says why.
    """
    direction = _direction(path, slices)
    normal = direction[:, 2]
    order = np.argsort(slices.positions @ normal, kind="stable")
    positions, names = slices.positions[order], [slices.names[index] for index in order]
    if len(names) == 1:
        return Grid(positions[0], (*slices.pixel[::-1], float(slices.thickness or 1.0)), direction, 0.0, order)
    depths = positions @ normal
    _check_places(path, depths, names)
    # The straight line through all positions, so that no single one, which may be rounded, decides.
    index = np.arange(len(names)) - (len(names) - 1) / 2
    step = index @ positions / (index @ index)
    middle = positions.mean(axis=0)
    distance = float(step @ normal)
    _check_straight(path, step, distance, slices, len(names))
    even = middle + np.outer(index, distance * normal)
    off = np.abs((positions - even) @ normal)
    allowed = max(EVEN * distance, min(ROUNDED, distance / 4))
    if off.max() > allowed:
        worst = int(off.argmax())
        raise ConversionError(
            f"{path}: its slices are {np.diff(depths).min():.2f} to {np.diff(depths).max():.2f} mm apart "
            f"({names[worst]} is {off[worst]:.2f} mm from an even place); expected even distances: resample it"
        )
    sideways = np.linalg.norm(positions - middle - np.outer(index, step), axis=1)
    if sideways.max() > max(STRAIGHT * min(slices.pixel), 2 * ROUNDED):
        worst = int(sideways.argmax())
        raise ConversionError(
            f"{path}: {names[worst]} is shifted by {sideways[worst]:.2f} mm against the other slices; expected a "
            "straight stack"
        )
    spacing = (slices.pixel[1], slices.pixel[0], distance)
    return Grid(even[0], spacing, direction, float(np.linalg.norm(positions - even, axis=1).max()), order)


def _direction(path: Path, slices: Slices) -> NDArray[np.float64]:
    """Axes at right angles as columns: along a row, along a column, and from slice to slice."""
    planes: list[NDArray[np.float64]] = []
    counts: list[int] = []
    for orientation in slices.orientations:
        near = next((n for n, plane in enumerate(planes) if np.abs(plane - orientation).max() <= PARALLEL), None)
        if near is None:
            planes.append(orientation)
            counts.append(1)
        else:
            counts[near] += 1
    if len(planes) > 1:
        found = " + ".join(map(str, counts[:6])) + (" + …" if len(counts) > 6 else "")
        raise ConversionError(
            f"{path}: its slices are not parallel: they lie in {len(planes)} planes ({found}; a localizer?); expected "
            "one stack: give a folder of its slices alone"
        )
    row, column = slices.orientations.mean(axis=0).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not (min(lengths) > 0.9 and abs(row @ column) < 0.01):
        raise ConversionError(f"{path}: its rows and columns are not at right angles; expected ImageOrientationPatient")
    row = row / lengths[0]
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _check_places(path: Path, depths: NDArray[np.float64], names: Sequence[str]) -> None:
    """Raises ConversionError where several slices lie in one place, or none in one where it should."""
    gaps = np.diff(depths)
    places = 1 + int((gaps > APART).sum())
    if places < len(names):
        raise ConversionError(
            f"{path}: holds {len(names)} slices in {places} places, so several lie in the same place (several times, "
            "echoes or b-values?); expected a single volume: give a folder of one, or convert it with dcm2niix"
        )
    usual = float(np.median(gaps))
    missing = [(n, round(gap / usual) - 1) for n, gap in enumerate(gaps) if gap > 1.5 * usual]
    if missing:
        n, count = missing[0]
        more = f", and in {len(missing) - 1} more places" if len(missing) > 1 else ""
        raise ConversionError(
            f"{path}: {max(count, 1)} slice(s) missing between {names[n]} and {names[n + 1]}, {gaps[n]:.2f} mm apart "
            f"where others are {usual:.2f}{more}; expected even distances: find them, or resample it"
        )


def _check_straight(path: Path, step: NDArray[np.float64], distance: float, slices: Slices, count: int) -> None:
    """Raises ConversionError where the stack leans: a gantry tilt, which no grid of right angles can hold."""
    lean = float(np.sqrt(max(step @ step - distance**2, 0.0)))
    if lean * (count - 1) > max(STRAIGHT * min(slices.pixel), ROUNDED):
        raise ConversionError(
            f"{path}: its slices are stacked at {np.degrees(np.arctan2(lean, distance)):.1f}° from straight (a gantry "
            f"tilt; the last is shifted by {lean * (count - 1):.1f} mm); expected axes at right angles: resample it, "
            "for example with dcm2niix"
        )
