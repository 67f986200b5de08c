"""Boxes, and what a challenge file says of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.geometry import Box, bounding_box, label_extents, labels_in, three, voxel
from tests.inference.factories import box_entry

BOX = Box((3, 10, 20), (8, 15, 40))


def test_a_voxel_is_of_pythons_numbers() -> None:
    made = voxel(np.array([1, 2, 3], np.uint8))
    assert made == (1, 2, 3) and all(type(v) is int for v in made)


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3, 4)])
def test_neither_more_nor_fewer_than_three(values: tuple[int, ...]) -> None:
    for made_of in (three, voxel):
        with pytest.raises(ValueError, match="unpack"):
            made_of(values)


def test_an_entry_is_what_the_challenge_writes() -> None:
    """Of six slices the fourth is the middle one, as in the organizers' boxes."""
    assert BOX.entry() == {key: int(value) for key, value in box_entry(BOX).items()} | {"z_mid": 6}


@given(st.tuples(*[st.integers(-5, 300)] * 3), st.tuples(*[st.integers(-5, 300)] * 3))
def test_an_entry_comes_back(first: tuple[int, int, int], second: tuple[int, int, int]) -> None:
    box = Box(first, second)
    assert Box.from_entry(box.entry()) == box


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        (None, "is not a dictionary"),
        ([1, 2, 3, 4, 5, 6], "is not a dictionary"),
        ({}, "lacks a number"),
        (BOX.entry() | {"z_max": None}, "lacks a number"),
        (BOX.entry() | {"z_mid_y_min": float("nan")}, "lacks a number"),
        (BOX.entry() | {"z_mid_x_max": 2.0**60}, "lacks a number"),
    ],
)
def test_an_entry_that_is_none_is_refused(entry: object, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Box.from_entry(entry)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_and_their_extents(dtype: type) -> None:
    labels = np.zeros((6, 7, 8), dtype)
    labels[1:3, 2, 4:7], labels[5, 0, 0], labels[0, 6, 7] = 2, 200, 200
    assert labels_in(labels) == [2, 200]
    assert label_extents(labels) == {2: Box((1, 2, 4), (2, 2, 6)), 200: Box((0, 0, 0), (5, 6, 7))}
    assert bounding_box(labels == 2) == Box((1, 2, 4), (2, 2, 6))
    assert label_extents(np.zeros_like(labels)) == {} and labels_in(np.zeros_like(labels)) == []
