"""Surface elements of masks and their distances, for the normalized surface Dice (Nikolov et al., arXiv:1809.04430).

The areas of the surface elements come from DeepMind's `surface-distance`, from which the organizers' script descends.
Its distances are not used: that package predates numpy 2, and with it stops on an empty mask. MONAI's are not either:
they are rounded to single precision, so that a surface 2.0000001 mm away (three voxels of 0.6666667 mm, as many files
have it) counts as within 2 mm.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate, distance_transform_edt
from surface_distance.lookup_tables import (
    ENCODE_NEIGHBOURHOOD_3D_KERNEL,
    create_table_neighbour_code_to_surface_area,
)

from inference.geometry import bounding_box

ALL_INSIDE = 255
"""The code of a corner whose eight voxels all belong to the mask; 0 if none does. There is no surface at either."""


def surface_dice(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> float:
    """Return the part of both surfaces' area that lies within the tolerance of the other surface.

    Args:
        truth: (D, H, W), axes z, y, x; not empty.
        predicted: the same shape; when empty, the result is 0.
        spacing: voxel size in mm, in the order of the axes.
        tolerance: in mm; a surface exactly this far away is within it.
    """
    whole = bounding_box(truth | predicted) if predicted.any() else None
    if whole is None:
        return 0.0
    box = whole.slices
    areas = np.asarray(create_table_neighbour_code_to_surface_area(tuple(float(edge) for edge in spacing)))
    true_codes, predicted_codes = _corner_codes(truth[box]), _corner_codes(predicted[box])
    within = whole = 0.0
    for codes, others in ((true_codes, predicted_codes), (predicted_codes, true_codes)):
        surface = _has_surface(codes)
        distances = distance_transform_edt(~_has_surface(others), sampling=spacing)[surface]
        elements = areas[codes[surface]]
        within += elements[distances <= tolerance].sum()
        whole += elements.sum()
    return float(within / whole)


def _corner_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return, for each voxel corner of a (D, H, W) mask, which of the eight voxels around it are inside: one bit each.

    Shape (D + 1, H + 1, W + 1): the volume around the mask is outside.
    """
    padded = np.pad(mask, ((0, 1),) * 3).astype(np.uint8)
    return correlate(padded, ENCODE_NEIGHBOURHOOD_3D_KERNEL, mode="constant", cval=0)


def _has_surface(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (codes != 0) & (codes != ALL_INSIDE)
