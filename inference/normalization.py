"""The image as the network sees it: zero mean and unit deviation inside its non-zero box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inference.geometry import Box, bounding_box
from inference.window import Window

_TORCH_READS = (np.uint8, np.int8, np.int16, np.int32, np.float16, np.float32)


@dataclass(frozen=True)
class NormalizedImage:
    """An image kept in its own dtype, normalized where it is cropped, so that no second copy of it exists.

    Args:
        volume: (D, H, W), on the device where it is cropped.
        support: the image's non-zero box; what lies outside counts as outside the image. None for an empty image.
        scale, offset: the normalized image is ``volume * scale + offset``.
    """

    volume: Tensor
    support: Box | None
    scale: float
    offset: float

    @classmethod
    def of(cls, image: np.ndarray) -> NormalizedImage:
        """Measures an image (D, H, W) of finite real numbers. A constant or an empty one normalizes to zeros."""
        values = _torch_readable(image)
        support = bounding_box(values)
        volume = torch.from_numpy(np.ascontiguousarray(values))
        if support is None:
            return cls(volume, None, 0.0, 0.0)
        mean, deviation = _mean_and_deviation(values[support.slices])
        # Below float32's resolution of the mean, what deviates is rounding and not an image; below its least numbers,
        # nothing can be divided by it.
        if deviation <= max(1e-6 * abs(mean), 1e-30):
            return cls(volume, support, 0.0, 0.0)
        return cls(volume, support, 1 / deviation, -mean / deviation)

    def to(self, device: torch.device) -> NormalizedImage:
        """The same image on a device."""
        return replace(self, volume=self.volume.to(device))

    def crop(self, window: Window, weights: Callable[..., Tensor] | None = None) -> Tensor:
        """The normalized image in a window, float32 of the patch's shape; 0 where there is no image.

        Args:
            weights: as in :meth:`inference.window.Window.resampled`.
        """
        if self.support is None:
            return torch.zeros(window.patch, device=self.volume.device)
        return window.crop(self.volume, self.support, self.scale, self.offset, weights=weights)

    def crop_squares(self, window: Window) -> Tensor:
        """As :meth:`crop`, of the normalized image's squares."""
        if self.support is None:
            return torch.zeros(window.patch, device=self.volume.device)
        return window.crop(self.volume, self.support, self.scale, self.offset, squared=True)


def _torch_readable(image: np.ndarray) -> np.ndarray:
    if image.dtype == bool:
        return image.view(np.uint8)
    if image.dtype.type in _TORCH_READS and image.dtype.isnative:
        return image
    if image.dtype.kind in "ui" and image.dtype.itemsize <= 2:
        return image.astype(np.int32)
    # Values that float32 cannot hold are scaled down first: only their proportions matter.
    largest = max(abs(image.max().astype(np.longdouble)), abs(image.min().astype(np.longdouble)))
    divisor = largest if largest > 1e30 else 1
    result = np.empty(image.shape, np.float32)
    for plane, target in zip(image, result):  # Plane by plane: a whole quotient would be another image in memory.
        target[...] = plane / divisor
    return result


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """In float64, slice by slice, so that no copy of the volume is made."""
    count = values.size
    mean = sum(float(plane.sum(dtype=np.float64)) for plane in values) / count
    variance = sum(float(np.square(np.subtract(plane, mean, dtype=np.float64)).sum()) for plane in values) / count
    return mean, variance**0.5
