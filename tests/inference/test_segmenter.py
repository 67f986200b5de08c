"""Objects and cases: what the network is shown, where its answer lands, and what happens when it does not answer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.case import Case, Click, ObjectPrompts
from inference.checkpoint import ModelConfig
from inference.deadline import Deadline, Watchdog
from inference.geometry import Box, Voxel
from inference.network import NetworkConfig
from inference.prompts import BOX, CLICK, PAPER_STYLE, PREVIOUS
from inference.refinement import RefinementConfig
from inference.segmenter import segment_case
from tests.inference.factories import TINY, Repeats, segmenter, volume

SHAPE = (20, 30, 40)
BOX_1, BOX_2, BOX_3 = Box((2, 3, 4), (8, 10, 12)), Box((10, 18, 20), (15, 25, 28)), Box((1, 20, 30), (4, 25, 36))
PLENTY = 1000.0
"""Seconds that no test here uses up."""

LONG = 60.0
"""Seconds for which a blocked network would block; no test waits for them unless what it tests is broken."""


def a_case(*objects: ObjectPrompts, previous: np.ndarray | None = None, shape: Voxel = SHAPE) -> Case:
    return Case("a.npz", volume(shape), (1.0, 1.0, 1.0), objects, previous)


def boxed(*boxes: Box) -> Case:
    return a_case(*(ObjectPrompts(label, box) for label, box in enumerate(boxes, start=1)))


def filled(*boxes: Box) -> np.ndarray:
    """The label map of boxes that are all object."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, box in enumerate(boxes, start=1):
        labels[box.slices] = label
    return labels


def inscribed(box: Box) -> np.ndarray:
    """The ellipsoid in a box, voxel by voxel."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    centre = (np.array(box.lower) + box.upper) / 2
    return (((grid - centre) / (np.array(box.size) / 2)) ** 2).sum(axis=-1) <= 1


class Hooked(nn.Module):
    """Answers with the box, after calling ``hook`` with the number of the forward (from 1) and the patch's shape.

    The empty patches with which a forward's cost is measured are answered at once and not counted.
    """

    def __init__(self, hook: Callable[[int, Voxel], Tensor | None]) -> None:
        super().__init__()
        self.hook = hook
        self.probes: list[Voxel] = []
        self.shapes: list[Voxel] = []

    def forward(self, x: Tensor) -> Tensor:
        shape = tuple(x.shape[2:])
        if not x.any():
            self.probes.append(shape)
            return x[:, :1]
        self.shapes.append(shape)
        answer = self.hook(len(self.shapes), shape)
        return x[:, BOX : BOX + 1] * 8 - 4 if answer is None else answer


class Delayed(nn.Module):
    """Answers with the box, after calling ``delay`` with the patch's shape."""

    def __init__(self, delay: Callable[[Voxel], object]) -> None:
        super().__init__()
        self.delay = delay

    def forward(self, x: Tensor) -> Tensor:
        self.delay(tuple(x.shape[2:]))
        return x[:, BOX : BOX + 1] * 8 - 4


class TestObjectsThatAreClaimedTwice:
    """A network that finds every object everywhere, where only clicks tell them apart."""

    CLICKS = (5, 6, 3), (5, 6, 16)

    def segment(self, *boxed: int, **settings: bool) -> np.ndarray:
        everywhere = segmenter(Hooked(lambda _, shape: torch.full((1, 1, *shape), 4.0)))
        everywhere.refinement = RefinementConfig(**settings)
        objects = (
            ObjectPrompts(label, Box.of(SHAPE) if label in boxed else None, (Click(position, True),))
            for label, position in enumerate(self.CLICKS, start=1)
        )
        return segment_case(a_case(*objects), everywhere, Deadline(PLENTY), log=pytest.fail)

    def test_end_half_way_between_their_clicks(self) -> None:
        labels = self.segment()
        assert (labels[:, :, :9] == 1).all() and (labels[:, :, 11:] == 2).all()

    @pytest.mark.parametrize("boxed", [(1,), (2,), (1, 2)])
    def test_are_not_told_apart_by_clicks_once_one_has_a_box(self, boxed: tuple[int, ...]) -> None:
        off = self.segment(*boxed, nearest_click=False)
        np.testing.assert_array_equal(self.segment(*boxed), off)
        assert (off != 2).sum() > off.size - 10, "the first of two that are alike, but for what clicks are sure of"


