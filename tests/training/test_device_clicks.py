"""Clicks of a whole batch beside the challenge's, which look at one sample after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.simulated_user import _depth, _largest_component, click_from_error
from inference.case import Click
from inference.geometry import bounding_box
from inference.prompts import (
    CLICK,
    CLICK_NEGATIVE,
    NNINTERACTIVE_STYLE,
    PAPER_STYLE,
    PREVIOUS,
    PromptStyle,
    draw_clicks,
)
from inference.window import Window
from training import device_clicks
from training.device_clicks import BatchClicks, Placement, batch_clicks, draw, squared_distance
from training.interaction import simulate
from training.stream import Batch


def masks(share: float, shape: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A prediction and a truth whose difference has components of many sizes; no difference in the first sample."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.rand((4, *shape), generator=random) < share
    prediction = torch.rand((4, *shape), generator=random) < share / 2
    prediction[0] = truth[0]
    return prediction, truth


def largest(prediction: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The largest component of an error, and each voxel's squared depth in it, by cc3d and edt."""
    error = (prediction != truth).numpy()
    component, corner = _largest_component(error, bounding_box(error).slices)
    inside, depth = np.zeros(error.shape, bool), np.zeros(error.shape, np.float32)
    place = tuple(slice(start, start + size) for start, size in zip(corner, component.shape))
    inside[place], depth[place] = component, _depth(component)
    return inside, depth


@pytest.mark.parametrize("shape", [(12, 9, 17), (16, 16, 16), (1, 7, 9)])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_each_click_is_in_a_deepest_voxel_of_the_largest_component(share: float, shape: tuple[int, int, int]):
    prediction, truth = masks(share, shape)
    clicks = batch_clicks(prediction, truth, generator=torch.Generator().manual_seed(1))
    for index in range(4):
        expected = click_from_error(prediction[index].numpy(), truth[index].numpy())
        assert clicks.made[index] == (expected is not None)
        if expected is None:
            continue
        _, depth = largest(prediction[index], truth[index])
        voxel = tuple(clicks.position[index].tolist())
        assert depth[voxel] == depth.max() == depth[expected[0]]
        assert clicks.positive[index] == truth[index][voxel]


def test_of_equally_large_components_the_first_is_clicked_and_of_equally_deep_voxels_any():
    truth = torch.zeros((1, 8, 8, 8), dtype=torch.bool)
    truth[0, 0, 0, :4] = truth[0, 7, 7, 4:] = True  # Both touch a corner of the patch.
    random = torch.Generator().manual_seed(0)
    found = [batch_clicks(torch.zeros_like(truth), truth, generator=random).position[0].tolist() for _ in range(40)]
    assert sorted({tuple(voxel) for voxel in found}) == [(0, 0, x) for x in range(4)]


@pytest.mark.parametrize("corner", [0, 7])
def test_an_error_of_one_voxel_in_a_corner_is_clicked(corner: int):
    truth = torch.zeros((2, 8, 8, 8), dtype=torch.bool)
    truth[1, corner, corner, corner] = True
    clicks = batch_clicks(truth, torch.zeros_like(truth))
    assert clicks.made.tolist() == [False, True]
    assert clicks.position[1].tolist() == [corner] * 3 and not clicks.positive[1]


def test_a_winding_component_is_one():
    truth = torch.zeros((1, 1, 15, 15), dtype=torch.bool)
    truth[0, 0, ::2] = True
    truth[0, 0, 1::4, -1] = truth[0, 0, 3::4, 0] = True  # A path to and fro: 127 voxels, no two rows touch.
    truth[0, 0, 14] = False
    truth[0, 0, 14, 5:] = True
    labels = device_clicks._labels(torch.nn.functional.pad(truth, (1,) * 6))
    assert len(labels.unique()) == 2


def test_distances_are_exact_however_they_are_chunked(monkeypatch: pytest.MonkeyPatch):
    inside = torch.nn.functional.pad(
        torch.rand((2, 9, 12, 7), generator=torch.Generator().manual_seed(0)) < 0.9, (1,) * 6
    )
    expected = np.stack([_depth(sample) for sample in inside.numpy()])
    for numbers in (2**26, 14**2 * 5):
        monkeypatch.setattr(device_clicks, "CHUNK_NUMBERS", numbers)
        np.testing.assert_array_equal(squared_distance(inside).numpy(), expected)


