"""Regions where an object may be, where nobody says it."""

from __future__ import annotations

import numpy as np
import pytest

from inference.case import Box, Case, Click, ObjectPrompts, Voxel
from inference.placement import central_third
from inference.proposals import WITHOUT_PROMPTS, intersection_over_union, propose

SHAPE = (40, 50, 60)
BRIGHT, DARK = Box((8, 10, 12), (17, 21, 23)), Box((22, 26, 32), (31, 39, 45))

ALIKE = 0.4
"""Smoothing takes a voxel or two from every side of a block, which halves the box of the smaller one."""


def with_blocks(shape: Voxel = SHAPE, scale: int = 1) -> np.ndarray:
    """Noise around 100 with a bright and a dark block."""
    image = np.random.default_rng(0).normal(100, 4, shape)
    for box, value in ((BRIGHT, 180), (DARK, 30)):
        image[tuple(slice(s.start * scale, s.stop * scale) for s in box.slices)] += value - 100
    return image


def test_intersection_over_union() -> None:
    box = Box((0, 0, 0), (1, 1, 1))
    assert intersection_over_union(box, box) == 1
    assert intersection_over_union(box, Box((1, 0, 0), (2, 1, 1))) == pytest.approx(4 / 12)
    assert intersection_over_union(box, Box((2, 0, 0), (3, 1, 1))) == 0
    assert intersection_over_union(box, Box((2, 2, 0), (3, 3, 1))) == 0


class TestPropose:
    def test_a_bright_and_a_dark_block_are_found(self) -> None:
        first, second = propose(with_blocks(), 2)
        assert intersection_over_union(first, DARK) > ALIKE, "the one nearer to the centre comes first"
        assert intersection_over_union(second, BRIGHT) > ALIKE

    def test_they_are_found_in_every_third_voxel(self) -> None:
        shape = tuple(3 * n for n in SHAPE)
        found = propose(with_blocks(shape, 3), 2)
        for box, block in zip(found, (DARK, BRIGHT)):
            larger = Box(tuple(3 * v for v in block.lower), tuple(3 * v + 2 for v in block.upper))
            assert intersection_over_union(box, larger) > ALIKE

    def test_no_two_are_the_same_region(self) -> None:
        found = propose(with_blocks(), 6)
        regions = [box for box in found if box != central_third(SHAPE)]
        assert all(intersection_over_union(a, b) <= 0.3 for i, a in enumerate(regions) for b in regions[:i])

    def test_what_lies_at_the_border_comes_last(self) -> None:
        image = np.random.default_rng(0).normal(100, 4, SHAPE)
        image[:8, :10, :10] = image[14:22, 20:30, 20:30] = 180
        assert intersection_over_union(propose(image, 1)[0], Box((14, 20, 20), (21, 29, 29))) > ALIKE

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32, np.float64, np.uint64])
    def test_the_dtype_makes_no_difference(self, dtype: type) -> None:
        image = np.round(with_blocks())
        assert propose(image.astype(dtype), 2) == propose(image, 2)

    @pytest.mark.parametrize("factor", [-1.0, 1e300, 1e-30])
    def test_neither_sign_nor_scale_make_a_difference(self, factor: float) -> None:
        assert propose(with_blocks() * factor, 2) == propose(with_blocks(), 2)

    def test_the_order_in_memory_makes_no_difference(self) -> None:
        image = with_blocks()
        assert propose(np.asfortranarray(image), 3) == propose(image, 3)

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros(SHAPE, np.uint8),
            np.full(SHAPE, 77, np.uint8),
            np.full(SHAPE, 0.1),
            np.ones((1, 1, 1), bool),
            np.array([[[3, 4]]], np.int16),
        ],
        ids=["empty", "constant", "constant float", "one voxel", "two voxels"],
    )
    def test_where_there_is_no_region_it_is_the_central_third(self, image: np.ndarray) -> None:
        assert propose(image, 3) == [central_third(image.shape)] * 3

    @pytest.mark.parametrize("shape", [(1, 60, 50), (2, 3, 4), (7, 1, 90), (300, 5, 5), (97, 96, 95)], ids=str)
    def test_boxes_lie_in_images_of_any_shape(self, shape: Voxel) -> None:
        image = np.random.default_rng(0).random(shape)
        found = propose(image, 5)
        assert len(found) == 5
        assert all(box.clipped(shape) == box for box in found)

    def test_it_takes_no_copy_of_a_large_image(self) -> None:
        """A view of one plane, repeated without memory: a copy of the whole would take 1 TB."""
        plane = np.random.default_rng(0).random((1, 2000, 2000)).astype(np.float32)
        assert len(propose(np.broadcast_to(plane, (60_000, 2000, 2000)), 2)) == 2


def a_case(*objects: ObjectPrompts, previous: np.ndarray | None = None) -> Case:
    return Case("a.npz", with_blocks(), (1.0, 1.0, 1.0), objects, previous)


class TestCases:
    def test_only_objects_of_which_nothing_is_known_get_a_region_best_first(self) -> None:
        previous = np.zeros(SHAPE, np.uint8)
        previous[5, 5, 5] = 3
        box = Box((1, 2, 3), (4, 5, 6))
        objects = (
            ObjectPrompts(1, box),
            ObjectPrompts(2, clicks=(Click((5, 6, 7), True),)),
            ObjectPrompts(3),
            ObjectPrompts(4),
            ObjectPrompts(5),
        )
        said: list[str] = []
        completed = WITHOUT_PROMPTS["regions"](a_case(*objects, previous=previous), said.append)
        assert completed.objects[:3] == objects[:3]
        assert [prompts.box for prompts in completed.objects[3:]] == propose(with_blocks(), 2)
        assert [prompts.guessed for prompts in completed.objects] == [False] * 3 + [True] * 2
        assert [line.split(":")[0] for line in said] == ["object 4", "object 5"]

    def test_a_case_that_needs_none_is_not_changed(self) -> None:
        case = a_case(ObjectPrompts(1, Box((1, 2, 3), (4, 5, 6))))
        assert WITHOUT_PROMPTS["regions"](case, pytest.fail) is case

    def test_the_papers_choice_leaves_it_to_the_window(self) -> None:
        case = a_case(ObjectPrompts(1))
        assert WITHOUT_PROMPTS["central-third"](case, pytest.fail) is case