class TestAnObjectInsideAnother:
    """A network that takes both boxes for full objects: each is as sure of the inner box as the other."""

    OUTER, INNER = BOX_1, Box((4, 5, 6), (6, 8, 10))

    def segment(self, *objects: ObjectPrompts, previous: np.ndarray | None = None, **settings: bool) -> np.ndarray:
        repeats = segmenter(Repeats(BOX))
        repeats.refinement = RefinementConfig(**settings)
        return segment_case(a_case(*objects, previous=previous), repeats, Deadline(PLENTY), log=pytest.fail)

    @pytest.mark.parametrize("outer", [1, 2])
    def test_has_what_both_claim_while_there_are_only_boxes(self, outer: int) -> None:
        boxes = {outer: self.OUTER, 3 - outer: self.INNER}
        expected = filled(self.OUTER)
        expected[self.OUTER.slices] = outer
        expected[self.INNER.slices] = 3 - outer
        objects = (ObjectPrompts(label, boxes[label]) for label in (1, 2))
        np.testing.assert_array_equal(self.segment(*objects), expected)

    def test_has_no_advantage_that_is_switched_off(self) -> None:
        objects = ObjectPrompts(1, self.OUTER), ObjectPrompts(2, self.INNER)
        np.testing.assert_array_equal(self.segment(*objects, inner_first=False), filled(self.OUTER))

    def test_has_none_once_it_has_a_click_or_a_previous_mask(self) -> None:
        outer, inner = ObjectPrompts(1, self.OUTER), ObjectPrompts(2, self.INNER)
        clicked = replace(inner, clicks=(Click((0, 0, 0), False),))
        np.testing.assert_array_equal(self.segment(outer, clicked), filled(self.OUTER))
        seen = np.zeros(SHAPE, np.uint8)
        seen[self.INNER.lower] = 2
        np.testing.assert_array_equal(self.segment(outer, inner, previous=seen), filled(self.OUTER))

    def test_has_it_without_a_network_too(self) -> None:
        case = a_case(ObjectPrompts(1, self.OUTER), ObjectPrompts(2, self.INNER))
        labels = segment_case(case, None, Deadline(PLENTY), log=lambda line: None)
        expected = inscribed(self.OUTER).astype(np.uint8)
        expected[inscribed(self.INNER)] = 2
        np.testing.assert_array_equal(labels, expected)


