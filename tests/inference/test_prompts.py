"""What the user said, as the network sees it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from inference.case import Click, ObjectPrompts
from inference.geometry import Box, Voxel
from inference.placement import window_for
from inference.prompts import (
    BOX,
    BOX_NEGATIVE,
    CLICK,
    CLICK_NEGATIVE,
    IMAGE,
    NNINTERACTIVE_STYLE,
    PAPER_STYLE,
    PREVIOUS,
    SCRIBBLE,
    SCRIBBLE_NEGATIVE,
    PromptStyle,
    click_ball,
    draw_box,
    encode,
)
from inference.window import Window

PATCH = (16, 20, 24)
WINDOW = Window((0, 0, 0), PATCH, PATCH)
SHAPE = (30, 80, 70)


def voxels(shape: Voxel) -> st.SearchStrategy[Voxel]:
    return st.tuples(*[st.integers(0, n - 1) for n in shape])


def channels_of(prompts: ObjectPrompts, window: Window = WINDOW, style: PromptStyle = PAPER_STYLE) -> torch.Tensor:
    return encode(torch.zeros(window.patch), None, prompts, window, style)


def paper_ball(centres: list[Voxel], shape: Voxel, radius: int) -> torch.Tensor:
    """Equation 2, voxel by voxel."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distances = [np.linalg.norm(grid - np.array(centre), axis=-1) for centre in centres]
    return torch.from_numpy((np.min(distances, axis=0) <= radius).astype(np.float32))


def test_channels_are_in_the_published_order() -> None:
    order = (IMAGE, PREVIOUS, BOX, BOX_NEGATIVE, CLICK, CLICK_NEGATIVE, SCRIBBLE, SCRIBBLE_NEGATIVE)
    assert order == tuple(range(8))
    image, previous = torch.full(PATCH, 5.0), torch.full(PATCH, 0.25)
    prompts = ObjectPrompts(1, Box((1, 1, 1), (3, 3, 3)), (Click((8, 8, 8), True), Click((4, 12, 16), False)))
    channels = encode(image, previous, prompts, WINDOW, PAPER_STYLE)
    assert channels.shape == (8, *PATCH)
    assert torch.equal(channels[0], image)
    assert torch.equal(channels[1], previous)
    assert channels[2].sum() == 27
    assert channels[4, 8, 8, 8] == 1
    assert channels[5, 4, 12, 16] == 1
    assert [bool(channels[unused].any()) for unused in (3, 6, 7)] == [False] * 3


def test_without_prompts_all_channels_but_the_image_are_zero() -> None:
    channels = encode(torch.ones(PATCH), None, ObjectPrompts(1), WINDOW, PAPER_STYLE)
    assert bool(channels[0].all())
    assert not channels[1:].any()


class TestBox:
    def test_equation_1_where_the_zoom_is_1(self) -> None:
        box = Box((2, 3, 4), (5, 19, 4))
        expected = torch.zeros(PATCH)
        expected[2:6, 3:20, 4:5] = 1
        assert torch.equal(channels_of(ObjectPrompts(1, box))[BOX], expected)

    def test_it_shrinks_with_the_window(self) -> None:
        channel = torch.zeros(8, 8, 8)
        draw_box(channel, Box((8, 8, 8), (23, 23, 15)), Window((0, 0, 0), (32, 32, 32), (8, 8, 8)))
        expected = torch.zeros(8, 8, 8)
        expected[2:6, 2:6, 2:4] = 1
        assert torch.equal(channel, expected)

    def test_the_part_outside_the_window_is_not_drawn(self) -> None:
        channel = channels_of(ObjectPrompts(1, Box((-5, -5, -5), (0, 0, 0))))[BOX]
        assert channel.sum() == channel[0, 0, 0] == 1

    @example(voxel=(0, 67, 0), clicks=[(0, 0, 0)], keep=False)
    @given(voxel=voxels(SHAPE), clicks=st.lists(voxels(SHAPE), max_size=3), keep=st.booleans())
    def test_one_voxel_is_never_lost(self, voxel: Voxel, clicks: list[Voxel], keep: bool) -> None:
        prompts = ObjectPrompts(1, Box(voxel, voxel), tuple(Click(position, True) for position in clicks))
        window = window_for(prompts, SHAPE, (8, 12, 16), keep)
        drawn = channels_of(prompts, window)[BOX].nonzero()
        assert len(drawn) > 0
        # It is where the voxel's centre falls, or beside it.
        assert bool(((drawn - torch.tensor(window.to_patch(voxel))).abs() <= 1).all())


