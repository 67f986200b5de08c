"""Other objects' clicks, which tell the network where an object without a box ends."""

from __future__ import annotations

import numpy as np
import pytest

from inference.case import Click, ObjectPrompts
from inference.deadline import Deadline
from inference.geometry import Box
from inference.prompts import CLICK_NEGATIVE
from inference.refinement import NEIGHBOURS, RefinementConfig, with_neighbours
from inference.segmenter import segment_case
from tests.inference.factories import Repeats
from tests.inference.test_segmenter import PLENTY, a_case, segmenter

OWN = (Click((5, 5, 5), True), Click((5, 9, 5), False), Click((5, 5, 20), True))


def clicked(label: int, *places: tuple[int, int, int], box: Box | None = None) -> ObjectPrompts:
    return ObjectPrompts(label, box, tuple(Click(place, True) for place in places))


def shown(*others: ObjectPrompts, prompts: ObjectPrompts = ObjectPrompts(1, clicks=OWN)) -> list[tuple[int, int, int]]:  # noqa: B008
    """The clicks that an object is shown besides its own, which are all of the background and come before these."""
    clicks = with_neighbours(prompts, (prompts, *others)).clicks
    added = clicks[: len(clicks) - len(prompts.clicks)]
    assert clicks[len(added) :] == prompts.clicks
    assert not any(click.positive for click in added)
    return [click.position for click in added]


def test_the_nearest_foreground_clicks_of_others_are_shown() -> None:
    far, near, nearer = (5, 5, 40), (5, 5, 12), (5, 5, 22)
    assert shown(clicked(2, far, near), clicked(3, nearer)) == [nearer, near]
    assert NEIGHBOURS == 2


def test_what_others_are_not_is_not_shown_nor_what_lies_on_a_click_of_the_object() -> None:
    background = ObjectPrompts(2, clicks=(Click((5, 5, 8), False),))
    assert shown(background, clicked(3, (5, 5, 5), (5, 5, 9), (5, 5, 9))) == [(5, 5, 9)]


@pytest.mark.parametrize(
    "prompts",
    [clicked(1, (5, 5, 5), box=Box((2, 2, 2), (8, 8, 8))), ObjectPrompts(1, clicks=OWN[1:2]), ObjectPrompts(1)],
    ids=["a box", "no foreground click", "nothing"],
)
def test_an_object_that_has_a_box_or_no_foreground_click_is_shown_none(prompts: ObjectPrompts) -> None:
    assert shown(clicked(2, (5, 5, 9)), prompts=prompts) == []


@pytest.mark.parametrize("neighbours", [True, False])
def test_the_network_sees_them_as_background_clicks(neighbours: bool) -> None:
    repeats = segmenter(Repeats(CLICK_NEGATIVE))
    repeats.refinement = RefinementConfig(neighbours=neighbours, recenter=False)
    objects = clicked(1, (8, 8, 6)), clicked(2, (8, 8, 12))
    labels = segment_case(a_case(*objects), repeats, Deadline(PLENTY), log=pytest.fail)
    assert labels[8, 8, 6] == 1 and labels[8, 8, 12] == 2
    # What the network repeats of them becomes the other object.
    around = [labels[8, 8, 13], labels[8, 8, 5]]
    np.testing.assert_array_equal(around, [1, 2] if neighbours else [0, 0])