class TestTheSlicesOfABox:
    """A network that says yes everywhere in its window: what is left of that."""

    BOX = Box((8, 10, 12), (10, 18, 20))

    def segment(
        self,
        *clicks: Click,
        box: Box | None = BOX,
        previous: np.ndarray | None = None,
        **settings: bool,
    ) -> np.ndarray:
        yes = segmenter(Hooked(lambda number, shape: torch.full((1, 1, *shape), 4.0)))
        yes.refinement = RefinementConfig(**settings)
        case = a_case(ObjectPrompts(1, box, clicks), previous=previous)
        return segment_case(case, yes, Deadline(PLENTY), log=pytest.fail)

    def slices(self, *clicks: Click, **others: Any) -> list[int]:
        return np.flatnonzero(self.segment(*clicks, **others).any(axis=(1, 2))).tolist()

    def test_hold_the_object_while_it_may_leave_the_box_in_y_and_x(self) -> None:
        assert self.slices() == [8, 9, 10]
        assert self.segment()[9, 9, 21] == 1

    def test_do_not_where_that_is_switched_off_or_there_is_no_box(self) -> None:
        assert set(self.slices(box_slices=False)) > {7, 8, 9, 10, 11}
        assert set(self.slices(Click((9, 14, 16), True), box=None)) > {7, 8, 9, 10, 11}

    def test_do_not_on_the_side_of_a_foreground_click_outside_of_them(self) -> None:
        assert set(self.slices(Click((11, 14, 16), True))) > {8, 9, 10, 11, 12}
        assert min(self.slices(Click((11, 14, 16), True))) == 8
        assert max(self.slices(Click((7, 14, 16), True))) == 10
        assert self.slices(Click((11, 14, 16), False), Click((9, 14, 16), True)) == [8, 9, 10]

    @pytest.mark.parametrize(("first", "last"), [(8, 10), (9, 9), (6, 10), (8, 12), (6, 12)])
    def test_do_not_on_a_side_where_the_previous_mask_reaches_further(self, first: int, last: int) -> None:
        previous = np.zeros(SHAPE, np.uint8)
        previous[first : last + 1, 12:15, 14:18] = 1
        found = self.slices(previous=previous)
        assert (min(found) < 8) == (first < 8)
        assert (max(found) > 10) == (last > 10)
        assert {8, 9, 10} <= set(found)

    def test_that_reach_out_of_the_image_end_with_it(self) -> None:
        assert self.slices(box=Box((18, 10, 12), (25, 18, 20))) == [18, 19]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a blocked network waits for; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


