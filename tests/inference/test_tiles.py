"""Large objects: seen coarsely, then again at native resolution along their border, for as long as there is time."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import TINY
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from inference.case import Box, Case, ObjectPrompts
from inference.deadline import Deadline
from inference.placement import LARGE
from inference.predictor import Predictor
from inference.prompts import IMAGE, PREVIOUS
from inference.refinement import ONE_FORWARD
from inference.segmenter import Segmenter, segment_case
from inference.tiles import _sums, blended, tiles
from inference.window import Window

PATCH = (16, 16, 16)
SHAPE = (70, 80, 90)
WINDOW = Window((5, 10, 3), (40, 44, 48), PATCH)


def ball(radius: float = 6.0) -> Tensor:
    """Log-odds of a ball in the patch."""
    axis = torch.arange(16) - 7.5
    distance = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2).sqrt()
    return 2 * (radius - distance)


class TestWhereTilesLie:
    def test_they_cover_the_border_at_native_resolution_inside_window_and_image(self) -> None:
        log_odds = ball()
        covered = torch.zeros(SHAPE, dtype=torch.bool)
        for tile in tiles(WINDOW, log_odds, SHAPE):
            assert tile.size == tile.patch == PATCH
            assert tile.box.clipped(SHAPE) == tile.box
            assert all(a <= b for a, b in zip(WINDOW.start, tile.start))
            assert all(a >= b for a, b in zip(WINDOW.box.upper, tile.box.upper))
            covered[tile.box.slices] = True
        image = torch.zeros(SHAPE)
        for where, values in WINDOW.paste(log_odds, Box.of(SHAPE)):
            image[where.slices] = values
        border = (image.abs() < 0.5) & (image != 0)
        assert border.any() and covered[border].float().mean() > 0.97
        assert not covered[25, 32, 27], "the middle of the object is certain"

    def test_the_most_uncertain_part_comes_first(self) -> None:
        log_odds = ball()
        log_odds[10:, 5:11, 5:11] = 0.0
        first = next(tiles(WINDOW, log_odds, SHAPE))
        middle = WINDOW.start[0] + 12.5 * 40 / 16
        assert abs(first.start[0] + 8 - middle) < 12

    @pytest.mark.parametrize("block", [(1, 1, 1), (5, 3, 8), (12, 10, 9)])
    def test_sums_over_blocks_are_those_of_a_pooling(self, block: tuple[int, int, int]) -> None:
        values = torch.rand((12, 10, 9), generator=torch.Generator().manual_seed(0))
        pooled = torch.nn.functional.avg_pool3d(values[None, None], block, stride=1)[0, 0] * np.prod(block)
        torch.testing.assert_close(_sums(values, block), pooled, rtol=1e-5, atol=1e-5)

    def test_a_window_of_native_resolution_has_none(self) -> None:
        assert list(tiles(Window((0, 0, 0), (16, 18, 19), PATCH), ball(), SHAPE)) == []

    def test_an_axis_of_native_resolution_is_not_divided(self) -> None:
        flat = Window((2, 0, 0), (16, 64, 64), PATCH)
        found = list(tiles(flat, ball(), (20, 64, 64)))
        assert found and all(tile.start[0] == 2 and tile.size == PATCH for tile in found)

    @pytest.mark.parametrize("value", [-9.0, 9.0])
    def test_nothing_to_refine(self, value: float) -> None:
        """All or nothing of the window is object: at most its outermost voxels are uncertain."""
        assert len(list(tiles(WINDOW, torch.full(PATCH, value), SHAPE))) <= 64

    @given(
        start=st.tuples(*[st.integers(-40, 60)] * 3), size=st.tuples(*[st.integers(8, 90)] * 3), seed=st.integers(0, 9)
    )
    def test_any_window_ends(self, start: tuple, size: tuple, seed: int) -> None:
        log_odds = torch.randn(PATCH, generator=torch.Generator().manual_seed(seed))
        window = Window(start, size, PATCH)
        found = list(tiles(window, log_odds, SHAPE))
        assert len(found) <= 400
        assert all(n == (16 if wide > 16 * LARGE else wide) for tile in found for n, wide in zip(tile.size, size))


class TestBlending:
    def test_tiles_that_say_the_same_change_nothing(self) -> None:
        constant = torch.full(PATCH, 0.1)
        around = [(tile, constant) for tile in tiles(WINDOW, ball(), SHAPE)]
        assert around
        for _, values in blended(WINDOW, constant, around, [], Box.of(SHAPE)):
            torch.testing.assert_close(values, torch.full_like(values, 0.1))

    def test_a_tile_counts_near_the_border_and_fades_at_its_seams(self) -> None:
        """Where all is uncertain, the whole tile counts."""
        tile = Window((30, 30, 30), PATCH, PATCH)
        image = torch.zeros(SHAPE)
        for where, values in blended(WINDOW, torch.zeros(PATCH), [(tile, torch.ones(PATCH))], [], Box.of(SHAPE)):
            image[where.slices] = values
        assert image[38, 38, 38] == 1
        assert 0 < image[30, 38, 38] < 0.5 < image[31, 38, 38] <= 1
        outside = torch.ones(SHAPE, dtype=torch.bool)
        outside[tile.box.slices] = False
        assert not image[outside].any()

    def test_a_tile_cannot_take_away_what_the_window_is_sure_of(self) -> None:
        """A tile in the middle of a large object, without its surroundings, may take it for background."""
        log_odds = ball(radius=7.0)
        tile = Window((17, 24, 19), PATCH, PATCH)
        for where, values in blended(WINDOW, log_odds, [(tile, torch.full(PATCH, -9.0))], [], Box.of(SHAPE)):
            local = tuple(
                slice(max(a - b, 0), max(c - b + 1, 0)) for a, b, c in zip((21, 28, 23), where.lower, (28, 35, 30))
            )
            assert (values[local] > 0).all()

    def test_the_greater_of_window_and_piece_is_taken(self) -> None:
        near = Window((30, 30, 30), PATCH, PATCH)
        image = torch.zeros(SHAPE)
        found = torch.full(PATCH, -4.0)
        found[4:8, 4:8, 4:8] = 3.0
        for where, values in blended(WINDOW, torch.full(PATCH, -1.0), [], [(near, found)], Box.of(SHAPE)):
            image[where.slices] = values
        assert (image[34:38, 34:38, 34:38] == 3).all() and image[31, 31, 31] == -1

    def test_there_is_no_seam_where_the_window_ends_too(self) -> None:
        tile = Window(WINDOW.start, PATCH, PATCH)
        weight = tile.weight(tile.box, WINDOW)
        assert weight[0, 0, 0] == 1 and weight[-1, -1, -1] < 0.1


def test_a_patch_seen_from_another_window_is_what_it_would_be_there() -> None:
    log_odds = ball()
    dense = torch.zeros(SHAPE)
    for where, values in WINDOW.paste(log_odds, Box.of(SHAPE)):
        dense[where.slices] = values
    tile = Window((20, 22, 9), PATCH, PATCH)
    torch.testing.assert_close(WINDOW.seen_from(log_odds, tile), tile.crop(dense), atol=1e-4, rtol=1e-4)
    assert not WINDOW.seen_from(log_odds, Window((200, 0, 0), PATCH, PATCH)).any()


class Bright(nn.Module):
    """Takes what is brighter than the mean for the object; remembers what it was shown."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds, self.looks, self.previous = seconds, 0, []

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        self.looks += 1
        self.previous.append(x[0, PREVIOUS].mean().item())
        return 20 * x[:, IMAGE : IMAGE + 1]


