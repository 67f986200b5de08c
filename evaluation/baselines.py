"""Two contestants without learning, which a model has to beat: the box's inscribed ellipsoid, and a random walker."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from inference.case import Case, ObjectPrompts
from inference.geometry import Box, Voxel, voxel
from inference.placement import central_third

INSIDE, OUTSIDE = 1, 2
"""The random walker's names for its seeds."""

WALKER_EDGE = 48
"""The random walker's window is shrunk to at most this many voxels along each axis, for the sake of its time."""

WALKER_BETA = 400.0
"""How hard an edge of the image is to cross (scikit-image's `beta`, on intensities scaled to [0, 1])."""

CORE = 0.65
"""Semi-axes of the ellipsoid that is taken as surely inside, as a part of those inscribed in the box.

This, `WALKER_BETA` and `CLICK_RADIUS` are the best of nine settings on thirteen training cases.
"""

CLICK_RADIUS = 2.5
"""Voxels around a click, in the shrunken window, that are taken to be what the click says."""

WINDOW_MARGIN = 0.25
"""Widening of the box on either side, as a part of its edge: the rim of the window is taken as surely outside."""


def inscribed_ellipsoid(case: Case) -> NDArray[np.uint8]:
    """Fill each box with its inscribed ellipsoid and ignore the clicks; where two overlap, the nearer centre wins.

    An object without a box gets the image's central third (paper, equation 4).

    Args:
        case: the image and its prompts.

    Returns:
        (D, H, W) label map.
    """
    fused = _Fusion(case.image.shape, threshold=-1.0)
    for item in case.objects:
        box = item.box or central_third(case.image.shape)
        fused.add(item.label, box, -_ellipsoid_radius(box))
    return fused.labels


def random_walk(case: Case) -> NDArray[np.uint8]:
    """Segment each object with a random walker (Grady 2006; `skimage.segmentation.random_walker`) seeded by its
    prompts.

    Seeds of the object are its foreground clicks and the core of its box; seeds of the background are its background
    clicks and the rim of the window around the box. An object without a box is sought in the whole image. Where two
    objects overlap, the more probable one wins.

    Args:
        case: the image and its prompts.

    Returns:
        (D, H, W) label map.
    """
    fused = _Fusion(case.image.shape, threshold=0.5)
    for item in case.objects:
        window = _window(item, case.image.shape)
        fused.add(item.label, window, _walk(case, item, window))
    return fused.labels


class _Fusion:
    """A running best over objects, so that no array of objects × voxels exists."""

    def __init__(self, shape: Voxel, threshold: float):
        self.labels = np.zeros(shape, np.uint8)
        self._best = np.full(shape, threshold, np.float32)

    def add(self, label: int, box: Box, scores: NDArray[np.floating]) -> None:
        """Give the box's voxels to the object where its score is above the best so far."""
        best, labels = self._best[box.slices], self.labels[box.slices]
        better = scores > best
        best[better] = scores[better]
        labels[better] = label


def _ellipsoid_radius(box: Box) -> NDArray[np.float64]:
    """Return each voxel's distance from the box's centre, in units of the inscribed ellipsoid's semi-axes."""
    axes = [(np.arange(edge) - (edge - 1) / 2) / (edge / 2) for edge in box.size]
    return np.sqrt(sum(grid**2 for grid in np.meshgrid(*axes, indexing="ij", sparse=True)))


def _window(item: ObjectPrompts, shape: Voxel) -> Box:
    """Return the box, widened so that it holds a rim of background and every click; without a box, the image."""
    whole = Box.of(shape)
    if item.box is None:
        return whole
    margins = [max(2, round(WINDOW_MARGIN * edge)) for edge in item.box.size]
    lower = [corner - margin for corner, margin in zip(item.box.lower, margins, strict=True)]
    upper = [corner + margin for corner, margin in zip(item.box.upper, margins, strict=True)]
    for click in item.clicks:
        lower = [min(corner, position - 2) for corner, position in zip(lower, click.position, strict=True)]
        upper = [max(corner, position + 2) for corner, position in zip(upper, click.position, strict=True)]
    return Box(voxel(lower), voxel(upper)).clipped(shape) or whole


def _walk(case: Case, item: ObjectPrompts, window: Box) -> NDArray[np.float32]:
    """Return the probability of the object for each voxel of the window."""
    # Here, because everything but this baseline works without scikit-image.
    from skimage.segmentation import random_walker

    shape = np.array(window.size)
    factors = np.minimum(1.0, WALKER_EDGE / shape)
    image = zoom(case.image[window.slices].astype(np.float32), factors, order=1, grid_mode=True, mode="nearest")
    seeds = _seeds(item, window, image.shape)
    probability = (seeds == INSIDE).astype(np.float32)
    if np.unique(seeds).size == 3:
        spread = float(np.ptp(image))
        image = (image - image.min()) / (spread if spread > 0 else 1.0)
        spacing = np.array(case.spacing) * shape / image.shape
        # Rough is good enough for a threshold of one half, and several times faster.
        probability = random_walker(
            image,
            seeds,
            beta=WALKER_BETA,
            mode="cg_j",
            tol=1e-3,
            prob_tol=0.1,
            spacing=spacing / spacing.min(),
            return_full_prob=True,
        )[INSIDE - 1]
    return zoom(probability.astype(np.float32), shape / image.shape, order=1, grid_mode=True, mode="nearest")


def _seeds(item: ObjectPrompts, window: Box, shape: Voxel) -> NDArray[np.int8]:
    """Return `INSIDE` and `OUTSIDE` where the prompts leave no doubt, 0 elsewhere, in the shrunken window."""
    seeds = np.zeros(shape, np.int8)
    scale = np.array(shape) / np.array(window.size)
    centres = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    positions = (centres + 0.5) / scale - 0.5 + np.array(window.lower)
    if item.box is None:
        for axis in range(3):
            seeds[(slice(None),) * axis + ([0, -1],)] = OUTSIDE
    else:
        lower, upper = np.array(item.box.lower), np.array(item.box.upper)
        seeds[((positions < lower - 0.5) | (positions > upper + 0.5)).any(-1)] = OUTSIDE
        radius = np.sqrt((((positions - (lower + upper) / 2) / ((upper - lower + 1) / 2)) ** 2).sum(-1))
        seeds[radius <= max(CORE, radius.min())] = INSIDE
    for click in item.clicks:
        here = (np.array(click.position) - np.array(window.lower) + 0.5) * scale - 0.5
        seeds[np.sqrt(((centres - here) ** 2).sum(-1)) <= CLICK_RADIUS] = INSIDE if click.positive else OUTSIDE
    return seeds


BASELINES: dict[str, Callable[[Case], NDArray[np.uint8]]] = {
    "ellipsoid": inscribed_ellipsoid,
    "random-walker": random_walk,
}
"""The baselines by the names that the command line and the report give them."""