class TestClicks:
    def test_equation_2(self) -> None:
        centres = [(8, 8, 8), (10, 14, 9), (0, 0, 23)]
        channels = channels_of(ObjectPrompts(1, clicks=tuple(Click(centre, True) for centre in centres)))
        assert torch.equal(channels[CLICK], paper_ball(centres, PATCH, 4))
        assert not channels[CLICK_NEGATIVE].any()

    def test_equation_3(self) -> None:
        centres = [(8, 8, 8), (15, 19, 0)]
        channels = channels_of(ObjectPrompts(1, clicks=tuple(Click(centre, False) for centre in centres)))
        assert torch.equal(channels[CLICK_NEGATIVE], paper_ball(centres, PATCH, 4))
        assert not channels[CLICK].any()

    @given(clicks=st.lists(voxels(SHAPE), min_size=1, max_size=5), box=st.booleans(), keep=st.booleans())
    def test_none_is_lost_however_far(self, clicks: list[Voxel], box: bool, keep: bool) -> None:
        region = Box((10, 10, 10), (12, 30, 14)) if box else None
        prompts = ObjectPrompts(1, region, tuple(Click(position, True) for position in clicks))
        window = window_for(prompts, SHAPE, (8, 12, 16), keep)
        channel = channels_of(prompts, window)[CLICK]
        for position in clicks:
            centre = tuple(min(max(round(v), 0), p - 1) for v, p in zip(window.to_patch(position), window.patch))
            assert channel[centre] == 1

    @pytest.mark.parametrize("far", [(-40, 8, 8), (8, 60, 8), (8, 8, -5), (200, 200, 200)])
    def test_a_ball_wholly_outside_the_patch_is_not_drawn(self, far: Voxel) -> None:
        assert not channels_of(ObjectPrompts(1, clicks=(Click(far, True),))).any()

    def test_older_clicks_decay_by_all_that_came_after(self) -> None:
        clicks = (Click((2, 2, 2), True), Click((8, 12, 12), False), Click((13, 17, 21), True))
        channels = channels_of(ObjectPrompts(1, clicks=clicks), style=PromptStyle(decay=0.5))
        assert channels[CLICK, 2, 2, 2] == 0.25
        assert channels[CLICK_NEGATIVE, 8, 12, 12] == 0.5
        assert channels[CLICK, 13, 17, 21] == 1

    def test_where_balls_overlap_the_stronger_counts(self) -> None:
        clicks = (Click((8, 8, 8), True), Click((8, 8, 10), True))
        channels = channels_of(ObjectPrompts(1, clicks=clicks), style=PromptStyle(decay=0.5))
        assert channels[CLICK, 8, 8, 8] == 1
        assert channels[CLICK, 8, 8, 4] == 0.5


class TestPublishedStyle:
    def test_its_ball_is_the_peers(self) -> None:
        point = pytest.importorskip("nnInteractive.interaction.point", reason="nninteractive is not installed")
        expected = point.build_point((4, 4, 4), True, False)
        torch.testing.assert_close(click_ball(4, falloff=True), expected.float())

    def test_it_is_strongest_at_the_click_and_ends_at_the_radius(self) -> None:
        click = Click((8, 8, 8), True)
        channel = channels_of(ObjectPrompts(1, clicks=(click,)), style=NNINTERACTIVE_STYLE)[CLICK]
        assert channel.argmax() == channel.numel() // PATCH[0] * 8 + 8 * PATCH[2] + 8
        assert torch.equal(channel > 0, paper_ball([(8, 8, 8)], PATCH, 4) > 0)

    def test_a_ball_drawn_twice_is_not_spoiled_by_the_first_drawing(self) -> None:
        clicks = tuple(Click((8, 8, 8), True) for _ in range(3))
        channels_of(ObjectPrompts(1, clicks=clicks), style=NNINTERACTIVE_STYLE)
        assert click_ball(4, falloff=True).max() == 1
