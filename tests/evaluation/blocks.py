"""A small case with two objects, as a file of the challenge."""

from pathlib import Path

import numpy as np

from evaluation.simulated_user import box_from_mask

SHAPE = (12, 20, 24)


def write_case(path: Path, **changes) -> Path:
    """Write a case with a bright and a brighter block; a change of `None` leaves a key out."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[3:8, 4:12, 3:10] = 1
    truth[4:10, 8:16, 13:21] = 2
    noise = np.random.default_rng(0).normal(0, 3, SHAPE)
    arrays = {
        "imgs": np.clip(40 + 80 * truth + noise, 0, 255).astype(np.uint8),
        "gts": truth,
        "spacing": np.array([2.0, 1.0, 1.0]),
        "boxes": np.array([box_from_mask(truth == label, np.random.default_rng(0)) for label in (1, 2)]),
    } | changes
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})
    return path
