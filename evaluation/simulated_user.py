"""The user that the organizers simulate: a box from a mask, a click from an error.

Both follow the challenge's public scripts (`get_boxes.py` and the CPU path of `CVPR25_iter_eval.py`): given the same
masks, the clicks are the same voxels. They are much faster, because everything after the comparison of the two masks
looks at the error's box only.
"""

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Box, Voxel, bounding_box, three, voxel

try:
    import cc3d
except ImportError:  # A machine that only trains: scipy finds the same voxels, more slowly.
    cc3d = None
try:
    import edt
except ImportError:
    edt = None

BoxSlices = tuple[slice, slice, slice]

JITTER_MAX = 5
"""Largest widening of a box in pixels, for a slice of `JITTER_REFERENCE` pixels."""

JITTER_REFERENCE = 256

HALVING_LIMIT = 60_000_000
"""Padded boxes of more voxels than this are halved along every axis before the distance transform."""

PADDING_FRACTION = 0.25
"""Padding on either side of a component's box, as a part of the box's edge (at least one voxel)."""

TIE_SEED = 42
"""The organizers seed numpy's legacy generator with this before every choice among equally deep voxels."""


def box_from_mask(mask: NDArray[np.bool_], rng: np.random.Generator) -> dict[str, int]:
    """Return the challenge's box of one object: its extent in z, and in x and y that of its middle slice, jittered.

    The middle slice is the middle one of those that hold the object, so it is never empty. One jitter of 0 to 5 pixels
    is drawn for the object and scaled by the slice's size over 256. The object may leave the box in other slices.

    Args:
        mask: (D, H, W), axes z, y, x; true inside the object.
        rng: source of the jitter.

    Returns:
        `z_min`, `z_max`, `z_mid`, `z_mid_x_min`, `z_mid_x_max`, `z_mid_y_min`, `z_mid_y_max`; maxima inclusive.

    Raises:
        ValueError: the mask is not three-dimensional, not boolean, or empty.
    """
    return jittered_box(middle_slice_box(mask), mask.shape[1:], rng)


def middle_slice_box(mask: NDArray[np.bool_], corner: Voxel = (0, 0, 0)) -> dict[str, int]:
    """Return `box_from_mask` without its jitter, of a mask that begins at `corner` of the image.

    Raises:
        ValueError: the mask is not three-dimensional, not boolean, or empty.
    """
    _check_volume(mask, "mask")
    occupied = np.flatnonzero(mask.any(axis=(1, 2)))
    if occupied.size == 0:
        raise ValueError("mask: it is empty; a box needs at least one voxel")
    middle = occupied[occupied.size // 2]
    rows = np.flatnonzero(mask[middle].any(axis=1))
    columns = np.flatnonzero(mask[middle].any(axis=0))
    lower, upper = (
        voxel(v + start for v, start in zip((occupied[end], rows[end], columns[end]), corner, strict=True))
        for end in (0, -1)
    )
    # Of the slices that the object is in, which need not be all between its first and its last.
    return Box(lower, upper).entry() | {"z_mid": int(middle) + corner[0]}


def jittered_box(box: dict[str, int], slice_shape: tuple[int, int], rng: np.random.Generator) -> dict[str, int]:
    """Return a `middle_slice_box` with the jitter of `box_from_mask`, in slices of that shape (H, W)."""
    height, width = slice_shape
    jitter = int(rng.integers(0, JITTER_MAX + 1))
    jitter_y = int(jitter * height / JITTER_REFERENCE)
    jitter_x = int(jitter * width / JITTER_REFERENCE)
    return box | {
        "z_mid_x_min": max(0, box["z_mid_x_min"] - jitter_x),
        "z_mid_x_max": min(width - 1, box["z_mid_x_max"] + jitter_x),
        "z_mid_y_min": max(0, box["z_mid_y_min"] - jitter_y),
        "z_mid_y_max": min(height - 1, box["z_mid_y_max"] + jitter_y),
    }


def click_from_error(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[Voxel, bool] | None:
    """Return the click that the organizers' user makes: the deepest voxel of the largest error component.

    Components are 26-connected; of equally large ones the first in memory order wins. Depth is the Euclidean distance
    in voxels (the spacing is ignored); of equally deep voxels one is chosen uniformly, always with the same seed.

    Args:
        prediction: (D, H, W), axes z, y, x; true where the object was predicted.
        truth: the same shape; true where the object is.

    Returns:
        The position (z, y, x), and whether it lies in the object (a foreground click); `None` when there is no error.

    Raises:
        ValueError: the masks are not three-dimensional or not boolean, or their shapes differ.
    """
    _check_volume(prediction, "prediction")
    _check_volume(truth, "truth")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction: shape {prediction.shape} differs from the truth's {truth.shape}")
    error = prediction != truth
    box = bounding_box(error)
    if box is None:
        return None
    component, corner = _largest_component(error, box.slices)
    depth = _depth(component)
    deepest = np.argwhere(depth == depth.max())
    choice = deepest[np.random.RandomState(TIE_SEED).choice(len(deepest))]
    position = voxel(start + offset for start, offset in zip(corner, choice, strict=True))
    return position, bool(truth[position])


def _check_volume(mask: NDArray[np.bool_], name: str) -> None:
    if mask.ndim != 3:
        raise ValueError(f"{name}: {mask.ndim} dimensions; expected 3 (z, y, x)")
    if mask.dtype != np.bool_:
        raise ValueError(f"{name}: dtype {mask.dtype}; expected bool")


def _largest_component(error: NDArray[np.bool_], box: BoxSlices) -> tuple[NDArray[np.bool_], Voxel]:
    """Return the largest 26-connected component, cropped to its own box, and the corner of that box in `error`."""
    # Labels are numbered in memory order and the first of equally large components is taken, so the copy keeps the
    # order of the whole.
    cropped = error[box].copy(order="F" if error.flags.fnc else "C")
    labels, sizes, boxes = _components(cropped)
    sizes[0] = 0
    largest = int(np.argmax(sizes))
    own_box = boxes[largest]
    corner = voxel(outer.start + inner.start for outer, inner in zip(box, own_box, strict=True))
    return labels[own_box] == largest, corner


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], NDArray[np.integer], list[BoxSlices]]:
    """Return the 26-connected components, numbered from 1 in memory order, and by number their sizes and boxes."""
    if cc3d is not None:
        # As uint8, because cc3d 4.1.1 can fail on boolean arrays of one voxel's thickness ("maximum length exception").
        labels = cc3d.connected_components(mask.view(np.uint8), connectivity=26)
        statistics = cc3d.statistics(labels)
        return labels, statistics["voxel_counts"].copy(), statistics["bounding_boxes"]
    from scipy.ndimage import find_objects, label

    # scipy numbers in C order, whatever the order in memory is.
    transposed = mask.flags.fnc
    labels = label(mask.T if transposed else mask, structure=np.ones((3, 3, 3)))[0]
    labels = labels.T if transposed else labels
    return (
        labels,
        np.bincount(labels.ravel()),
        [(slice(None), slice(None), slice(None)), *map(three, find_objects(labels))],
    )


