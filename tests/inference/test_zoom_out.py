"""Windows that grow after an object without a box, and clicks that are obeyed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import TINY
from torch import Tensor, nn

from inference import placement
from inference.case import Case, Click, ObjectPrompts
from inference.deadline import Deadline
from inference.fusion import enforce_prompts
from inference.geometry import Box
from inference.placement import has_leaked, zoomed_out
from inference.predictor import Predictor
from inference.prompts import IMAGE, PREVIOUS
from inference.segmenter import Segmenter, segment_case
from inference.window import Window

PATCH = (16, 16, 16)
WINDOW = Window((20, 20, 20), PATCH, PATCH)


def odds(*where: slice) -> Tensor:
    values = torch.full(PATCH, -5.0)
    values[where] = 5.0
    return values


def test_an_object_inside_needs_no_larger_window():
    assert zoomed_out(WINDOW, odds(slice(3, 9), slice(3, 9), slice(3, 9)), (60, 60, 60), False) is None


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (slice(0, 9), Window((16, 20, 20), (20, 16, 16), PATCH)),
        (slice(5, 16), Window((20, 20, 20), (20, 16, 16), PATCH)),
        (slice(0, 16), Window((16, 20, 20), (24, 16, 16), PATCH)),
    ],
)
def test_a_window_grows_where_the_object_reaches_out(z: slice, expected: Window):
    assert zoomed_out(WINDOW, odds(z, slice(3, 9), slice(3, 9)), (60, 60, 60), False) == expected


def test_a_window_keeps_its_proportions_and_its_middle_if_asked():
    larger = zoomed_out(WINDOW, odds(slice(0, 16), slice(3, 9), slice(3, 9)), (60, 60, 60), True)
    assert larger == Window((16, 16, 16), (24, 24, 24), PATCH)


def test_the_image_s_own_border_is_no_reason_to_grow():
    at_corner = Window((0, 0, 0), PATCH, PATCH)
    assert zoomed_out(at_corner, odds(slice(0, 16), slice(0, 9), slice(0, 9)), PATCH, False) is None


class Bright(nn.Module):
    """Takes what is far brighter than the mean for the object."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.windows += 1
        return x[:, IMAGE : IMAGE + 1] - 5


def bright_case(box: Box | None) -> Case:
    """An object of 48 voxels in an image of 80, and a click in its middle."""
    image = np.full((80, 80, 80), 10, np.uint8)
    image[16:64, 36:44, 36:44] = 200
    return Case("case.npz", image, (1, 1, 1), (ObjectPrompts(1, box, (Click((40, 40, 40), True),)),))


def test_one_click_finds_an_object_larger_than_the_patch():
    segmenter = Segmenter(Predictor(Bright(), TINY, torch.device("cpu"), {PATCH: 0.01}))
    case = bright_case(None)
    found = segment_case(case, segmenter, Deadline(600)) == 1
    truth = case.image == 200
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_a_small_object_found_by_its_first_click_is_looked_at_again_magnified():
    class Remembers(Bright):
        def __init__(self) -> None:
            super().__init__()
            self.sizes = []

        def forward(self, x: Tensor) -> Tensor:
            self.sizes.append(int((x[0, IMAGE] > 0).sum()))
            return super().forward(x)

    image = np.full((80, 80, 80), 10, np.uint8)
    image[40:43, 40:43, 40:43] = 200
    case = Case("case.npz", image, (1, 1, 1), (ObjectPrompts(1, clicks=(Click((41, 41, 41), True),)),))
    network = Remembers()
    config = replace(TINY, isotropic_zoom=False)
    segmenter = Segmenter(Predictor(network, config, torch.device("cpu"), {PATCH: 0.01}))
    labels = segment_case(case, segmenter, Deadline(600))
    assert len(network.sizes) == 2
    assert network.sizes[0] == 27 and network.sizes[1] > 27, "first at native resolution, then magnified"
    assert (labels[image == 200] == 1).all()
    # With a previous mask, the window has followed it already.
    segment_case(replace(case, previous=labels), segmenter, Deadline(600))
    assert len(network.sizes) == 3


def leaked(*clicks: Click, box: Box | None = None) -> bool:
    """Of a mask of 30 voxels an edge, and an arm of 5."""
    labels = torch.zeros((40, 40, 40), dtype=torch.uint8)
    labels[5:35, 5:35, 5:35] = 2
    labels[18:23, 18:23, 35:40] = 2
    return has_leaked(labels, ObjectPrompts(2, box, clicks))


IN_THE_ARM, IN_THE_BODY = Click((20, 20, 37), True), Click((20, 20, 20), True)
NOT_THE_BODY, NOT_THE_RIM = Click((20, 20, 19), False), Click((7, 7, 7), False)


