"""Small images in awkward places."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


def place(size: tuple[int, int, int] = (7, 9, 5), direction: np.ndarray | None = None) -> sitk.Image:
    """A random int16 image of ``size`` (x, y, z) voxels, away from the origin, of three different spacings."""
    values = np.random.default_rng(0).integers(-1000, 2000, size[::-1]).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.7, 1.3, 3.1))
    image.SetOrigin((-80.5, 40.25, -1200.75))
    if direction is not None:
        image.SetDirection(direction.ravel())
    return image


def rotation() -> np.ndarray:
    """Axes that are oblique to all of the patient's."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.3, -0.5, 0.8)
    return np.array(turn.GetMatrix()).reshape(3, 3)
