"""Intensities as the challenge has them: a range of [0, 255] (paper, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conversion.volume import ConversionError
from evaluation.modality import CT_WINDOWS, MODALITIES

TOP = 255

PERCENTILES = (0.5, 99.5)

FEW = 8
"""An image of no more values, all whole, is hardly one, and that is said; nor is what a window leaves so few of."""

MOSTLY = 0.99
"""So is one of which this part becomes black or white."""


@dataclass(frozen=True)
class Window:
    """The values that become 0 and 255; what lies beyond is clipped."""

    low: float
    high: float

    @classmethod
    def of(cls, width: float, level: float) -> Window:
        return cls(level - width / 2, level + width / 2)


def parse_window(text: str) -> Window | None:
    """A name of :data:`evaluation.modality.CT_WINDOWS`, or a width and a level as ``W,L``; None for ``percentile``.

    Raises:
        ConversionError: anything else.
    """
    if text == "percentile":
        return None
    try:
        width, level = CT_WINDOWS[text] if text in CT_WINDOWS else map(float, text.split(","))
    except ValueError:
        width, level = 0.0, 0.0
    if not (width > 0 and math.isfinite(width) and math.isfinite(level)):
        raise ConversionError(
            f"--window {text}: no such window; expected {', '.join(CT_WINDOWS)}, percentile, or W,L with W above 0"
        )
    return Window.of(width, level)


OFFSET = 1024
"""What many scanners add to Hounsfield units, so that no value is negative."""


def rescale(volume: NDArray, modality: str | None, window: str | None) -> tuple[NDArray, str]:
    """Brings an image to [0, 255].

    Args:
        volume: (D, H, W), a real dtype. What is not finite counts as the smallest finite value.
        modality: a key of :data:`evaluation.modality.MODALITIES`, which tells the window where no other is asked for.
        window: what :func:`parse_window` reads, which is then used whatever the image; None to choose as the paper
            does: as it is if it is in [0, 255] already, else a window for CT and the percentiles for all others.

    Returns:
        the image, uint8 (or as it was, if it was left as it is), and a line about what was done.

    Raises:
        ConversionError: an unknown window, or no finite value at all.
    """
    usual = MODALITIES[modality].window if modality in MODALITIES else None
    asked = None if window is None else parse_window(window)
    volume, note = _finite(volume)
    note += _is_it_a_mask(volume)
    if window is None and _in_range(volume):
        unchanged = volume.astype(np.uint8) if volume.dtype.kind in "iu" else volume
        low, high = volume.min(), volume.max()
        if low == high:
            note += f"; every voxel is {low:g}, so nothing can be seen in it"
        return unchanged, f"intensities {low:g} to {high:g}: in [0, {TOP}] already, left as they are{note}"
    if window is None and usual is not None:
        asked = Window.of(*CT_WINDOWS[usual])
    if asked is None:
        asked = Window(*(float(value) for value in np.percentile(volume, PERCENTILES)))
        if asked.high <= asked.low:  # All but a few voxels are the same: nothing to leave out.
            asked = Window(float(volume.min()), float(volume.max()))
    scale = TOP / (asked.high - asked.low) if asked.high > asked.low else 0.0
    scaled = np.empty(volume.shape, np.uint8)
    for plane, result in zip(volume, scaled):  # Slice by slice: no copy of the volume in floating point.
        result[...] = np.rint((np.clip(plane.astype(np.float64), asked.low, asked.high) - asked.low) * scale)
    note += _what_is_left(scaled, volume)
    if window is None and usual is not None and volume.min() >= 0:
        shifted = f"{asked.high - asked.low:g},{(asked.low + asked.high) / 2 + OFFSET:g}"  # Width and level.
        note += "; no value is below 0, though air is −1000 in Hounsfield units: is this CT offset by 1024? "
        note += f"Then give --window {shifted}"
    return scaled, f"intensities {asked.low:g} to {asked.high:g} become 0 to {TOP}, others are clipped{note}"


def _what_is_left(scaled: NDArray[np.uint8], volume: NDArray) -> str:
    """What is to be said of a window that leaves little of an image; empty where it leaves enough."""
    counts = np.sum([np.bincount(plane.ravel(), minlength=TOP + 1) for plane in scaled], axis=0)
    levels = int(np.count_nonzero(counts))
    if levels == 1:
        return f"; every voxel becomes {scaled.flat[0]}, so nothing can be seen in it: expected another window"
    outside = (counts[0] + counts[TOP]) / scaled.size
    if (outside > MOSTLY or levels <= FEW) and len(np.unique(_some(volume))) > FEW:
        return f"; {outside:.1%} of the voxels lie outside, {levels} grey levels are left: is this the right window?"
    return ""


def _is_it_a_mask(volume: NDArray) -> str:
    """What is to be said of an image of a few whole numbers; empty for any other."""
    values = np.unique(_some(volume))
    for plane in volume:
        if len(values) > FEW:  # After the first voxels, of nearly all images.
            return ""
        values = np.union1d(values, plane)
    if not 1 < len(values) <= FEW or (values != np.rint(values)).any():
        return ""
    return f"; it holds {len(values)} values only: is it a mask, in place of the image?"


def _some(volume: NDArray) -> NDArray:
    """Some 10,000 voxels from all over an image."""
    return volume.ravel()[:: max(volume.size // 10_000, 1)]


def _in_range(volume: NDArray) -> bool:
    """Whether values are on the scale of [0, 255] already.

    Fractions that stay in its lower half are not: they are a quantity of their own, such as an uptake or a ratio.
    """
    low, high = volume.min(), volume.max()
    if low < 0 or high > TOP:
        return False
    return volume.dtype.kind in "biu" or high > TOP / 2 or bool((volume == np.rint(volume)).all())


def _finite(volume: NDArray) -> tuple[NDArray, str]:
    if volume.dtype.kind != "f":
        return volume, ""
    finite = np.isfinite(volume)
    count = volume.size - int(finite.sum())
    if count == 0:
        return volume, ""
    if count == volume.size:
        raise ConversionError("the image has no finite value; expected numbers")
    return np.where(
        finite, volume, volume[finite].min()
    ), f"; {count} voxels that are no finite number count as the least"