def comb() -> Case:
    """A large object with a fine structure: plates of two voxels, two apart, that a coarse look cannot part."""
    image = np.full((64, 64, 64), 10, np.uint8)
    image[8:56, 8:56, 8:56][:, np.arange(48) % 4 < 2] = 200
    return Case("a.npz", image, (1, 1, 1), (ObjectPrompts(1, Box((8, 8, 8), (55, 55, 55))),))


def dice(labels: np.ndarray, case: Case) -> float:
    found, truth = labels == 1, case.image == 200
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def segmenter(network: nn.Module, tiles: int) -> Segmenter:
    return Segmenter(Predictor(network, TINY, torch.device("cpu"), {PATCH: 0.001}), replace(ONE_FORWARD, tiles=tiles))


def test_detail_that_the_coarse_look_loses_comes_back() -> None:
    case = comb()
    coarse = segment_case(case, segmenter(Bright(), 0), Deadline(600), log=pytest.fail)
    network = Bright()
    fine = segment_case(case, segmenter(network, 100), Deadline(600), log=pytest.fail)
    assert dice(fine, case) > dice(coarse, case) + 0.1
    assert max(network.previous[1:]) > 0, "a tile is shown the coarse mask"


def test_tiles_are_limited() -> None:
    network = Bright()
    segment_case(comb(), segmenter(network, 5), Deadline(600), log=pytest.fail)
    assert network.looks == 1 + 5


def test_a_slow_network_refines_less_and_ends_in_time() -> None:
    """A tenth of a second a look and two seconds of time: some tiles, not all, and the result inside the budget."""
    network = Bright(seconds=0.1)
    tool = segmenter(network, 100)
    tool.predictor.seconds = {PATCH: 0.1}
    began = time.monotonic()
    labels = segment_case(comb(), tool, Deadline(3), log=pytest.fail)
    assert time.monotonic() - began < 3
    assert 1 < network.looks < 25 and labels.any()


def test_what_was_seen_before_the_network_stalled_is_kept() -> None:
    """The network seems fast and then stalls in its third look: the first two count, and the run is in time."""

    class Stalls(Bright):
        def forward(self, x: Tensor) -> Tensor:
            if self.looks == 2:
                time.sleep(4)
            return super().forward(x)

    said: list[str] = []
    case = comb()
    began = time.monotonic()
    labels = segment_case(case, segmenter(Stalls(), 100), Deadline(2.5), log=said.append)
    assert time.monotonic() - began < 2.5
    assert any("what the network has said so far" in line for line in said)
    coarse = segment_case(case, segmenter(Bright(), 1), Deadline(600), log=pytest.fail)
    np.testing.assert_array_equal(labels, coarse)
