"""The image as the network sees it: zero mean and unit deviation inside its non-zero box, whatever its dtype."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.geometry import Box, bounding_box
from inference.normalization import NormalizedImage
from inference.window import Window
from tests.inference.factories import volume

SHAPE = (6, 8, 10)
WHOLE = Window((0, 0, 0), SHAPE, SHAPE)
RAW = volume(SHAPE, np.int64)

IMAGES = {
    "u1": RAW.astype(np.uint8),
    "i1": (RAW - 128).astype(np.int8),
    "u2": (RAW * 257).astype(np.uint16),
    ">u2": (RAW * 257).astype(">u2"),
    "i4": (RAW * 10**6).astype(np.int32),
    "u8": RAW.astype(np.uint64) << np.uint64(55),
    "f2 to its limits": ((RAW - 128) * 500).astype(np.float16),
    "f4": (RAW * 1e-20).astype(np.float32),
    "f8": RAW * 1e-3,
    "f8 beyond float32": RAW * 1e300,
    "f8 with an offset": RAW + 1e5,
    "bool": RAW > 99,
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_zero_mean_and_unit_deviation(image: np.ndarray) -> None:
    normalized = NormalizedImage.of(image).crop(WHOLE).numpy()
    support = bounding_box(image).slices
    scaled = image[support] / np.abs(image.astype(np.float64)).max()
    expected = (scaled - scaled.mean()) / scaled.std()
    np.testing.assert_allclose(normalized[support], expected, atol=5e-3)


@pytest.mark.parametrize("value", [0, 77, 0.1, -1000.0, 1e300])
def test_an_image_without_contrast_is_zero(value: float) -> None:
    assert not NormalizedImage.of(np.full(SHAPE, value)).crop(WHOLE).any()


def test_contrast_that_nothing_can_be_divided_by_is_none() -> None:
    image = RAW.astype(np.float32) * np.finfo(np.float32).smallest_subnormal
    assert image.min() < image.max()
    assert not NormalizedImage.of(image).crop(WHOLE).any()


def test_contrast_that_is_rounding_is_none() -> None:
    image = np.full(SHAPE, 1000.1, np.float32)
    image[::2] = np.nextafter(image[0], np.float32(np.inf))
    assert image.min() < image.max()
    assert not NormalizedImage.of(image).crop(WHOLE).any()


def test_what_is_zero_around_the_image_counts_as_outside() -> None:
    image = np.zeros(SHAPE)
    image[1:4, 2:6, 3:9] = 5 + RAW[1:4, 2:6, 3:9]
    normalized = NormalizedImage.of(image).crop(WHOLE).numpy()
    inside = normalized[1:4, 2:6, 3:9]
    assert abs(inside.mean()) < 1e-5
    assert abs(inside.std() - 1) < 1e-5
    assert np.count_nonzero(normalized) == np.count_nonzero(inside)


@given(
    voxels=st.lists(st.tuples(*[st.integers(0, n - 1) for n in SHAPE]), min_size=1, max_size=5),
    value=st.sampled_from([1, -1, 255]),
)
def test_the_nonzero_box_is_the_extent_of_what_is_not_zero(voxels: list[tuple[int, int, int]], value: int) -> None:
    image = np.zeros(SHAPE, np.int16)
    for voxel in voxels:
        image[voxel] = value
    assert bounding_box(image) == Box(tuple(map(min, zip(*voxels))), tuple(map(max, zip(*voxels))))


def test_an_empty_image_has_no_box() -> None:
    assert bounding_box(np.zeros(SHAPE)) is None
