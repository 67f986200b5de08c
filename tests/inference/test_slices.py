"""The slices of a box: which they are, and what is left of an object's log-odds in them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.case import Box, Click, ObjectPrompts
from inference.slices import slices_of, within

BOX = Box((3, 1, 1), (6, 4, 4))
DEPTH = 10


def click(z: int, positive: bool = True) -> Click:
    return Click((z, 2, 2), positive)


@pytest.mark.parametrize(
    ("clicks", "previous", "expected"),
    [
        ((), None, (3, 6)),
        ((click(3), click(6)), Box((3, 0, 0), (6, 9, 9)), (3, 6)),
        ((click(2),), None, (0, 6)),
        ((click(7),), None, (3, 9)),
        ((click(2), click(7)), None, (0, 9)),
        ((click(2, positive=False),), None, (3, 6)),
        ((), Box((2, 1, 1), (5, 4, 4)), (0, 6)),
        ((click(8),), Box((0, 1, 1), (5, 4, 4)), (0, 9)),
    ],
)
def test_a_side_is_open_where_a_click_or_the_previous_mask_lies_behind_it(
    clicks: tuple[Click, ...], previous: Box | None, expected: tuple[int, int]
) -> None:
    assert slices_of(ObjectPrompts(1, BOX, clicks), previous, DEPTH) == expected


def test_without_a_box_of_the_users_all_slices_are_open() -> None:
    assert slices_of(ObjectPrompts(1, None, (click(3),)), None, DEPTH) == (0, DEPTH - 1)
    assert slices_of(ObjectPrompts(1, BOX, guessed=True), None, DEPTH) == (0, DEPTH - 1)


@given(cuts=st.sets(st.integers(1, DEPTH - 1)), first=st.integers(-2, DEPTH), last=st.integers(-2, DEPTH + 2))
def test_slabs_are_cut_where_they_cross_the_bounds_and_left_out_beyond_them(
    cuts: set[int], first: int, last: int
) -> None:
    whole = torch.arange(DEPTH * 6.0).view(DEPTH, 2, 3)
    slabs = [(Box((a, 5, 7), (b - 1, 6, 9)), whole[a:b]) for a, b in pairwise([0, *sorted(cuts), DEPTH])]
    kept: dict[int, torch.Tensor] = {}
    for where, log_odds in within(slabs, first, last):
        assert tuple(log_odds.shape) == where.size
        assert (where.lower[1:], where.upper[1:]) == ((5, 7), (6, 9))
        kept |= {where.lower[0] + index: plane for index, plane in enumerate(log_odds)}
    assert list(kept) == [z for z in range(DEPTH) if first <= z <= last]
    assert all(torch.equal(plane, whole[z]) for z, plane in kept.items())
