"""The slices of a box: which of them an object can be in."""

from __future__ import annotations

import pytest

from inference.case import Click, ObjectPrompts
from inference.geometry import Box
from inference.placement import allowed_region

BOX = Box((3, 1, 1), (6, 4, 4))
SHAPE = (10, 12, 8)


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
    first, last = expected
    assert allowed_region(ObjectPrompts(1, BOX, clicks), previous, SHAPE) == Box((first, 0, 0), (last, 11, 7))


def test_without_a_box_all_slices_are_open() -> None:
    assert allowed_region(ObjectPrompts(1, None, (click(3),)), None, SHAPE) == Box.of(SHAPE)
