"""Objects side by side: what shares a forward, and that nobody is the worse for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.case import Case, Click, ObjectPrompts
from inference.deadline import Deadline
from inference.geometry import Box
from inference.network import LogOddsUNet, ResidualEncoderUNet
from inference.predictor import LARGEST_BATCH, SAFETY, Predictor
from inference.prompts import BOX, IMAGE
from inference.refinement import RefinementConfig
from inference.segmenter import Segmenter, segment_case
from tests.inference.factories import TINY, randomized, volume

SHAPE = (20, 30, 40)
PATCH = TINY.patch
CPU = torch.device("cpu")
PLENTY = 1000.0

OBJECTS = (
    ObjectPrompts(1, Box((2, 3, 4), (8, 10, 12))),
    ObjectPrompts(2, Box((0, 0, 0), (19, 29, 39))),
    ObjectPrompts(3, clicks=(Click((3, 22, 33), True),)),
    ObjectPrompts(4, Box((10, 18, 20), (15, 25, 28)), (Click((12, 20, 22), True), Click((11, 19, 21), False))),
    ObjectPrompts(5, clicks=(Click((15, 5, 30), True), Click((3, 5, 30), False))),
)
"""With a box that fits, one larger than the patch, and without one: they need different numbers of forwards."""


class Watched(nn.Module):
    """Lets a network answer, after it was told the shape of the batch."""

    def __init__(self, answer: Callable[[Tensor], Tensor], hook: Callable[[Tensor], object] = lambda x: None) -> None:
        super().__init__()
        self.answer, self.hook = answer, hook
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.any():  # Not what only measures.
            self.batches.append(len(x))
            self.hook(x)
        return self.answer(x)


def box(x: Tensor) -> Tensor:
    return x[:, BOX : BOX + 1] * 8 - 4


def case(*objects: ObjectPrompts, previous: np.ndarray | None = None) -> Case:
    return Case("a.npz", volume(SHAPE), (1.0, 1.0, 1.0), objects, previous)


def boxed(count: int) -> Case:
    return case(*(ObjectPrompts(n + 1, Box((2, 3, 6 * n), (8, 10, 6 * n + 4))) for n in range(count)))


def filled(count: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for n in range(count):
        labels[2:9, 3:11, 6 * n : 6 * n + 5] = n + 1
    return labels


def tool(network: nn.Module, batch: int | None, **settings: bool) -> Segmenter:
    """A segmenter that looks at a large object twice."""
    return Segmenter(Predictor(network.eval(), replace(TINY, finer=2), CPU, batch=batch), RefinementConfig(**settings))


@pytest.mark.parametrize("seen_before", [False, True])
def test_masks_are_those_of_one_after_another(seen_before: bool) -> None:
    """Every voxel of the label map, with a random U-Net whose log-odds differ by the rounding of a batch."""
    network = LogOddsUNet(randomized(ResidualEncoderUNet(TINY.network)))
    previous = None
    if seen_before:
        previous = np.zeros(SHAPE, np.uint8)
        previous[2:6, 3:8, 4:9], previous[10:14, 18:22, 20:25] = 1, 4
    maps, forwards = [], []
    for batch in (1, 3):
        watched = Watched(network)
        labels = segment_case(
            case(*OBJECTS, previous=previous), tool(watched, batch), Deadline(PLENTY), log=pytest.fail
        )
        maps.append(labels)
        forwards.append(watched.batches)
    np.testing.assert_array_equal(*maps)
    assert set(np.unique(maps[0])) > {0, 1}
    assert set(forwards[0]) == {1} and sum(forwards[0]) == sum(forwards[1])
    assert forwards[1][0] == 3 and len(forwards[1]) < len(forwards[0])


def test_answers_are_those_of_one_after_another() -> None:
    network = LogOddsUNet(randomized(ResidualEncoderUNet(TINY.network))).eval()
    requests = list(torch.randn(5, 8, *PATCH, generator=torch.Generator().manual_seed(0)))
    alone = [Predictor(network, TINY, CPU).predict([request])[0] for request in requests]
    together = Predictor(network, TINY, CPU, batch=3).predict(requests)
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_on_a_cpu_each_has_a_forward_of_its_own() -> None:
    network = Watched(box)
    np.testing.assert_array_equal(segment_case(boxed(5), tool(network, None), Deadline(PLENTY)), filled(5))
    assert network.batches == [1] * 5


def test_passes_that_need_patches_of_another_shape_go_on_together() -> None:
    """Two objects larger than the patch have a fine pass, the third one not."""
    network = Watched(lambda x: 20 * x[:, IMAGE : IMAGE + 1])
    wide = Box((0, 0, 0), (19, 29, 39))
    objects = (ObjectPrompts(1, wide), ObjectPrompts(2, Box((2, 3, 4), (8, 10, 12))), ObjectPrompts(3, wide))
    predictor = Predictor(network, replace(TINY, finer=2), CPU, batch=3)
    segment_case(case(*objects), Segmenter(predictor), Deadline(PLENTY), log=pytest.fail)
    assert network.batches == [3, 2]


class TestMemory:
    def test_a_batch_that_does_not_fit_is_halved_until_it_does(self) -> None:
        def hook(x: Tensor) -> None:
            if len(x) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        network = Watched(box, hook)
        segmenter = tool(network, 4)
        labels = segment_case(boxed(6), segmenter, Deadline(PLENTY), log=pytest.fail)
        np.testing.assert_array_equal(labels, filled(6))
        assert network.batches == [4, 2, 1, 1, 1, 1, 1, 1], "what did not fit is not tried again"

    def test_an_object_that_needs_too_much_takes_a_smaller_patch_and_the_others_do_not(self) -> None:
        def hook(x: Tensor) -> None:
            if x.shape[2:] == PATCH and x[:, BOX].sum(dim=(1, 2, 3)).gt(300).any():
                raise torch.OutOfMemoryError("CUDA out of memory.")

        large = ObjectPrompts(4, Box((10, 10, 10), (17, 17, 17)))
        network, said = Watched(box, hook), []
        labels = segment_case(case(*boxed(3).objects, large), tool(network, 4), Deadline(PLENTY), log=said.append)
        np.testing.assert_array_equal(labels * (labels < 4), filled(3))
        assert said == [
            "object 4: out of memory with a patch of (16, 16, 16)",
            "object 4: no fine pass with a smaller patch",
        ]
        assert labels[10:18, 10:18, 10:18].mean() > 3

    def test_as_many_as_the_free_memory_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A sample of 16³ took 1,000 bytes; those of 32³ will take eight times as much."""
        predictor = Predictor(Watched(box), TINY, torch.device("cuda"))
        assert predictor.batch_size(PATCH) == 1, "nothing is measured yet"
        predictor._bytes = {PATCH: 1000.0}
        free = {"driver": 0, "reserved": 0, "allocated": 0}
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["driver"], 10**9))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: free["reserved"])
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: free["allocated"])
        for driver, held, expected in ((0, 0, 1), (5000 * SAFETY, 0, 5), (2000 * SAFETY, 3000 * SAFETY, 5)):
            free.update(driver=driver + 1, reserved=held + 77, allocated=77)
            assert predictor.batch_size(PATCH) == expected
            assert predictor.batch_size((32, 32, 32)) == 1
        free.update(driver=10**9)
        assert predictor.batch_size(PATCH) == predictor.batch_size((32, 32, 32)) == LARGEST_BATCH


