"""The fast guided filter: moves the border of a coarse mask to the image's edges.

Near any voxel of the network's patch, p is taken for a linear function of the image, p ≈ slope · image + offset, fitted
to the voxels around it (He, Sun and Tang, Guided Image Filtering, 2013, equations 5, 6 and 8). Slope and offset are
found in the patch and then used with the image at its own resolution (He and Sun, Fast Guided Filter, 2015): a border
that the network has drawn a voxel or two off, or has seen coarsely, falls on the edge that the image has there. Where
there is no edge, the slope is about 0 and p is only smoothed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from inference.geometry import Box, three
from inference.normalization import NormalizedImage
from inference.window import Window

RADIUS = 2
"""Voxels of the patch to each side that a line is fitted to."""

EPSILON = 1e-2
"""Deviations below the root of this, a tenth of that along the border, are noise and no edge."""

CLEAR = 4.0
"""Log-odds beyond this (p = 0.98) are left as they are."""

LIMIT = 0.01
"""A line may leave [0, 1]; p is kept this far inside of it."""


@dataclass(frozen=True)
class GuidedFilter:
    """What p is, as a line in the image, around each voxel of a patch.

    Args:
        slope: (D, H, W) float32, of p a unit of the normalized image.
        offset: (D, H, W) float32.
        box: the part of the image outside of which all is clear, or does not count.
    """

    slope: Tensor
    offset: Tensor
    box: Box

    @classmethod
    def fit(cls, image: Tensor, squares: Tensor, log_odds: Tensor, window: Window, region: Box) -> GuidedFilter | None:
        """Fits the lines to what the network said.

        Args:
            image: the normalized image in the window, (D, H, W) float32, of the patch's shape.
            squares: the same of its squares, which are larger than this image's squares where the patch is coarser
                than the image: noise that the patch averages out must not be taken for an edge.
            log_odds: what the network said there, of the same shape and on the same device.
            window: where that is.
            region: the part of the image that counts.

        Returns:
            None where there is nothing to move: no border in that part, or no contrast along it.
        """
        unclear = log_odds.abs() < CLEAR
        places = unclear.nonzero()
        if len(places) < 2:
            return None
        # What is pasted of a voxel of the patch reaches into its neighbours.
        lower, upper = (places.amin(dim=0) - 1).tolist(), (places.amax(dim=0) + 1).tolist()
        box = window.image_box(three(lower), three(upper)).intersection(region)
        variance, middle = torch.var_mean(image[unclear])
        if box is None or not float(variance) > 0:
            return None
        # Around the middle, so that no large squares are subtracted from each other.
        squares = squares - 2 * middle * image + middle * middle
        image = image - middle
        p = torch.sigmoid(log_odds)
        around = partial(_mean, radius=RADIUS)
        mean, mean_p = around(image), around(p)
        slope = (around(image * p) - mean * mean_p) / (around(squares) - mean * mean + EPSILON * variance)
        offset = around(mean_p - slope * mean)
        slope = around(slope)
        return cls(slope, offset - slope * middle, box)

    def paste(
        self, image: NormalizedImage, window: Window, log_odds: Tensor, region: Box
    ) -> Iterator[tuple[Box, Tensor]]:
        """Pastes as :meth:`inference.window.Window.paste` does, with what is unclear moved to the image's edges.

        Args:
            image: the whole of it.
            window, log_odds, region: what the lines were fitted to, on the CPU.
        """
        slope, offset = self.slope.cpu(), self.offset.cpu()
        for where, values in window.paste(log_odds, region):
            if (part := where.intersection(self.box)) is not None:
                here = values[part.slices_in(where)]
                guide = image.crop(Window(part.lower, part.size, part.size)).cpu()
                p = torch.addcmul(window.to_image(offset, part), window.to_image(slope, part), guide)
                here.copy_(torch.where(here.abs() < CLEAR, torch.logit(p, eps=LIMIT), here))
            yield where, values


def _mean(values: Tensor, radius: int) -> Tensor:
    """(D, H, W) -> the mean over the cube of this radius around each voxel, as far as it lies in the patch."""
    values = values[None]
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * radius + 1, radius
        values = avg_pool3d(values, kernel, stride=1, padding=padding, count_include_pad=False)
    return values[0]