class TestWhereTheAnswerLands:
    """A stand-in network repeats one of its input channels: its answer must come out where it went in."""

    def test_the_box_channel_is_the_box(self) -> None:
        labels = segment_case(boxed(BOX_1, BOX_2, BOX_3), segmenter(Repeats(BOX)), Deadline(PLENTY), log=pytest.fail)
        np.testing.assert_array_equal(labels, filled(BOX_1, BOX_2, BOX_3))

    def test_the_previous_channel_is_this_objects_previous_mask(self) -> None:
        previous = filled(BOX_1, BOX_2)
        objects = [ObjectPrompts(1, BOX_1), ObjectPrompts(2)]
        case = a_case(*objects, previous=previous)
        labels = segment_case(case, segmenter(Repeats(PREVIOUS)), Deadline(PLENTY), log=pytest.fail)
        np.testing.assert_array_equal(labels, previous)

    def test_a_click_far_outside_the_boxs_window_is_seen(self) -> None:
        click = Click((18, 28, 38), True)
        case = a_case(ObjectPrompts(1, Box((1, 1, 1), (3, 3, 3)), (click,)))
        labels = segment_case(case, segmenter(Repeats(CLICK)), Deadline(PLENTY), log=pytest.fail)
        assert labels[click.position] == 1
        assert labels[2, 2, 2] == 0

    def test_a_box_that_needs_zoom_comes_back_in_place(self) -> None:
        box = Box((1, 2, 3), (18, 27, 36))
        labels = segment_case(boxed(box), segmenter(Repeats(BOX)), Deadline(PLENTY), log=pytest.fail)
        expected = filled(box)
        overlap = 2 * (labels * expected).sum() / (labels.sum() + expected.sum())
        assert overlap > 0.9

    @pytest.mark.parametrize("flat", [Box((5, 4, 4), (5, 12, 12)), Box((7, 7, 7), (7, 7, 7))], ids=["slice", "voxel"])
    def test_a_flat_box_is_not_lost(self, flat: Box) -> None:
        labels = segment_case(boxed(flat), segmenter(Repeats(BOX)), Deadline(PLENTY), log=pytest.fail)
        np.testing.assert_array_equal(labels, filled(flat))

    def test_the_image_is_normalized_in_its_nonzero_box(self) -> None:
        seen = []

        class Remembers(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                seen.append(x[0, 0].clone())
                return x[:, :1]

        image = np.zeros((16, 16, 16), np.uint8)
        image[2:14, 3:15, 4:12] = np.random.default_rng(0).integers(1, 256, (12, 12, 8))
        case = Case("a.npz", image, (1.0, 1.0, 1.0), (ObjectPrompts(1, Box((6, 6, 6), (9, 9, 9))),))
        segment_case(case, segmenter(Remembers()), Deadline(PLENTY), log=pytest.fail)
        crop = image[2:14, 3:15, 4:12].astype(np.float64)
        expected = np.zeros(image.shape)
        expected[2:14, 3:15, 4:12] = (crop - crop.mean()) / crop.std()
        np.testing.assert_allclose(seen[-1].numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize("shape", [(1, 30, 40), (1, 1, 1), (2, 3, 5), (33, 17, 16)], ids=str)
    def test_any_shape_of_image(self, shape: Voxel) -> None:
        box = Box.of(shape)
        labels = segment_case(
            a_case(ObjectPrompts(1, box), shape=shape), segmenter(), Deadline(PLENTY), log=pytest.fail
        )
        assert labels.shape == shape
        assert labels.dtype == np.uint8


class TestTemperature:
    def test_log_odds_are_divided_by_it(self) -> None:
        channels = torch.randn(1, 8, 16, 16, 16, generator=torch.Generator().manual_seed(0))
        mild = segmenter(model=replace(TINY, temperature=4.0)).predictor.forward(channels)
        torch.testing.assert_close(mild * 4, segmenter().predictor.forward(channels))

    @pytest.mark.parametrize(("temperature", "label"), [(1.0, 1), (0.1, 0)])
    def test_it_decides_where_objects_compete_with_the_background(self, temperature: float, label: int) -> None:
        """Three objects of p = 0.4 leave 0.22 to the background, three of p = 0.02 leave 0.95."""
        network = Hooked(lambda _, shape: torch.full((1, 1, *shape), -0.4))
        tool = segmenter(network, replace(TINY, temperature=temperature))
        labels = segment_case(boxed(BOX_1, BOX_1, BOX_1), tool, Deadline(PLENTY), log=pytest.fail)
        assert (labels[BOX_1.slices] == label).all()


class TestTooLittleTime:
    def test_the_best_patch_that_fits_is_taken_and_the_others_are_said(self) -> None:
        network = Hooked(lambda *_: None)
        tool = segmenter(network)
        tool.predictor.seconds = {(16, 16, 16): 900.0, (8, 8, 8): 0.001}
        said: list[str] = []
        labels = segment_case(boxed(BOX_1), tool, Deadline(100), log=said.append)
        assert network.shapes == [(8, 8, 8)]
        assert len(said) == 1
        assert "object 1: no time for a patch of (16, 16, 16)" in said[0]
        assert labels[BOX_1.slices].mean() > 0.5

    def test_objects_share_what_is_left(self) -> None:
        network = Hooked(lambda *_: None)
        tool = segmenter(network)
        tool.predictor.seconds = {(16, 16, 16): 30.0, (8, 8, 8): 0.001}
        segment_case(boxed(BOX_1, BOX_2, BOX_3), tool, Deadline(100), log=lambda _: None)
        # 33 s are too few where 39 s are expected; what the first leaves over is enough for the second.
        assert network.shapes == [(8, 8, 8), (16, 16, 16), (16, 16, 16)]

    def test_a_forward_is_measured_before_it_is_trusted(self) -> None:
        network = Hooked(lambda *_: None)
        segment_case(boxed(BOX_1), segmenter(network), Deadline(PLENTY), log=pytest.fail)
        assert len(network.probes) > 1, "once more when warm"
        assert set(network.probes) == {(4, 4, 4)}, "the smallest patch"
        assert network.shapes == [(16, 16, 16)]

    def test_no_time_at_all_is_the_previous_mask_or_the_ellipsoid(self) -> None:
        network = Hooked(lambda *_: pytest.fail("there was no time for this"))
        previous = np.zeros(SHAPE, np.uint8)
        previous[10:14, 20:24, 22:25] = 2
        case = a_case(ObjectPrompts(1, BOX_1), ObjectPrompts(2, BOX_2), previous=previous)
        tool = segmenter(network)
        tool.predictor.seconds = {(16, 16, 16): 1.0}
        said: list[str] = []
        labels = segment_case(case, tool, Deadline(0), log=said.append)
        np.testing.assert_array_equal(labels == 1, inscribed(BOX_1))
        np.testing.assert_array_equal(labels == 2, previous == 2)
        assert "object 1: taking the ellipsoid in its box" in said
        assert "object 2: taking its previous mask" in said

    def test_what_was_not_given_for_lack_of_time_is_reported(self) -> None:
        """There is time to prepare, so that no step races against the clock, and none for any patch."""
        previous = np.zeros(SHAPE, np.uint8)
        previous[10:14, 20:24, 22:25] = 2
        case = a_case(ObjectPrompts(1, BOX_1), ObjectPrompts(2, BOX_2), previous=previous)
        tool = segmenter(Hooked(lambda *_: pytest.fail("there was no time for this")))
        tool.predictor.seconds = {(16, 16, 16): 1e12}
        segment_case(case, tool, Deadline(PLENTY), log=lambda _: None)
        patches = tuple(f"no time for a patch of {patch}" for patch in tool.predictor.patches())
        assert tool.reports[1].given_up == (*patches, "taking the ellipsoid in its box")
        assert tool.reports[2].given_up == (*patches, "taking its previous mask")

    def test_what_an_object_took_is_reported_and_where(self) -> None:
        tool = segmenter(Delayed(lambda _: time.sleep(0.02)))
        segment_case(boxed(BOX_1, BOX_2), tool, Deadline(PLENTY), log=pytest.fail)
        assert [(report.device, report.given_up) for report in tool.reports.values()] == [("cpu", ())] * 2
        assert all(report.seconds >= 0.02 for report in tool.reports.values())
        segment_case(boxed(BOX_1), tool, Deadline(PLENTY), log=pytest.fail)
        assert list(tool.reports) == [1], "of the last case only"

    def test_a_network_slow_on_purpose_ends_inside_the_budget(self) -> None:
        """A forward of the whole patch would take 6.4 s, of half of it 0.8 s: neither fits ten objects in 4 s."""
        network = Delayed(lambda shape: time.sleep(6.4 * np.prod(shape) / 16**3))
        said: list[str] = []
        deadline = Deadline(4)
        labels = segment_case(boxed(*[BOX_1, BOX_2] * 5), segmenter(network), deadline, log=said.append)
        assert deadline.remaining() > 0
        assert sum("no time for a patch of (16, 16, 16)" in line for line in said) == 10
        assert set(np.unique(labels)) <= set(range(11))
        assert labels[BOX_1.slices].any()
        assert labels[BOX_2.slices].any()


class TestTheWatchdog:
    def test_it_fires_when_one_forward_overruns(self, release: threading.Event) -> None:
        """By what was measured it should have been quick; it would take a minute."""
        network = Hooked(lambda *_: release.wait(LONG) and None)
        said: list[str] = []
        deadline = Deadline(3)
        labels = segment_case(boxed(BOX_1, BOX_2), segmenter(network), deadline, log=said.append)
        assert not release.is_set(), "the network is still at it"
        assert deadline.remaining() > 0
        assert said[0].startswith("object 1: the network was too slow")
        assert said[1] == "object 1: taking the ellipsoid in its box"
        assert said[-1] == "object 2: taking the ellipsoid in its box"
        expected = inscribed(BOX_1) + 2 * inscribed(BOX_2)
        np.testing.assert_array_equal(labels, expected)

    def test_it_fires_when_the_first_measurement_overruns(self, release: threading.Event) -> None:
        network = Delayed(lambda _: release.wait(LONG))
        deadline = Deadline(2)
        labels = segment_case(boxed(BOX_1), segmenter(network), deadline, log=lambda _: None)
        assert not release.is_set()
        assert deadline.remaining() > 0
        np.testing.assert_array_equal(labels, inscribed(BOX_1))

    def test_objects_done_before_are_kept(self, release: threading.Event) -> None:
        network = Hooked(lambda number, _: None if number == 1 else release.wait(LONG) and None)
        labels = segment_case(boxed(BOX_1, BOX_2), segmenter(network), Deadline(3), log=lambda _: None)
        np.testing.assert_array_equal(labels == 1, filled(BOX_1) == 1)
        np.testing.assert_array_equal(labels == 2, inscribed(BOX_2))

    def test_a_forward_left_behind_is_not_joined_by_the_next_case(self, release: threading.Event) -> None:
        running, most = 0, 0

        def hook(number: int, _: Voxel) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if number == 1:
                release.wait(LONG)
            running -= 1

        tool, watchdog = segmenter(Hooked(hook)), Watchdog()
        segment_case(boxed(BOX_1), tool, Deadline(2), watchdog, log=lambda _: None)
        assert running == 1
        threading.Timer(0.3, release.set).start()
        labels = segment_case(boxed(BOX_2), tool, Deadline(PLENTY), watchdog, log=pytest.fail)
        assert most == 1
        np.testing.assert_array_equal(labels, filled(BOX_2))


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
]


class TestFailures:
    @pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
    def test_out_of_memory_takes_one_object_down_the_ladder(self, error: Exception) -> None:
        def hook(number: int, _: Voxel) -> None:
            if number == 2:
                raise error

        network, said = Hooked(hook), []
        tool = segmenter(network)
        labels = segment_case(boxed(BOX_1, BOX_2, BOX_3), tool, Deadline(PLENTY), log=said.append)
        assert network.shapes == [(16, 16, 16), (16, 16, 16), (8, 8, 8), (16, 16, 16)]
        assert said == ["object 2: out of memory with a patch of (16, 16, 16)"]
        assert tool.failures == 0
        np.testing.assert_array_equal(labels == 1, filled(BOX_1) == 1)
        np.testing.assert_array_equal(labels == 3, filled(BOX_3) == 1)
        assert labels[BOX_2.slices].mean() > 1

    def test_out_of_memory_to_the_end_is_the_fallback(self) -> None:
        def hook(number: int, _: Voxel) -> None:
            if number in (2, 3, 4):
                raise MemoryError

        said: list[str] = []
        labels = segment_case(boxed(BOX_1, BOX_2), segmenter(Hooked(hook)), Deadline(PLENTY), log=said.append)
        assert [line.split(": ")[1] for line in said] == [
            *(f"out of memory with a patch of {(n, n, n)}" for n in (16, 8, 4)),
            "taking the ellipsoid in its box",
        ]
        np.testing.assert_array_equal(labels, filled(BOX_1) + 2 * inscribed(BOX_2))

    def test_an_error_leaves_its_object_to_the_fallback_and_is_counted(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def hook(number: int, _: Voxel) -> None:
            if number == 1:
                raise RuntimeError("a bug")

        tool, said = segmenter(Hooked(hook)), []
        labels = segment_case(boxed(BOX_1, BOX_2), tool, Deadline(PLENTY), log=said.append)
        np.testing.assert_array_equal(labels, inscribed(BOX_1) + filled(BOX_1, BOX_2) * (filled(BOX_1, BOX_2) == 2))
        assert tool.failures == 1
        assert said == ["object 1: RuntimeError: a bug", "object 1: taking the ellipsoid in its box"]
        assert 'raise RuntimeError("a bug")' in capsys.readouterr().err
        monkeypatch.setattr(sys, "stderr", Mock(encoding="utf-8", write=Mock(side_effect=OSError(28, "No space left"))))
        again = segment_case(boxed(BOX_1, BOX_2), segmenter(Hooked(hook)), Deadline(PLENTY), log=said.append)
        np.testing.assert_array_equal(again, labels)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_an_answer_that_is_not_finite_twice_is_no_answer(self, value: float) -> None:
        def hook(number: int, shape: Voxel) -> Tensor | None:
            return torch.full((1, 1, *shape), value) if number <= 2 else None

        tool = segmenter(Hooked(hook))
        labels = segment_case(boxed(BOX_1, BOX_2), tool, Deadline(PLENTY), log=lambda _: None)
        np.testing.assert_array_equal(labels == 1, inscribed(BOX_1))
        np.testing.assert_array_equal(labels == 2, filled(BOX_1, BOX_2) == 2)
        assert tool.failures == 1

    def test_a_fallback_does_not_help_the_others_where_it_says_no(self) -> None:
        """Object 2's answer, p = 0.4, loses to the background, inside object 1's box and outside its ellipsoid too."""

        def hook(number: int, shape: Voxel) -> Tensor:
            if number == 1:
                raise RuntimeError("a bug")
            return torch.full((1, 1, *shape), -0.4)

        labels = segment_case(boxed(BOX_1, BOX_1), segmenter(Hooked(hook)), Deadline(PLENTY), log=lambda _: None)
        np.testing.assert_array_equal(labels, inscribed(BOX_1))


class TestWithoutANetwork:
    def test_a_box_gives_its_ellipsoid(self) -> None:
        labels = segment_case(boxed(BOX_1), None, Deadline(PLENTY))
        np.testing.assert_array_equal(labels, inscribed(BOX_1))

    def test_a_previous_mask_stays(self) -> None:
        previous = filled(BOX_1, BOX_2)
        case = a_case(ObjectPrompts(1, BOX_3), ObjectPrompts(2), previous=previous)
        np.testing.assert_array_equal(segment_case(case, None, Deadline(PLENTY)), previous)

    def test_a_foreground_click_gives_a_ball_and_a_background_click_nothing(self) -> None:
        clicks = (Click((0, 5, 5), True), Click((12, 20, 30), True), Click((15, 5, 35), False))
        labels = segment_case(a_case(ObjectPrompts(1, clicks=clicks)), None, Deadline(PLENTY))
        assert labels[0, 5, 5] == labels[12, 20, 30] == labels[12, 20, 34] == 1
        assert labels[12, 20, 35] == labels[15, 5, 35] == 0

    def test_nothing_known_gives_nothing(self) -> None:
        assert not segment_case(a_case(ObjectPrompts(1)), None, Deadline(PLENTY)).any()


class TestPatches:
    @pytest.mark.parametrize("patch", [(192, 192, 192), (64, 96, 32), (16, 16, 16)], ids=str)
    @pytest.mark.parametrize("stages", [2, 4])
    def test_each_is_smaller_and_one_that_the_network_can_halve(self, patch: Voxel, stages: int) -> None:
        model = ModelConfig(NetworkConfig((4,) * stages, (1,) * stages), patch, PAPER_STYLE)
        patches = segmenter(model=model).predictor.patches()
        assert patches[0] == patch
        sizes = [int(np.prod(p)) for p in patches]
        assert sizes == sorted(set(sizes), reverse=True)
        assert all(n % model.network.stride == 0 and n >= 2 * model.network.stride for p in patches for n in p)

    def test_the_network_runs_on_each(self) -> None:
        tool = segmenter().predictor
        for patch in tool.patches():
            assert tool.forward(torch.zeros(1, 8, *patch)).shape == (1, *patch)
        assert tool.seconds.keys() == set(tool.patches())

    def test_what_is_not_measured_is_expected_in_proportion(self) -> None:
        tool = segmenter().predictor
        tool.seconds = {(8, 8, 8): 1.0}
        assert tool.expected_seconds((16, 16, 16)) == pytest.approx(8 * tool.expected_seconds((8, 8, 8)))
        assert tool.expected_seconds((8, 8, 8)) >= 1.0
        assert TINY.patch in tool.patches()