def clicked_depths(placement: Placement) -> tuple[np.ndarray, Tensor]:
    """A ball, a bar and a lone voxel, clicked 500 times: squared depths in the ball, places."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(10)] * 3, indexing="ij"))
    truth = ((grid - 3).square().sum(dim=0) <= 9)[None]
    truth[0, 9, 9, 2:8] = truth[0, 0, 9, 0] = True
    many = truth.expand(500, -1, -1, -1)
    clicks = batch_clicks(torch.zeros_like(many), many, placement, torch.Generator().manual_seed(0))
    _, depth = largest(torch.zeros_like(truth[0]), truth[0])
    return depth, clicks.position


@pytest.mark.parametrize(("spread", "power"), [(1.0, 1.0), (0.5, 2.0)])
def test_people_click_in_proportion_to_a_power_of_the_depth(spread: float, power: float):
    depth, position = clicked_depths(Placement(spread=spread))
    clicked = depth[tuple(position.T.numpy())]
    assert (clicked > 0).all(), "all are in the largest component"
    for squared in np.unique(depth[depth > 0]):
        expected = (depth == squared).sum() * squared ** (power / 2) / (depth ** (power / 2)).sum()
        assert (clicked == squared).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / 500))


def test_a_share_of_the_clicks_is_on_another_component_if_there_is_one():
    depth, position = clicked_depths(Placement(other_component=0.4))
    elsewhere = depth[tuple(position.T.numpy())] == 0
    assert elsewhere.mean() == pytest.approx(0.4, abs=0.09)
    lone = (position == torch.tensor([0, 9, 0])).all(dim=1).numpy()
    assert lone.sum() / elsewhere.sum() == pytest.approx(1 / 7, abs=0.1)
    alone = torch.zeros((8, 4, 4, 4), dtype=torch.bool)
    alone[:, 1:3, 1:3, 1:3] = True
    clicks = batch_clicks(torch.zeros_like(alone), alone, Placement(other_component=1.0))
    assert clicks.made.all() and alone[0][tuple(clicks.position.T)].all()


@pytest.mark.parametrize("settings", [{"spread": -1.0}, {"other_component": 1.5}])
def test_a_placement_that_means_nothing_is_refused(settings: dict[str, float]):
    with pytest.raises(ValueError, match="expected a spread"):
        Placement(**settings)


def test_a_patch_too_large_to_number_is_refused():
    with pytest.raises(ValueError, match=r"2\*\*24"):
        batch_clicks(*torch.zeros((2, 1, 2, 2, 3_000_000), dtype=torch.bool))


@pytest.mark.parametrize("style", [PAPER_STYLE, NNINTERACTIVE_STYLE, PromptStyle(radius=0)])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_clicks_are_drawn_as_inference_draws_them(style: PromptStyle, scale: int):
    """Three clicks a sample, at corners too; the second sample does not get the second one."""
    shape = (9, 8, 10)
    rounds = [
        BatchClicks(torch.tensor([[0, 0, 0], [8, 7, 9]]), torch.tensor([True, False]), torch.tensor([True, True])),
        BatchClicks(torch.tensor([[2, 1, 3], [4, 4, 4]]), torch.tensor([True, True]), torch.tensor([True, False])),
        BatchClicks(torch.tensor([[8, 0, 5], [8, 6, 8]]), torch.tensor([False, False]), torch.tensor([True, True])),
    ]
    channels = torch.zeros((2, 8, *(scale * n for n in shape)))
    for clicks in rounds:
        draw(channels, clicks, style, scale)
    window = Window((0, 0, 0), shape, tuple(channels.shape[2:]))
    for index in range(2):
        made = tuple(Click(tuple(c.position[index].tolist()), bool(c.positive[index])) for c in rounds if c.made[index])
        expected = torch.zeros((2, *window.patch))
        draw_clicks(*expected, made, window, style)
        torch.testing.assert_close(channels[index, [CLICK, CLICK_NEGATIVE]], expected)
    assert not channels[:, [0, 1, 2, 3, 6, 7]].any()


def test_only_samples_that_want_one_get_a_first_click():
    truth = torch.zeros((2, 8, 8, 8), dtype=torch.bool)
    truth[:, 2:5, 2:5, 2:5] = True
    batch = Batch(torch.zeros((2, 8, 8, 8, 8)), truth, torch.tensor([False, True]))
    style = replace(PAPER_STYLE, radius=0)
    for placement in (Placement(), Placement(spread=1e-3)):  # The challenge's code, and that of a batch.
        channels = simulate(lambda x: x[:, :2], batch, 0, style, placement)
        assert not channels[0].any()
        assert channels[1].nonzero().tolist() == [[CLICK, 3, 3, 3]]


def test_the_worse_half_gets_further_clicks_and_nothing_else_changes():
    truth = torch.zeros((3, 8, 8, 8), dtype=torch.bool)
    truth[:, 2:5, 2:5, 2:5] = True
    batch = Batch(torch.zeros((3, 8, 8, 8, 8)), truth, torch.tensor([False] * 3))
    logits = torch.zeros((3, 2, 8, 8, 8))
    logits[:, 1] = 2 * truth - 1.0
    logits[1:, 1, 4] = logits[2, 1, 3] = -1.0  # The second misses a slice of three, the third two.
    style = replace(PAPER_STYLE, radius=0)
    for placement in (Placement(), Placement(spread=1e-3)):
        channels = simulate(lambda x: logits, batch, 0, style, placement, hard_clicks=1)
        assert not channels[0].any()
        for index in (1, 2):
            assert channels[index, CLICK].sum() == 1
            assert torch.equal(channels[index, PREVIOUS] > 0, logits[index, 1] > 0)
