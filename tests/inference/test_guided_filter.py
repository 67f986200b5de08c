"""Borders that follow the image's edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import TINY
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from inference.case import Case, ObjectPrompts
from inference.deadline import Deadline
from inference.geometry import Box
from inference.guided_filter import CLEAR, EPSILON, RADIUS, GuidedFilter, _mean
from inference.normalization import NormalizedImage
from inference.predictor import Predictor
from inference.refinement import ONE_FORWARD
from inference.segmenter import Segmenter, segment_case
from inference.window import Window

PATCH = (16, 16, 16)
SHAPE = (40, 48, 44)
WINDOW = Window((4, 8, 6), (32, 32, 32), PATCH)


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """Signed distance to a ball's border, positive inside."""
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    return radius - np.sqrt(sum((v - c) ** 2 for v, c in zip((z, y, x), centre)))


def phantom(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in the middle of the window, and its mask."""
    truth = ball(SHAPE, (20, 24, 22), 9) > 0
    image = 50 + 100 * truth + np.random.default_rng(0).normal(0, noise, SHAPE)
    return image.astype(np.float32), truth


def whole(slabs, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    values = torch.full(shape, -9.0)
    for where, slab in slabs:
        values[where.slices] = slab
    return values


def followed(image: np.ndarray, log_odds: Tensor, window: Window = WINDOW) -> Tensor:
    normalized = NormalizedImage.of(image)
    fitted = GuidedFilter.fit(
        normalized.crop(window), normalized.crop_squares(window), log_odds, window, Box.of(image.shape)
    )
    return whole(fitted.paste(normalized, window, log_odds, Box.of(image.shape)), image.shape)


def dice(log_odds: Tensor, truth: np.ndarray) -> float:
    found = log_odds.numpy() > 0
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


class TestWhereTheBorderGoes:
    @pytest.mark.parametrize("radius", [4.0, 5.0])
    @pytest.mark.parametrize("noise", [0.0, 15.0])
    def test_a_border_a_voxel_off_goes_to_the_edge(self, radius: float, noise: float) -> None:
        """The ball's radius is 4.5 voxels of the patch."""
        image, truth = phantom(noise)
        log_odds = torch.from_numpy(ball(PATCH, (7.5, 7.5, 7.5), radius)).float()
        before = dice(whole(WINDOW.paste(log_odds, Box.of(SHAPE))), truth)
        assert before < 0.9
        assert dice(followed(image, log_odds), truth) > before + 0.5 * (1 - before)

    def test_noise_is_no_edge(self) -> None:
        """Where the image says nothing p is smoothed: the border moves inwards by less than two voxels of the patch."""
        image = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
        distance = torch.from_numpy(ball(PATCH, (7.5, 7.5, 7.5), 6)).float()
        depth = whole(WINDOW.paste(distance, Box.of(SHAPE)))
        after = followed(image, 2 * distance)
        assert (after[depth > 2] > 0).float().mean() > 0.99
        assert (after[depth < -1] > 0).float().mean() < 0.01

    def test_what_is_clear_stays_as_it_is(self) -> None:
        image, _ = phantom()
        log_odds = 3 * torch.from_numpy(ball(PATCH, (7.5, 7.5, 7.5), 5)).float()
        before = whole(WINDOW.paste(log_odds, Box.of(SHAPE)))
        after = followed(image, log_odds)
        clear = before.abs() >= CLEAR
        assert torch.equal(after[clear], before[clear]) and not torch.equal(after, before)

    @given(scale=st.floats(0.01, 100), offset=st.floats(-1000, 1000))
    def test_the_images_unit_does_not_matter(self, scale: float, offset: float) -> None:
        image, _ = phantom(noise=10)
        log_odds = torch.from_numpy(ball(PATCH, (7.5, 7.5, 7.5), 5)).float()
        plain = followed(image + 1, log_odds)
        # Never 0, which would be outside the image.
        changed = followed((image.astype(np.float64) * scale + 1 + abs(offset)).astype(np.float32), log_odds)
        assert (plain.sign() != changed.sign()).float().mean() < 1e-3


class TestWhatCannotBeFollowed:
    def test_nothing_unclear(self) -> None:
        image = NormalizedImage.of(phantom()[0])
        clear = torch.full(PATCH, -9.0)
        assert GuidedFilter.fit(image.crop(WINDOW), image.crop_squares(WINDOW), clear, WINDOW, Box.of(SHAPE)) is None

    def test_no_contrast(self) -> None:
        log_odds = torch.from_numpy(ball(PATCH, (7.5, 7.5, 7.5), 5)).float()
        assert GuidedFilter.fit(torch.zeros(PATCH), torch.zeros(PATCH), log_odds, WINDOW, Box.of(SHAPE)) is None

    def test_a_border_outside_the_image(self) -> None:
        log_odds = torch.full(PATCH, -9.0)
        log_odds[:2, :2, :2] = 0.0
        window = Window((-20, -20, -20), (32, 32, 32), PATCH)
        assert GuidedFilter.fit(torch.randn(PATCH), torch.ones(PATCH), log_odds, window, Box.of(SHAPE)) is None


def test_it_is_the_published_filter_where_nothing_is_resampled() -> None:
    """Beside the paper's equations, written with plain loops over a few voxels."""
    generator = np.random.default_rng(0)
    guide, p = generator.normal(size=PATCH), generator.uniform(0.1, 0.9, PATCH)
    variance = guide.var(ddof=1)

    def around(place: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(max(v - RADIUS, 0), v + RADIUS + 1) for v in place)

    slope, offset = np.zeros(PATCH), np.zeros(PATCH)
    for place in np.ndindex(PATCH):
        g, q = guide[around(place)], p[around(place)]
        slope[place] = ((g * q).mean() - g.mean() * q.mean()) / (g.var() + EPSILON * variance)
        offset[place] = q.mean() - slope[place] * g.mean()
    window = Window((0, 0, 0), PATCH, PATCH)
    log_odds = torch.logit(torch.from_numpy(p)).float()
    fitted = GuidedFilter.fit(
        torch.from_numpy(guide).float(), torch.from_numpy(guide**2).float(), log_odds, window, window.box
    )
    image = NormalizedImage(torch.from_numpy(guide).float(), window.box, 1.0, 0.0)
    found = torch.sigmoid(whole(fitted.paste(image, window, log_odds, window.box), PATCH))
    for place in [(0, 0, 0), (5, 8, 11), (15, 2, 7)]:
        expected = slope[around(place)].mean() * guide[place] + offset[around(place)].mean()
        assert found[place].item() == pytest.approx(np.clip(expected, 0.01, 0.99), abs=1e-4)


def test_the_mean_near_a_face_is_of_what_lies_inside() -> None:
    torch.testing.assert_close(_mean(torch.ones(PATCH), 2), torch.ones(PATCH))


@pytest.mark.parametrize("size", [(16, 16, 16), (8, 16, 12), (16, 32, 16)])
def test_lines_are_fitted_within_the_radius(size: tuple[int, int, int]) -> None:
    """What differs at one voxel reaches the lines fitted around it, and the mean of those."""
    image = torch.from_numpy(np.random.default_rng(0).normal(size=PATCH)).float()
    log_odds = torch.zeros(PATCH)
    log_odds[8, 8, 8] = 1.0
    fitted = GuidedFilter.fit(image, image.square(), log_odds, Window((0, 0, 0), size, PATCH), Box.of(size))
    reached = (fitted.slope.abs() > 1e-6).nonzero()
    assert (reached.amin(dim=0) == 8 - 2 * RADIUS).all() and (reached.amax(dim=0) == 8 + 2 * RADIUS).all()


class TestInTheSegmenter:
    class Off(nn.Module):
        """Draws a ball that is too small."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(ball(PATCH, (7.5, 7.5, 7.5), 5.0)).float()[None, None]

    BOX = Box((11, 15, 13), (29, 33, 31))

    def segment(self, guided_filter: bool, seconds: float = 600, box: Box = BOX) -> float:
        image, truth = phantom(noise=5)
        case = Case("a.npz", image, (1, 1, 1), (ObjectPrompts(1, box),))
        predictor = Predictor(self.Off(), TINY, torch.device("cpu"), {PATCH: 0.001})
        tool = Segmenter(predictor, replace(ONE_FORWARD, guided_filter=guided_filter))
        self.said: list[str] = []
        labels = segment_case(case, tool, Deadline(seconds), log=self.said.append)
        return 2 * (truth & (labels == 1)).sum() / (truth.sum() + (labels == 1).sum())

    def test_the_setting_decides(self) -> None:
        assert self.segment(guided_filter=True) > self.segment(guided_filter=False) + 0.05
        assert self.said == []

    def test_an_object_that_fits_is_left_alone(self) -> None:
        """Its window reaches over the edge, and is not quite large enough."""
        fits = Box((13, 17, 15), (27, 31, 29))
        assert self.segment(guided_filter=False, box=fits) == self.segment(guided_filter=True, box=fits)
        assert self.said == []

    def test_nothing_is_followed_without_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = self.segment(guided_filter=False)
        monkeypatch.setattr("inference.refinement.FILTER_VOXELS_PER_SECOND", 1.0)
        assert self.segment(guided_filter=True) == plain
        assert self.said == ["object 1: no time for the guided filter"]
