"""Where to look for an object of which nothing is known: the image's most object-like regions, or its centre."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from inference.case import Box, Case, ObjectPrompts, Voxel
from inference.placement import central_third

EDGE = 96
"""Regions are sought in every n-th voxel, so that no axis has more than this."""

LEVELS = 8
"""Thresholds at equal shares of the voxels, and as many at equal steps of intensity."""

REGIONS = 8
"""Regions that are looked at for each threshold, the largest ones."""

LEAST_VOXELS = 27
"""Smaller regions are noise, as far as every n-th voxel shows."""

OVERLAP = 0.3
"""Of two boxes with a greater intersection over union, only the better one is proposed."""


@dataclass(frozen=True)
class _Region:
    box: Box
    score: float


def propose(image: np.ndarray, count: int) -> list[Box]:
    """Boxes of the regions that look most like an object, best first.

    A region is a component of what is brighter or darker than a threshold. One that fills its box, stands out from what
    is around it, lies near the centre and does not touch the image's faces is the more object-like: see
    :func:`_score`.

    Args:
        image: (D, H, W), finite real numbers. What is exactly 0 counts as outside of it.
        count: how many boxes.

    Returns:
        ``count`` boxes (z, y, x) inside the image. Where there are not so many regions, the last ones are the central
        third.
    """
    proposals: list[Box] = []
    steps = tuple(-(-n // EDGE) for n in image.shape)
    for region in sorted(_regions(_coarse(image, steps)), key=lambda region: -region.score):
        if len(proposals) == count:
            break
        lower = tuple(edge * step for edge, step in zip(region.box.lower, steps))
        upper = tuple((edge + 1) * step - 1 for edge, step in zip(region.box.upper, steps))
        box = Box(lower, upper).clipped(image.shape)
        if all(intersection_over_union(box, other) <= OVERLAP for other in proposals):
            proposals.append(box)
    return proposals + [central_third(image.shape)] * (count - len(proposals))


def in_regions(case: Case, say: Callable[[str], None]) -> Case:
    """The case with a proposed box for each object that has neither box, click nor previous mask.

    Args:
        say: takes a line for people.
    """
    unknown = [prompts.label for prompts in case.objects if _nothing_known(prompts, case.previous)]
    if not unknown:
        return case
    boxes = dict(zip(unknown, propose(case.image, len(unknown))))
    for label, box in boxes.items():
        where = ",".join(f"{lower}:{upper}" for lower, upper in zip(box.lower, box.upper))
        say(f"object {label}: neither box, click nor previous mask; taking the region {where}")
    completed = (
        replace(prompts, box=boxes[prompts.label], guessed=True) if prompts.label in boxes else prompts
        for prompts in case.objects
    )
    return replace(case, objects=tuple(completed))


def in_central_third(case: Case, say: Callable[[str], None]) -> Case:
    """The case as it is: a window of which nothing else is known is that of the central third, as in the paper."""
    return case


WITHOUT_PROMPTS: dict[str, Callable[[Case, Callable[[str], None]], Case]] = {
    "regions": in_regions,
    "central-third": in_central_third,
}
"""Where to look for an object of which nothing is known, by the names that the settings give it."""


def _nothing_known(prompts: ObjectPrompts, previous: np.ndarray | None) -> bool:
    if prompts.box is not None or prompts.clicks:
        return False
    return previous is None or not (previous == prompts.label).any()


def _coarse(image: np.ndarray, steps: Voxel) -> np.ndarray:
    """Every n-th voxel along each axis, float32 in [−1, 1]."""
    picked = image[tuple(slice(None, None, step) for step in steps)].astype(np.longdouble)
    return (picked / max(np.abs(picked).max(), np.finfo(np.longdouble).tiny)).astype(np.float32)


def _regions(volume: np.ndarray) -> Iterator[_Region]:
    from scipy import ndimage  # A tenth of the start, for objects of which nothing is known only.

    support = volume != 0
    smooth = ndimage.gaussian_filter(volume, 1.0)
    values = smooth[support]
    if values.size == 0 or np.ptp(values) == 0:
        return
    shares = np.quantile(values, np.linspace(0, 1, LEVELS + 2)[1:-1])
    steps = np.linspace(values.min(), values.max(), LEVELS + 2)[1:-1]
    deviation = float(values.std())
    for level in np.unique(np.concatenate([shares, steps])):
        yield from _components(smooth > level, smooth, deviation)
        yield from _components((smooth < level) & support, -smooth, deviation)


def _components(mask: np.ndarray, volume: np.ndarray, deviation: float) -> Iterator[_Region]:
    """The largest components of a mask whose voxels are brighter than the others."""
    from scipy import ndimage

    labels, found = ndimage.label(mask)
    voxels = np.bincount(labels.ravel(), minlength=found + 1)[1:]
    places = ndimage.find_objects(labels)
    for index in np.argsort(-voxels, kind="stable")[:REGIONS]:
        if voxels[index] < LEAST_VOXELS:
            break
        slices = places[index]
        box = Box(tuple(s.start for s in slices), tuple(s.stop - 1 for s in slices))
        yield _Region(box, _score(box, labels[slices] == index + 1, volume, deviation))


def _score(box: Box, inside: np.ndarray, volume: np.ndarray, deviation: float) -> float:
    """How much a region looks like an object.

    Args:
        box: around the region.
        inside: bool of the box's shape.
        volume: the image, in which the region is brighter than what is around it.
        deviation: of the image.
    """
    count = np.count_nonzero(inside)
    margins = [max(edge // 4, 2) for edge in box.size]
    around = Box(
        tuple(lower - margin for lower, margin in zip(box.lower, margins)),
        tuple(upper + margin for upper, margin in zip(box.upper, margins)),
    ).clipped(volume.shape)
    total, total_around = float(volume[box.slices][inside].sum()), float(volume[around.slices].sum())
    rest = around.voxels - count
    difference = total / count - (total_around - total) / rest if rest else 0.0
    contrast = min(max(difference / deviation, 0.0), 2.0)
    centre = [(lower + upper + 1) / n - 1 for lower, upper, n in zip(box.lower, box.upper, volume.shape)]
    off_centre = math.sqrt(np.mean(np.square(centre)))
    faces = sum(lower == 0 for lower in box.lower) + sum(upper == n - 1 for upper, n in zip(box.upper, volume.shape))
    # The weights are round numbers near the best of a random search on training cases.
    return count / box.voxels + contrast / 3 - off_centre - faces / 6


def intersection_over_union(a: Box, b: Box) -> float:
    """Of two boxes, counted in voxels: 0 where they do not meet, 1 where they are the same."""
    shared = a.intersection(b)
    return 0.0 if shared is None else shared.voxels / (a.voxels + b.voxels - shared.voxels)
