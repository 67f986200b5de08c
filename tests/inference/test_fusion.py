"""All objects -> one label map: the paper's equation, and a memory that does not grow with the objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.case import Click, ObjectPrompts
from inference.fusion import INNER_FIRST, NEAREST_CLICK, Fusion, advantages, nearness
from inference.geometry import Box, Voxel

SHAPE = (3, 4, 5)
EVERYWHERE = Box.of(SHAPE)

Objects = list[tuple[Box, np.ndarray]]


def fused(objects: Objects, shape: Voxel = SHAPE, given: dict[int, float] | None = None) -> np.ndarray:
    """The label map; ``given``: label -> advantage."""
    fusion = Fusion(shape)
    for label, (where, log_odds) in enumerate(objects, start=1):
        fusion.add(label, where, torch.from_numpy(log_odds.astype(np.float32)), (given or {}).get(label, 0.0))
    return fusion.label_map().numpy()


def log_probabilities(objects: Objects, shape: Voxel = SHAPE) -> np.ndarray:
    """(K + 1, D, H, W) float64, background first: section 2.5, dense, with p = 0 outside an object's part."""
    log_p = np.full((len(objects), *shape), -np.inf)
    log_rest = np.zeros((len(objects), *shape))
    for index, (where, log_odds) in enumerate(objects):
        odds = log_odds.astype(np.float64)
        log_p[(index, *where.slices)] = -np.logaddexp(0, -odds)
        log_rest[(index, *where.slices)] = -np.logaddexp(0, odds)
    return np.concatenate([log_rest.sum(axis=0)[None], log_p])


@st.composite
def parts(draw: st.DrawFn) -> Box:
    ends = [sorted((draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1)))) for n in SHAPE]
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