@pytest.mark.parametrize(
    ("clicks", "expected"),
    [
        ((IN_THE_ARM, NOT_THE_BODY), True),
        ((IN_THE_ARM, NOT_THE_RIM), False),
        ((IN_THE_BODY, NOT_THE_BODY), False),
        ((IN_THE_ARM, NOT_THE_BODY, IN_THE_ARM), False),
        ((NOT_THE_BODY,), False),
        ((IN_THE_ARM,), False),
    ],
    ids=["the body is not it", "a rim is not", "beside the click", "said before", "nothing is it", "one click"],
)
def test_a_mask_has_leaked_if_what_is_not_it_lies_far_deeper_in_it(clicks: tuple[Click, ...], expected: bool):
    assert leaked(*clicks) == expected


def test_with_a_box_no_mask_has_leaked():
    assert not leaked(IN_THE_ARM, NOT_THE_BODY, box=Box((15, 15, 30), (25, 25, 39)))


def test_a_depth_is_searched_for_so_far_and_no_further(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement, "DEEPEST", 2)
    assert not leaked(IN_THE_ARM, NOT_THE_RIM), "both as deep as is told apart"
    assert leaked(IN_THE_ARM, NOT_THE_BODY)


class Shown(nn.Module):
    """Takes nothing for the object; remembers how much of a previous mask it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.masks.append(bool(x[0, PREVIOUS].any()))
        return torch.full_like(x[:, :1], -5.0)


@pytest.mark.parametrize(("newest", "shown"), [(NOT_THE_BODY, False), (NOT_THE_RIM, True)])
def test_after_a_leak_the_previous_mask_is_not_shown(newest: Click, shown: bool):
    previous = np.zeros((40, 40, 40), np.uint8)
    previous[5:35, 5:35, 5:35] = 1
    previous[18:23, 18:23, 35:40] = 1
    case = bright_case(None)
    prompts = (ObjectPrompts(1, clicks=(IN_THE_ARM, newest)),)
    network = Shown()
    segmenter = Segmenter(Predictor(network, TINY, torch.device("cpu"), {PATCH: 0.01}))
    segment_case(
        replace(case, image=case.image[:40, :40, :40], objects=prompts, previous=previous), segmenter, Deadline(60)
    )
    assert network.masks[0] is shown


def test_without_time_the_first_look_counts():
    class Slowing(Bright):
        """After its first look, it seems to take longer than there is time."""

        def forward(self, x: Tensor) -> Tensor:
            segmenter.predictor.expected_seconds = lambda patch: 100.0
            return super().forward(x)

    network = Slowing()
    segmenter = Segmenter(Predictor(network, TINY, torch.device("cpu"), {PATCH: 0.01}))
    said: list[str] = []
    labels = segment_case(bright_case(None), segmenter, Deadline(60), log=said.append)
    assert network.windows == 1 and labels.any()
    assert said == ["object 1: no time for zooming out further", "object 1: no time for recentering"]


def test_a_box_is_taken_at_its_word():
    network = Bright()
    segmenter = Segmenter(Predictor(network, TINY, torch.device("cpu"), {PATCH: 0.01}))
    segment_case(bright_case(Box((38, 38, 38), (42, 42, 42))), segmenter, Deadline(600))
    assert network.windows == 1


def test_clicks_are_obeyed_whatever_the_network_says():
    segmenter = Segmenter(Predictor(Bright(), TINY, torch.device("cpu"), {PATCH: 0.01}))
    case = bright_case(None)
    dark, bright = (5, 5, 5), (40, 40, 40)
    objects = (
        ObjectPrompts(1, Box((16, 36, 36), (63, 43, 43)), (Click(bright, False), Click(dark, True))),
        ObjectPrompts(2, Box((16, 36, 36), (63, 43, 43)), (Click((41, 40, 40), True),)),
    )
    labels = segment_case(Case("a.npz", case.image, (1, 1, 1), objects), segmenter, Deadline(600))
    assert labels[dark] == 1 and labels[bright] != 1 and labels[41, 40, 40] == 2


def test_the_later_of_two_contradicting_clicks_wins():
    labels = np.zeros((3, 3, 3), np.uint8)
    voxel = (1, 1, 1)
    enforce_prompts(labels, (ObjectPrompts(1, clicks=(Click(voxel, True), Click(voxel, False))),))
    assert labels[voxel] == 0
    enforce_prompts(labels, (ObjectPrompts(1, clicks=(Click(voxel, False), Click(voxel, True))),))
    assert labels[voxel] == 1
