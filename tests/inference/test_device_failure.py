"""A GPU that fails: what is said, who answers instead, and that the dead device is left alone.

A device that can fail is played by a predictor that knows how to be loaded again; nothing here needs a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference import predictor as predictor_module
from inference.case import Case, ObjectPrompts
from inference.checkpoint import CheckpointError
from inference.deadline import Deadline
from inference.geometry import Box
from inference.predictor import DeviceError, DeviceFailure, Predictor, is_out_of_memory, load_predictor
from inference.prompts import BOX
from inference.refinement import RefinementConfig
from inference.segmenter import Segmenter, load_segmenter, segment_case
from tests.inference.factories import TINY, volume

SHAPE = (20, 30, 40)
BOXES = Box((2, 3, 4), (8, 10, 12)), Box((10, 18, 20), (15, 25, 28)), Box((1, 20, 30), (4, 25, 36))
CPU = torch.device("cpu")
PLENTY = 1000.0

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA; CUDACachingAllocator"
"""Of the kind after which every call fails, and with words in it that out of memory has too."""

NO_KERNEL = NotImplementedError("Could not run 'aten::convolution' with arguments from the 'CUDA' backend")


class Counted(nn.Module):
    """Answers with the box; before its forward of this number (from 1), raises, and from then on always."""

    def __init__(self, fails_at: int = 10**9, error: Callable[[], Exception] = lambda: RuntimeError(ILLEGAL)) -> None:
        super().__init__()
        self.fails_at, self.error = fails_at, error
        self.forwards = 0
        self.patches: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        self.patches.append(tuple(x.shape[2:]))
        if self.forwards >= self.fails_at:
            raise self.error()
        return x[:, BOX : BOX + 1] * 8 - 4


def failing(network: nn.Module, on_cpu: nn.Module, batch: int | None = None) -> Segmenter:
    """A segmenter on a device that may fail; ``on_cpu`` answers after that."""
    return Segmenter(Predictor(network, TINY, CPU, batch=batch, reload=lambda: Predictor(on_cpu, TINY, CPU)))


def boxed(*boxes: Box) -> Case:
    objects = tuple(ObjectPrompts(label, box) for label, box in enumerate(boxes, start=1))
    return Case("a.npz", volume(SHAPE), (1.0, 1.0, 1.0), objects)


def filled(*boxes: Box) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for label, box in enumerate(boxes, start=1):
        labels[box.slices] = label
    return labels


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("fails_at", [1, 3, 4, 5, 6], ids="forward {}".format)
def test_the_cpu_segments_this_object_and_all_that_follow(fails_at: int, batch: int | None) -> None:
    """The first three forwards measure what one costs, the others are one an object, or one for all of them."""
    gpu, cpu, said = Counted(fails_at), Counted(), []
    tool = failing(gpu, cpu, batch)
    labels = segment_case(boxed(*BOXES), tool, Deadline(PLENTY), log=said.append)
    np.testing.assert_array_equal(labels, filled(*BOXES))
    if batch is not None and fails_at > 4:
        assert said == [] and gpu.forwards == 4
        return
    assert gpu.forwards == fails_at, "it is not touched again"
    (line,) = said
    assert line.startswith("cpu: RuntimeError: CUDA error: an illegal memory access was encountered Compile with")
    assert line.endswith("; the CPU is used from now on") and "\n" not in line
    assert tool.failures == 0
    assert tool.reports[3].given_up == ("cpu failed",), "the device is played by the CPU"
    assert cpu.patches[:3] == [(4, 4, 4)] * 3, "measured before it is trusted"
    assert cpu.patches[3:] == [(16, 16, 16)] * (3 if batch else 7 - max(fails_at, 4))
    # The next case does not even ask the device, and need not measure again.
    segment_case(boxed(BOXES[0]), tool, Deadline(PLENTY), log=pytest.fail)
    assert gpu.forwards == fails_at and cpu.patches[-1] == (16, 16, 16) and cpu.patches.count((4, 4, 4)) == 3


@pytest.mark.parametrize(
    "error", [RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), NO_KERNEL], ids=["cudnn", "kernel"]
)
def test_whatever_the_driver_says(error: Exception) -> None:
    said: list[str] = []
    tool = failing(Counted(1, lambda: error), Counted())
    np.testing.assert_array_equal(
        segment_case(boxed(BOXES[0]), tool, Deadline(PLENTY), log=said.append), filled(BOXES[0])
    )
    assert said == [f"cpu: {type(error).__name__}: {error}; the CPU is used from now on"]


def test_out_of_memory_with_the_smallest_patch_is_one_too() -> None:
    gpu, cpu, said = Counted(4, lambda: torch.OutOfMemoryError("CUDA out of memory.")), Counted(), []
    labels = segment_case(boxed(*BOXES), failing(gpu, cpu), Deadline(PLENTY), log=said.append)
    np.testing.assert_array_equal(labels, filled(*BOXES))
    assert gpu.patches[3:] == [(16, 16, 16), (8, 8, 8), (4, 4, 4)]
    assert said == [
        *(f"object 1: out of memory with a patch of {patch}" for patch in gpu.patches[3:]),
        "cpu: out of memory; the CPU is used from now on",
    ]


def test_the_deadline_holds_on_the_cpu_too() -> None:
    """By what is measured there, no patch fits."""

    class Slow(Predictor):
        def measure(self) -> None:
            self.seconds = {(4, 4, 4): 10**6}

    cpu, said = Counted(), []
    tool = failing(Counted(4), Counted())
    tool.predictor.reload = lambda: Slow(cpu, TINY, CPU)
    labels = segment_case(boxed(BOXES[0]), tool, Deadline(PLENTY), log=said.append)
    assert cpu.forwards == 0
    assert [line.rpartition(" (")[0] for line in said[1:-1]] == [
        f"object 1: no time for a patch of {(n, n, n)}" for n in (16, 8, 4)
    ]
    assert said[-1] == "object 1: taking the ellipsoid in its box"
    assert labels[BOXES[0].slices].any()


def test_what_the_device_had_said_counts_where_the_cpu_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The device fails in an object's second forward, and the file of the weights is gone."""

    def gone() -> Predictor:
        raise CheckpointError("weights.pt: no such file")

    wide = Box((1, 1, 1), (18, 28, 38))
    case = boxed(wide)
    tool = failing(Counted(5), Counted())
    tool.refinement = RefinementConfig(guided_filter=False)
    tool.predictor.config = replace(TINY, finer=2)
    tool.predictor.reload = gone
    said: list[str] = []
    labels = segment_case(case, tool, Deadline(PLENTY), log=said.append)
    assert said[1:] == [
        "object 1: CheckpointError: weights.pt: no such file",
        "object 1: taking what the network has said so far",
    ]
    assert tool.failures == 1 and "CheckpointError" in capsys.readouterr().err
    overlap = 2 * (labels * filled(wide)).sum() / (labels.sum() + filled(wide).sum())
    assert overlap > 0.9


