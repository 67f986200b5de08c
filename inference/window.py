"""Where the network looks: a part of the image, resampled to the network's patch and back (paper, section 2.5).

A window is the only thing that knows how image and patch coordinates relate; cropping, drawing prompts and pasting
back all go through it, so they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from inference.geometry import Box, Voxel, three

MARGIN = 1 / 3
"""Context around the box, as a share of the patch (equation 11)."""

LEAST_ZOOM = 0.5
"""Voxels of the image a voxel of the patch, at least, where an object is small."""

SLAB = 8
"""Slices that are resampled at a time on a CPU, to bound memory."""

SLAB_VOXELS = 2**26
"""Voxels that are resampled at a time on a GPU, where many small steps would take longer than the work itself."""


@dataclass(frozen=True)
class Window:
    """A block of the image and the patch that it is resampled to.

    Args:
        start: first voxel (z, y, x) in image coordinates; may lie outside the image.
        size: extent in voxels of the image (the paper's scaled patch size, equation 12).
        patch: extent in voxels of the patch.
    """

    start: Voxel
    size: Voxel
    patch: Voxel

    @classmethod
    def around(cls, region: Box, patch: Voxel, isotropic_zoom: bool) -> Window:
        """The window that holds ``region`` and its margin, centred on it (equations 11 and 12).

        Args:
            isotropic_zoom: one zoom for all axes and at least 1, as in the paper. Otherwise each axis has its own, so
                that a flat object keeps its slices and a small one is magnified. A property of the weights.
        """
        zooms = [(extent + p * MARGIN) / p for extent, p in zip(region.size, patch)]
        if isotropic_zoom:
            zooms = [max(*zooms, 1.0)] * 3
        else:
            # An axis with few voxels of the region is magnified until they fill the margin's share of the patch.
            fills = [max(extent / (p * MARGIN), LEAST_ZOOM) for extent, p in zip(region.size, patch)]
            zooms = [max(zoom, min(fill, 1.0)) for zoom, fill in zip(zooms, fills)]
        # The tolerance keeps 1/3 + 2/3 from becoming a voxel more than the patch.
        size = three(math.ceil(zoom * p - 1e-9) for zoom, p in zip(zooms, patch))
        start = three((lower + upper + 1 - n) // 2 for lower, upper, n in zip(region.lower, region.upper, size))
        return cls(start, size, patch)

    @property
    def box(self) -> Box:
        return Box(self.start, three(start + n - 1 for start, n in zip(self.start, self.size)))

    @property
    def exceeds_patch(self) -> bool:
        """Whether what the window is around is larger than the patch along any axis."""
        return any(n > p * (1 + MARGIN) for n, p in zip(self.size, self.patch))

    def finer(self, times: int) -> Window:
        """The same part of the image in a patch of so many times the voxels along each axis."""
        return replace(self, patch=three(p * times for p in self.patch))

    def image_box(self, lower: Voxel, upper: Voxel) -> Box:
        """Returns the box of the image that a block of the patch covers.

        Args:
            lower, upper: corners of the block in voxels of the patch; both belong to it.
        """
        steps = [n / p for n, p in zip(self.size, self.patch)]
        return Box(
            three(math.floor(start + v * step) for start, v, step in zip(self.start, lower, steps)),
            three(math.ceil(start + (v + 1) * step) - 1 for start, v, step in zip(self.start, upper, steps)),
        )

    def to_patch(self, position: tuple[float, float, float]) -> tuple[float, float, float]:
        """A position in image coordinates (voxel centres are integers) in patch coordinates."""
        return three(
            (v + 0.5 - start) * p / n - 0.5 for v, start, n, p in zip(position, self.start, self.size, self.patch)
        )

    def crop(
        self,
        volume: Tensor,
        support: Box | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
        squared: bool = False,
        weights: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The window's content, resampled to the patch; zero where there is no image.

        Linear interpolation; averaging over what a voxel of the patch covers where the window is larger than the patch,
        so that a thin structure fades and does not vanish.

        Args:
            volume: (D, H, W), any dtype.
            support: the part of the volume that counts; the rest is as if outside. All of it by default.
            scale, offset: what is resampled is ``volume * scale + offset``.
            squared: or that squared.
            weights: as in :meth:`resampled`.

        Returns:
            float32 tensor of the patch's shape, on the volume's device.
        """

        def values(part: Tensor) -> Tensor:
            value = part.float() * scale + offset
            return value.square_() if squared else value

        return self.resampled(volume, values, support, weights)

    def crop_label(self, labels: Tensor, label: int) -> Tensor:
        """One label's mask in the window, [0, 1], resampled to the patch; what lies outside the window is not read.

        Args:
            labels: (D, H, W), an integer dtype.
        """
        return self.resampled(labels, lambda part: (part == label).float())

    def resampled(
        self,
        volume: Tensor,
        values: Callable[[Tensor], Tensor],
        support: Box | None = None,
        weights: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """As :meth:`crop`, of what ``values`` makes of a part of the volume.

        Args:
            weights: makes those of an axis; :func:`resampling` by default.
        """
        patch = torch.zeros(self.patch, device=volume.device)
        inside = self.box.intersection(support or Box.of(volume.shape))
        if inside is None:
            return patch
        if self.size == self.patch:
            target = tuple(
                slice(lower - start, upper - start + 1)
                for lower, upper, start in zip(inside.lower, inside.upper, self.start)
            )
            patch[target] = values(volume[inside.slices])
            return patch
        along_z, along_y, along_x = (
            (weights or resampling)(n, p, volume.device)[:, lower - start : upper - start + 1]
            for n, p, lower, upper, start in zip(self.size, self.patch, inside.lower, inside.upper, self.start)
        )
        on_cpu = volume.device.type == "cpu"
        thickness = SLAB if on_cpu else max(SLAB_VOXELS // (inside.size[1] * inside.size[2]), 1)
        # Slab by slab, each resampled within its slices first: a large window is never held in float32.
        for first in range(0, inside.size[0], thickness):
            last = min(first + thickness, inside.size[0])
            z = slice(inside.lower[0] + first, inside.lower[0] + last)
            slab = values(volume[(z, *inside.slices[1:])])
            rows, touched = along_z[:, first:last], slice(None)
            if on_cpu:  # Few of the patch's slices see anything of a slab; the others' sums need no zeros added.
                seen = rows.any(dim=1).nonzero().ravel()
                touched = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0)
            patch[touched] += torch.tensordot(rows[touched], along_y @ slab @ along_x.T, dims=1)
        return patch

    def crop_nearest(self, labels: Tensor) -> Tensor:
        """All labels in the window, each voxel of the patch that of the voxel at its centre; 0 outside the image.

        Args:
            labels: (D, H, W), an integer dtype.
        """
        patch = torch.zeros(self.patch, dtype=labels.dtype, device=labels.device)
        indices, targets = [], []
        for start, size, extent, n in zip(self.start, self.size, self.patch, labels.shape):
            index = start + torch.div((torch.arange(extent) * 2 + 1) * size, 2 * extent, rounding_mode="floor")
            target = ((index >= 0) & (index < n)).nonzero().ravel()
            indices.append(index[target].to(labels.device))
            targets.append(target.to(labels.device))
        patch[torch.meshgrid(*targets, indexing="ij")] = labels[torch.meshgrid(*indices, indexing="ij")]
        return patch

    def to_image(self, patch: Tensor, part: Box) -> Tensor:
        """Returns the patch's values, resampled to the image's voxels in a part of the window.

        Args:
            patch: float32 tensor of the patch's shape.
            part: a box inside the window, in image coordinates.

        Returns:
            float32 tensor of the part's size.
        """
        along_z, along_y, along_x = (
            resampling(p, n, patch.device)[lower - start : upper - start + 1]
            for n, p, lower, upper, start in zip(self.size, self.patch, part.lower, part.upper, self.start)
        )
        return along_y @ torch.tensordot(along_z, patch, dims=1) @ along_x.T

    def resampled_to(self, patch: Tensor, other: Window) -> Tensor:
        """Returns the patch's values as another window sees them.

        Args:
            patch: float32 tensor of this window's patch's shape.
            other: any window of the same image.

        Returns:
            float32 tensor of the other patch's shape, 0 outside of this window.
        """
        both = self.box.intersection(other.box)
        if both is None:
            return torch.zeros(other.patch, device=patch.device)
        local = Window(three(s - lower for s, lower in zip(other.start, both.lower)), other.size, other.patch)
        return local.crop(self.to_image(patch, both))

    def paste(self, patch: Tensor, region: Box) -> Iterator[tuple[Box, Tensor]]:
        """The patch's values, resampled to the image's voxels, in slabs.

        Args:
            patch: float32 tensor of the patch's shape.
            region: the part of the image; what of it lies in the window is given.

        Yields:
            the slab's place in the image, and its values (float32).
        """
        inside = self.box.intersection(region)
        if inside is None:
            return
        along_z, along_y, along_x = (
            resampling(p, n, patch.device)[lower - start : upper - start + 1]
            for n, p, lower, upper, start in zip(self.size, self.patch, inside.lower, inside.upper, self.start)
        )
        _, height, width = inside.size
        for first in range(0, inside.size[0], SLAB):
            last = min(first + SLAB, inside.size[0])
            lower = (inside.lower[0] + first, *inside.lower[1:])
            upper = (inside.lower[0] + last - 1, *inside.upper[1:])
            weights = along_z[first:last]
            # Few of the patch's slices touch a slab; the others are zero columns and need not be multiplied.
            touched = weights.any(dim=0).nonzero().ravel()
            near, far = int(touched[0]), int(touched[-1]) + 1
            planes = along_y @ patch[near:far] @ along_x.T
            slab = weights[:, near:far] @ planes.reshape(far - near, -1)
            yield Box(lower, upper), slab.view(last - first, height, width)


def upsampled(log_odds: Tensor, finer: int) -> Tensor:
    """(N, D, H, W) -> the same in patches of so many times the voxels along each axis, linearly interpolated."""
    return functional.interpolate(log_odds[:, None], scale_factor=finer, mode="trilinear", align_corners=False)[:, 0]


def resampling(inputs: int, outputs: int, device: torch.device | str = "cpu") -> Tensor:
    """Weights (outputs, inputs) that resample an axis linearly, each row summing to 1.

    Where there are fewer outputs than inputs the triangle is widened to what an output covers (as in antialiased
    linear interpolation), else it spans two neighbours.
    """
    step = inputs / outputs
    centres = (torch.arange(outputs, dtype=torch.float64, device=device) + 0.5) * step - 0.5
    distance = (torch.arange(inputs, dtype=torch.float64, device=device)[None] - centres[:, None]).abs()
    weights = (1 - distance / max(step, 1.0)).clamp_(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()