def test_an_answer_that_is_not_finite_is_no_other_objects_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(x: Tensor) -> Tensor:
        broken = x[:, BOX].sum(dim=(1, 2, 3)) > 300
        return torch.where(broken.view(-1, 1, 1, 1, 1), torch.nan, box(x))

    large = ObjectPrompts(4, Box((10, 10, 10), (17, 17, 17)))
    said: list[str] = []
    segmenter = tool(Watched(answer), 4)
    labels = segment_case(case(*boxed(3).objects, large), segmenter, Deadline(PLENTY), log=said.append)
    np.testing.assert_array_equal(labels * (labels < 4), filled(3))
    assert said == [
        "object 4: ArithmeticError: the network's output is not finite",
        "object 4: taking the ellipsoid in its box",
    ]
    assert segmenter.failures == 1 and "ArithmeticError" in capsys.readouterr().err


class TestTime:
    def test_objects_side_by_side_have_no_more_of_it(self) -> None:
        """33 s an object, where 39 s are expected of each."""
        network = Watched(box)
        segmenter = tool(network, 3)
        segmenter.predictor.seconds = {PATCH: 30.0, (8, 8, 8): 0.001}
        said: list[str] = []
        segment_case(boxed(3), segmenter, Deadline(100), log=said.append)
        assert network.batches == [3]
        assert [line.partition(" (16")[0] for line in said] == [
            *(f"object {n}: no time for a patch of" for n in (1, 2, 3)),
            *(f"object {n}: no fine pass with a smaller patch" for n in (1, 2, 3)),
        ]

    def test_further_passes_are_paid_by_all_that_go_on(self) -> None:
        """Three of 39 s do not fit into 99 s; two do, once the first object goes without."""
        network = Watched(box)
        segmenter = tool(network, 3, guided_filter=False)

        def slower(x: Tensor) -> None:
            segmenter.predictor.expected_seconds = lambda patch: 39.0

        network.hook = slower
        wide = Box((0, 0, 0), (19, 29, 39))
        said: list[str] = []
        segment_case(case(*(ObjectPrompts(n, wide) for n in (1, 2, 3))), segmenter, Deadline(100), log=said.append)
        assert network.batches == [3, 2]
        assert said == ["object 1: no time for the fine pass"]

    def test_what_was_said_before_a_batch_stalled_is_kept(self) -> None:
        release = threading.Event()
        network = Watched(box, lambda x: len(network.batches) == 2 and release.wait(60))
        wide = Box((0, 0, 0), (19, 29, 39))
        said: list[str] = []
        labels = segment_case(
            case(*(ObjectPrompts(n, wide) for n in (1, 2))), tool(network, 2), Deadline(2.5), log=said.append
        )
        assert not release.is_set()
        release.set()
        assert [line for line in said if "too slow" not in line] == [
            f"object {n}: taking what the network has said so far" for n in (1, 2)
        ]
        assert labels.any()