@st.composite
def object_lists(draw: st.DrawFn) -> Objects:
    """Up to twelve objects in windows that overlap in part; log-odds between the certain, the usual and the equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.5, 5.0, 50.0]))
    objects = []
    for _ in range(draw(st.integers(1, 12))):
        where = draw(parts())
        usual = rng.normal(-1, spread, where.size)
        certain = rng.choice([-100.0, -20.0, 0.0, 20.0, 100.0], where.size)
        objects.append((where, np.where(rng.random(where.size) < 0.4, certain, usual).clip(-100, 100)))
    return objects


@given(objects=object_lists())
def test_it_is_the_argmax_of_a_dense_reference(objects: Objects) -> None:
    reference = log_probabilities(objects)
    chosen = np.take_along_axis(reference, fused(objects)[None].astype(int), axis=0)[0]
    best = reference.max(axis=0)
    # Where two are closer than float32 can tell, either will do.
    np.testing.assert_array_less(best - chosen, 1e-5 * np.maximum(1, -best))


@given(objects=object_lists())
def test_it_equals_the_reference_wherever_one_is_clearly_best(objects: Objects) -> None:
    reference = log_probabilities(objects)
    first, second = np.sort(reference, axis=0)[::-1][:2]
    clear = first - second > 1e-4 * np.maximum(1, -first)
    np.testing.assert_array_equal(fused(objects)[clear], reference.argmax(axis=0)[clear])


@given(log_odds=st.just(0.0) | st.floats(1e-3, 100) | st.floats(-100, -1e-3))
def test_one_object_is_there_where_p_is_above_a_half(log_odds: float) -> None:
    labels = fused([(EVERYWHERE, np.full(SHAPE, log_odds))])
    assert bool((labels == (1 if log_odds > 0 else 0)).all())


def test_ties_go_to_the_background_then_to_the_lower_label() -> None:
    certain, half = np.full(SHAPE, 100.0), np.zeros(SHAPE)
    assert (fused([(EVERYWHERE, half)]) == 0).all()
    assert (fused([(EVERYWHERE, certain)] * 3) == 1).all()
    assert (fused([(EVERYWHERE, -certain), (EVERYWHERE, certain), (EVERYWHERE, certain)]) == 2).all()


def test_certainty_is_told_apart_far_beyond_what_a_probability_can_hold() -> None:
    """Both p round to 1, and both 1 − p to 0, in float32."""
    objects = [(EVERYWHERE, np.full(SHAPE, 40.0)), (EVERYWHERE, np.full(SHAPE, 60.0))]
    assert (fused(objects) == 2).all()


def test_the_background_is_the_product_over_all_objects() -> None:
    """p = 0.4 each: the background is 0.6 of one object, 0.36 of two, and then loses."""
    odds = np.full(SHAPE, np.log(0.4 / 0.6))
    assert (fused([(EVERYWHERE, odds)]) == 0).all()
    assert (fused([(EVERYWHERE, odds)] * 2) == 1).all()


def test_nothing_added_is_all_background() -> None:
    assert not Fusion(SHAPE).label_map().any()


def test_an_object_counts_only_where_it_was_looked_for() -> None:
    where = Box((1, 1, 1), (2, 2, 3))
    labels = fused([(where, np.full(where.size, 5.0))])
    expected = np.zeros(SHAPE, np.uint8)
    expected[where.slices] = 1
    np.testing.assert_array_equal(labels, expected)


@given(objects=object_lists(), given=st.dictionaries(st.integers(1, 12), st.floats(0, 10)))
def test_an_advantage_takes_from_other_objects_and_never_from_the_background(
    objects: Objects, given: dict[int, float]
) -> None:
    without, with_it = fused(objects), fused(objects, given=given)
    np.testing.assert_array_equal(with_it == 0, without == 0)
    for label in np.unique(with_it[with_it != without]):
        assert given[label] > 0


def test_of_two_claims_the_one_with_more_advantage_wins_unless_the_other_is_clearly_surer() -> None:
    sure, surer, unsure = (np.full(SHAPE, odds) for odds in (3.0, 4.0, 0.1))
    assert (fused([(EVERYWHERE, surer), (EVERYWHERE, sure)]) == 1).all()
    assert (fused([(EVERYWHERE, surer), (EVERYWHERE, sure)], given={2: 0.1}) == 2).all()
    assert (fused([(EVERYWHERE, surer), (EVERYWHERE, unsure)], given={2: 0.1}) == 1).all()


def test_an_advantage_does_nothing_for_what_is_not_claimed() -> None:
    doubts = [(EVERYWHERE, np.full(SHAPE, odds)) for odds in (-0.2, -0.3)]
    assert (fused(doubts, given={2: 10.0}) == 1).all()


LARGE, INNER = Box((0, 0, 0), (9, 9, 9)), Box((2, 2, 2), (6, 6, 5))
TENTH = pytest.approx(INNER_FIRST * np.log(10))
"""The advantage of a box in one of ten times its volume."""


def boxed(*boxes: Box | None) -> tuple[ObjectPrompts, ...]:
    return tuple(ObjectPrompts(label, box) for label, box in enumerate(boxes, start=1))


def test_a_box_inside_another_has_an_advantage_whichever_comes_first() -> None:
    assert advantages(boxed(LARGE, INNER), seen=()) == {2: TENTH}
    assert advantages(boxed(None, INNER, LARGE), seen=()) == {2: TENTH}
    assert advantages((), seen=()) == {}


def test_a_box_in_a_box_in_a_box_has_more() -> None:
    core = Box((3, 3, 3), (4, 4, 4))
    assert advantages(boxed(INNER, LARGE, core), seen=()) == {
        1: TENTH,
        3: pytest.approx(INNER_FIRST * np.log(1000 / 8)),
    }


@pytest.mark.parametrize(
    "other",
    [Box((2, 2, 7), (6, 6, 12)), Box((20, 20, 20), (24, 24, 23)), Box((0, 0, 0), (9, 9, 8)), LARGE],
    ids=["half outside", "elsewhere", "about as large", "the same"],
)
def test_a_box_that_is_not_inside_or_not_clearly_smaller_has_none(other: Box) -> None:
    assert advantages(boxed(LARGE, other), seen=()) == {}


def test_a_box_that_only_just_leaves_another_is_inside_it() -> None:
    assert set(advantages(boxed(LARGE, Box((1, 1, -1), (5, 5, 8))), seen=())) == {2}


def test_a_click_or_a_previous_mask_ends_an_objects_advantage_and_not_that_of_what_is_in_it() -> None:
    click = (Click((3, 3, 3), True),)
    clicked = ObjectPrompts(1, LARGE, click), ObjectPrompts(2, INNER), ObjectPrompts(3, INNER, click)
    assert advantages(clicked, seen=()) == {2: TENTH}
    assert advantages(clicked, seen={2}) == {}


class TestNearness:
    """What an object's voxels are given for the foreground click that is near."""

    ROW = (1, 1, 9)

    def of(self, *clicks: Click, where: Box = Box.of(ROW)) -> list[float]:  # noqa: B008
        return nearness(ObjectPrompts(1, clicks=clicks), where, self.ROW).ravel().tolist()

    def test_falls_with_the_distance_to_the_nearest_one_and_not_with_background_clicks(self) -> None:
        first, second, background = Click((0, 0, 1), True), Click((0, 0, 7), True), Click((0, 0, 4), False)
        distances = np.array([1, 0, 1, 2, 3, 2, 1, 0, 1])
        expected = NEAREST_CLICK * np.log((np.sqrt(83) + 1) / (distances + 1))
        assert self.of(first, second, background) == pytest.approx(expected)

    def test_is_the_same_in_a_part_of_the_image(self) -> None:
        click = Click((0, 0, 2), True)
        assert self.of(click, where=Box((0, 0, 5), (0, 0, 8))) == pytest.approx(self.of(click)[5:])

    def test_is_nothing_without_a_foreground_click(self) -> None:
        assert self.of(Click((0, 0, 2), False)) == pytest.approx([0.0] * 9, abs=1e-6)
        assert self.of() == pytest.approx([0.0] * 9, abs=1e-6)


def test_255_labels_fit() -> None:
    fusion = Fusion((1, 1, 255))
    for label in range(1, 256):
        fusion.add(label, Box((0, 0, label - 1), (0, 0, label - 1)), torch.full((1, 1, 1), 3.0))
    assert fusion.label_map().ravel().tolist() == list(range(1, 256))
    assert fusion.label_map().dtype == torch.uint8


MEASURE = """
import resource
import torch
from inference.geometry import Box
from inference.fusion import Fusion
torch.set_num_threads(1)
shape = (32, 128, 128)
for objects in (2, 60):
    fusion = Fusion(shape)
    for label in range(1, objects + 1):
        fusion.add(label, Box((0, 0, 0), (31, 127, 127)), torch.full(shape, float(label % 7)))
    fusion.label_map()
    del fusion
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_objects() -> None:
    """The peak of a process (in kB) after 2 objects and after 60, which would be 29 MB more at a byte a voxel."""
    root = Path(__file__).parents[2]
    printed = subprocess.run([sys.executable, "-c", MEASURE], cwd=root, capture_output=True, text=True, check=True)
    few, many = map(int, printed.stdout.split())
    assert many - few < 8192