def test_without_another_device_an_error_stays_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    tool, said = Segmenter(Predictor(Counted(4), TINY, CPU)), []
    segment_case(boxed(BOXES[0]), tool, Deadline(PLENTY), log=said.append)
    assert tool.failures == 1 and said[-1] == "object 1: taking the ellipsoid in its box"
    assert "illegal memory access" in capsys.readouterr().err


def test_a_bug_is_no_failure_of_the_device() -> None:
    tool = failing(Counted(1, lambda: ValueError("a bug")), Counted()).predictor
    (answer,) = tool.predict([torch.ones(8, 16, 16, 16)])
    assert isinstance(answer, ValueError) and tool.failure is None


def test_a_failure_is_raised_to_whoever_predicts() -> None:
    tool = failing(Counted(1), Counted()).predictor
    with pytest.raises(DeviceFailure, match="illegal memory access"):
        tool.predict([torch.ones(8, 16, 16, 16)])
    assert tool.failure is not None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError(ILLEGAL), False),
        (RuntimeError("CUDA error: unspecified launch failure"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


class TestWeightsOnDisk:
    def test_a_device_that_cannot_compute_costs_nothing_but_time(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Torch's meta device takes tensors and gives no numbers; here it is let past the door."""
        monkeypatch.setattr(predictor_module, "_device", torch.device)
        tool, said = load_segmenter(weights, "meta"), []
        assert tool.predictor.device.type == "meta"
        found = segment_case(boxed(*BOXES), tool, Deadline(PLENTY), log=said.append)
        assert tool.predictor.device.type == "cpu" and tool.failures == 0
        assert len(said) == 1 and said[0].startswith("meta: ")
        on_cpu = segment_case(boxed(*BOXES), load_segmenter(weights, "cpu"), Deadline(PLENTY), log=pytest.fail)
        np.testing.assert_array_equal(found, on_cpu)

    def test_a_device_that_does_not_take_the_weights(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(predictor_module, "_device", torch.device)
        monkeypatch.setattr(nn.Module, "to", refuse)
        assert load_predictor(weights, "meta").device.type == "cpu"
        assert capsys.readouterr().out == (
            "the weights cannot be brought to meta, the CPU is used: CUDA out of memory.\n"
        )

    def test_nobody_who_hears_of_it_costs_no_network(self, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(predictor_module, "_device", torch.device)
        monkeypatch.setattr(nn.Module, "to", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.")))
        monkeypatch.setattr(sys, "stdout", Mock(encoding="utf-8", write=Mock(side_effect=OSError(28, "No space left"))))
        assert load_predictor(weights, "meta").device.type == "cpu"

    @pytest.mark.parametrize("device", ["meta", "no device", "cuda:99", "gpu"])
    def test_a_device_that_is_not_there(self, weights: Path, device: str) -> None:
        with pytest.raises(DeviceError) as raised:
            load_predictor(weights, device)
        assert str(raised.value).startswith(f"device {device!r}: ")
        assert str(raised.value).endswith("; expected auto, cpu, or a GPU such as cuda")
        assert "\n" not in str(raised.value)