def _squared_distance(mask: NDArray[np.bool_], black_border: bool = False) -> NDArray[np.float32]:
    """Return each voxel's squared distance to the nearest false one; beyond a black border all are false."""
    if edt is not None:
        return edt.edtsq(mask, black_border=black_border)
    from scipy.ndimage import distance_transform_edt

    if not black_border:
        return np.rint(np.square(distance_transform_edt(mask))).astype(np.float32)
    return _squared_distance(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def _depth(component: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each voxel's squared distance to the nearest voxel outside the component, as the organizers' crop has it.

    The squares are whole numbers, so single precision holds them exactly and equal depths are equal.
    """
    shape = np.array(component.shape)
    padding = np.maximum((shape * PADDING_FRACTION).astype(int), 1)
    if np.prod(shape + 2 * padding) > HALVING_LIMIT:
        return _halved_depth(component, padding)
    # The organizers pad by a quarter. A border of background gives the same distances: all is background beyond it.
    return _squared_distance(component, black_border=True)


def _halved_depth(component: NDArray[np.bool_], padding: NDArray[np.int_]) -> NDArray[np.float32]:
    """Return `_depth` on blocks of 2×2×2 voxels (a block belongs to the component if any of its voxels does).

    The blocks are counted from the corner of the padded crop. Beside a thin component the padding may be half a block
    only, and then there is no background on that side for the distance to reach: the border is reproduced as it is.
    """
    shape = np.array(component.shape)
    parity = padding % 2
    blocks = -(-(parity + shape) // 2)
    aligned = np.pad(component, list(zip(parity, 2 * blocks - parity - shape, strict=True)))
    halved = aligned.reshape(blocks[0], 2, blocks[1], 2, blocks[2], 2).any(axis=(1, 3, 5))
    before = np.minimum(padding // 2, 1)
    after = np.minimum(-(-(shape + 2 * padding) // 2) - padding // 2 - blocks, 1)
    depth = _squared_distance(np.pad(halved, list(zip(before, after, strict=True))))
    depth = depth[tuple(slice(start, start + size) for start, size in zip(before, blocks, strict=True))]
    for axis in range(3):
        depth = depth.repeat(2, axis=axis)
    depth = depth[tuple(slice(start, start + size) for start, size in zip(parity, shape, strict=True))]
    return depth * component
