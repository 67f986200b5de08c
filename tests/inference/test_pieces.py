"""Clicks that add a piece of an object, or take one away."""

from __future__ import annotations

import numpy as np
import torch
from factories import TINY
from torch import Tensor, nn

from inference.case import Case, Click, ObjectPrompts
from inference.deadline import Deadline
from inference.geometry import Box
from inference.pieces import disobeyed, piece, with_pieces, without_ruled_out
from inference.predictor import Predictor
from inference.prompts import IMAGE
from inference.refinement import RefinementConfig
from inference.segmenter import Segmenter, segment_case
from inference.window import Window

WINDOW = Window((10, 0, 0), (32, 16, 16), (16, 16, 16))
"""Two voxels of the image a voxel of the patch along z."""


def two_pieces() -> Tensor:
    """Log-odds of a large piece and a small one."""
    log_odds = torch.full((16, 16, 16), -5.0)
    log_odds[1:7, 2:12, 2:12] = 5.0
    log_odds[10:13, 4:7, 4:7] = 3.0
    return log_odds


IN_LARGE, IN_SMALL, BESIDE, OUTSIDE = (16, 5, 5), (32, 5, 5), (40, 14, 14), (50, 5, 5)


def test_clicks_that_are_contradicted_are_told_the_latest_first() -> None:
    clicks = (Click(IN_LARGE, False), Click(IN_SMALL, True), Click(BESIDE, True), Click(OUTSIDE, True))
    assert disobeyed(two_pieces(), WINDOW, clicks) == [clicks[2], clicks[0]]


def test_a_piece_is_the_region_of_its_click_alone() -> None:
    found = piece(two_pieces(), WINDOW, Click(IN_SMALL, True))
    assert (found[10:13, 4:7, 4:7] == 3).all()
    assert (found > 0).sum() == 27 and found[3, 5, 5] < -3


def test_no_piece_where_there_is_nothing() -> None:
    assert piece(two_pieces(), WINDOW, Click(BESIDE, True)) is None
    assert piece(two_pieces(), WINDOW, Click(OUTSIDE, True)) is None


def test_a_background_click_takes_its_piece_away() -> None:
    left = without_ruled_out(two_pieces(), WINDOW, (Click(IN_SMALL, False), Click(IN_LARGE, True)))
    assert (left[10:13] < 0).all()
    assert torch.equal(left[:9], two_pieces()[:9])


def test_a_piece_with_a_foreground_click_stays() -> None:
    clicks = (Click(IN_SMALL, False), Click((33, 4, 4), True))
    assert torch.equal(without_ruled_out(two_pieces(), WINDOW, clicks), two_pieces())


def test_the_object_itself_is_not_taken_away() -> None:
    assert torch.equal(without_ruled_out(two_pieces(), WINDOW, (Click(IN_LARGE, False),)), two_pieces())


def test_the_greater_of_window_and_piece_is_taken() -> None:
    shape, patch = (70, 80, 90), (16, 16, 16)
    near = Window((30, 30, 30), patch, patch)
    image = torch.zeros(shape)
    found = torch.full(patch, -4.0)
    found[4:8, 4:8, 4:8] = 3.0
    slabs = Window((5, 10, 3), (40, 44, 48), patch).paste(torch.full(patch, -1.0), Box.of(shape))
    for where, values in with_pieces(slabs, [(near, found)]):
        image[where.slices] = values
    assert (image[34:38, 34:38, 34:38] == 3).all() and image[31, 31, 31] == -1
    assert image[60, 70, 80] == 0, "outside of the window nothing is said"


class OnlyTheLargest(nn.Module):
    """Sees the brightest of what it is shown, and calls it the object: a dim piece beside a bright one is missed."""

    def forward(self, x: Tensor) -> Tensor:
        image = x[:, IMAGE : IMAGE + 1]
        return 10 * (image - 0.6 * image.amax())


def scattered() -> tuple[np.ndarray, np.ndarray]:
    """An image with a bright piece and a dim one, and the truth."""
    image = np.full((64, 64, 64), 10, np.uint8)
    image[8:24, 8:24, 8:24] = 200
    image[44:52, 44:52, 44:52] = 90
    return image, image > 10


def test_a_click_on_a_missed_piece_adds_it_and_keeps_the_rest() -> None:
    image, truth = scattered()
    prompts = ObjectPrompts(1, Box((8, 8, 8), (52, 52, 52)), (Click((48, 48, 48), True),))
    case = Case("a.npz", image, (1, 1, 1), (prompts,))

    def dice(settings: RefinementConfig) -> float:
        tool = Segmenter(Predictor(OnlyTheLargest(), TINY, torch.device("cpu"), {TINY.patch: 0.001}), settings)
        found = segment_case(case, tool, Deadline(600)) == 1
        assert found[16, 16, 16]
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    assert dice(RefinementConfig()) > dice(RefinementConfig(pieces=False)) + 0.03
