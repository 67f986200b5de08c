"""Objects larger than the patch: found coarsely, then looked at again in more voxels, if there is time."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import TINY
from torch import Tensor, nn

from inference.case import Case, ObjectPrompts
from inference.deadline import Deadline
from inference.geometry import Box
from inference.predictor import Predictor
from inference.prompts import IMAGE, PREVIOUS
from inference.refinement import ONE_FORWARD
from inference.segmenter import Segmenter, segment_case

PATCH, FINE = (16, 16, 16), (32, 32, 32)
SO_FAR = "object 1: taking what the network has said so far"


class Bright(nn.Module):
    """Takes what is brighter than the mean for the object; remembers what it was shown."""

    def __init__(self, seconds: float = 0.0, fine_seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = {PATCH: seconds, FINE: fine_seconds}
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x[0])
        time.sleep(self.seconds[tuple(x.shape[2:])])
        return 20 * x[:, IMAGE : IMAGE + 1]

    @property
    def patches(self) -> list[tuple[int, ...]]:
        return [tuple(x.shape[1:]) for x in self.shown]


def segmenter(network: nn.Module, times: int = 2, **settings: bool) -> Segmenter:
    config = replace(TINY, finer=times, temperature=3.0)
    predictor = Predictor(network, config, torch.device("cpu"), {PATCH: 1e-3})
    return Segmenter(predictor, replace(ONE_FORWARD, **({"fine_pass": True} | settings)))


def comb() -> Case:
    """A large object with a fine structure: plates of three voxels, three apart, that a coarse look cannot part."""
    image = np.full((64, 64, 64), 10, np.uint8)
    image[8:56, 8:56, 8:56][:, np.arange(48) % 6 < 3] = 200
    return Case("a.npz", image, (1, 1, 1), (ObjectPrompts(1, Box((8, 8, 8), (55, 55, 55))),))


def dice(labels: np.ndarray, case: Case) -> float:
    found, truth = labels == 1, case.image == 200
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def seen_coarsely(case: Case) -> np.ndarray:
    return segment_case(case, segmenter(Bright(), times=1), Deadline(600), log=pytest.fail)


def test_detail_that_the_coarse_look_loses_comes_back() -> None:
    case = comb()
    coarse = seen_coarsely(case)
    network = Bright()
    fine = segment_case(case, segmenter(network), Deadline(600), log=pytest.fail)
    assert network.patches == [PATCH, FINE]
    assert dice(fine, case) > dice(coarse, case) + 0.1


def test_it_is_shown_what_was_seen_coarsely_as_it_was_in_training() -> None:
    """Probabilities before the temperature, interpolated."""
    network = Bright()
    segment_case(comb(), segmenter(network), Deadline(600), log=pytest.fail)
    coarse, fine = network.shown
    assert not coarse[PREVIOUS].any()
    odds = torch.nn.functional.interpolate(20 * coarse[IMAGE][None, None], scale_factor=2, mode="trilinear")[0, 0]
    torch.testing.assert_close(fine[PREVIOUS], torch.sigmoid(odds), rtol=1e-4, atol=1e-4)


def test_an_object_that_fits_is_looked_at_once() -> None:
    image = np.full((40, 40, 40), 10, np.uint8)
    image[10:22, 10:22, 10:22] = 200
    network = Bright()
    case = Case("a.npz", image, (1, 1, 1), (ObjectPrompts(1, Box((10, 10, 10), (21, 21, 21))),))
    segment_case(case, segmenter(network), Deadline(600), log=pytest.fail)
    assert network.patches == [PATCH]


def test_weights_that_were_not_taught_to_and_efforts_that_do_not_want_to_look_once() -> None:
    for tool in (segmenter(Bright(), times=1), segmenter(Bright(), fine_pass=False)):
        segment_case(comb(), tool, Deadline(600), log=pytest.fail)
        assert tool.predictor.network.patches == [PATCH]


def test_it_is_left_out_where_there_is_no_time() -> None:
    """Half a second a coarse look: a fine one would take four, and there are about two."""
    network = Bright(seconds=0.5, fine_seconds=4.0)
    tool = segmenter(network)
    tool.predictor.seconds = {PATCH: 0.5}
    said: list[str] = []
    began = time.monotonic()
    labels = segment_case(comb(), tool, Deadline(3.5), log=said.append)
    assert time.monotonic() - began < 3.5
    assert network.patches == [PATCH] and labels.any()
    assert said == ["object 1: no time for the fine pass"]
    assert tool.reports[1].given_up == ("no time for the fine pass",)


def test_it_is_said_that_a_smaller_patch_has_none() -> None:
    class SmallMemory(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] >= PATCH[0]:
                raise MemoryError
            return 20 * x[:, IMAGE : IMAGE + 1]

    tool = segmenter(SmallMemory())
    assert segment_case(comb(), tool, Deadline(600), log=lambda line: None).any()
    assert tool.reports[1].given_up == (f"out of memory with a patch of {PATCH}", "no fine pass with a smaller patch")


def test_what_was_seen_before_it_stalled_is_kept() -> None:
    """A fine look that takes longer than it should: the coarse one counts, and the run is in time."""
    said: list[str] = []
    network = Bright(fine_seconds=4.0)
    began = time.monotonic()
    labels = segment_case(comb(), segmenter(network), Deadline(2.5), log=said.append)
    assert time.monotonic() - began < 2.5
    assert network.patches == [PATCH, FINE] and SO_FAR in said
    np.testing.assert_array_equal(labels, seen_coarsely(comb()))


def test_what_was_seen_before_it_ran_out_of_memory_is_kept() -> None:
    class Greedy(Bright):
        def forward(self, x: Tensor) -> Tensor:
            if tuple(x.shape[2:]) == FINE:
                raise MemoryError
            return super().forward(x)

    said: list[str] = []
    network = Greedy()
    labels = segment_case(comb(), segmenter(network), Deadline(600), log=said.append)
    assert network.patches == [PATCH]
    assert said == ["object 1: out of memory", SO_FAR]
    np.testing.assert_array_equal(labels, seen_coarsely(comb()))


def test_what_was_seen_before_an_error_is_kept_and_the_error_counted(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Bright):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (float("nan") if tuple(x.shape[2:]) == FINE else 1.0)

    said: list[str] = []
    network = Broken()
    tool = segmenter(network)
    labels = segment_case(comb(), tool, Deadline(600), log=said.append)
    assert network.patches == [PATCH, FINE, FINE]
    assert said == ["object 1: ArithmeticError: the network's output is not finite", SO_FAR]
    assert tool.failures == 1 and "ArithmeticError" in capsys.readouterr().err
    np.testing.assert_array_equal(labels, seen_coarsely(comb()))


def test_edges_are_followed_from_the_finer_patch() -> None:
    case = comb()
    tool = segmenter(Bright(), guided_filter=True)
    followed = segment_case(case, tool, Deadline(600), log=pytest.fail)
    assert tool.predictor.network.patches == [PATCH, FINE]
    assert dice(followed, case) > 0.8
