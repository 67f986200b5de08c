"""A network on a device, and what a forward costs there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inference.checkpoint import ModelConfig
from inference.command import print_line
from inference.cpu_forward import for_cpu
from inference.geometry import Voxel, three, voxel
from inference.model import load_model
from inference.network import IMAGE_AND_PROMPT_CHANNELS, LogOddsUNet

SAFETY = 1.3
"""A forward may cost this much more than the last one did, in seconds and in bytes."""

LARGEST_BATCH = 8
"""Samples a forward, at most: more of them hardly make a GPU faster."""


class DeviceError(ValueError):
    """A device that was asked for and cannot be used; the message is one line: which, why, what is expected."""


class DeviceFailure(RuntimeError):
    """A device that was in use failed. It must not be touched again: after some errors every later call fails too.

    To drop tensors that lie there is no touch: PyTorch keeps their memory, and calls no driver for it.
    """


@dataclass
class Predictor:
    """A network and what must be known to run it.

    Args:
        network: (N, 8, D, H, W) -> log-odds (N, 1, D, H, W), on ``device``.
        config: its shape, patch and prompt style.
        device: where it runs; float16 on a GPU.
        seconds: patch -> what a sample of that size cost here in the last forward.
        batch: samples a forward, at most; None for as many as a GPU's memory allows, and one elsewhere.
        reload: makes the same predictor on the CPU, should the device fail; None if that cannot be done.
        failure: why the device must not be touched any more, once it failed; ``reload`` is to be used then.
    """

    network: nn.Module
    config: ModelConfig
    device: torch.device
    seconds: dict[Voxel, float] = field(default_factory=dict)
    batch: int | None = None
    reload: Callable[[], Predictor] | None = None
    failure: str | None = None
    _bytes: dict[Voxel, float] = field(default_factory=dict)
    _fitting: dict[Voxel, int] = field(default_factory=dict)

    def predict(self, requests: Sequence[Tensor]) -> list[Tensor | Exception]:
        """What the network says of several patches of one shape, in as few forwards as memory allows.

        A batch that fails is halved, down to one sample: whose fault it is, and how many fit, is known then.

        Args:
            requests: each (8, D, H, W), on the device.

        Returns:
            for each its float32 log-odds (D, H, W) on the device, or the error that it met.

        Raises:
            DeviceFailure: the device failed, and there is another one to try.
        """
        answers: list[Tensor | Exception] = []
        patch = voxel(requests[0].shape[1:])
        size = self.batch_size(patch)
        while len(answers) < len(requests):
            samples = requests[len(answers) : len(answers) + size]
            error = None
            try:
                answers += self.forward(samples[0][None] if len(samples) == 1 else torch.stack(tuple(samples)))
            except Exception as caught:  # It is handed to the object whose it is.
                self.raise_if_device_failed(caught)
                error = caught
            if error is None:
                continue
            if len(samples) == 1:
                answers.append(error)
            size = max(len(samples) // 2, 1)
            if is_out_of_memory(error):
                self._fitting[patch] = size
                error.__traceback__ = None  # It holds the tensors of the forward that failed.
                self.release()
        return answers

    def forward(self, batch: Tensor) -> Tensor:
        """(N, 8, D, H, W) -> float32 log-odds (N, D, H, W), in one forward; remembers what a sample cost."""
        began = time.monotonic()
        before = self._allocated()
        with torch.inference_mode():
            with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
                log_odds = self.network(batch)[:, 0].float()
            # Looking at the values also waits for a GPU, so that the clock below is right.
            if overflown := _not_finite(log_odds):  # Beyond what float16 holds, perhaps.
                index = torch.tensor(overflown, device=self.device)
                log_odds = log_odds.index_copy(0, index, self.network(batch[index])[:, 0])
                if _not_finite(log_odds):
                    raise ArithmeticError("the network's output is not finite")
        patch = voxel(batch.shape[2:])
        self.seconds[patch] = (time.monotonic() - began) / len(batch)
        if before is not None:
            self._bytes[patch] = max(torch.cuda.max_memory_allocated(self.device) - before, 1) / len(batch)
        return log_odds / self.config.temperature

    def measure(self) -> None:
        """Measures what a forward costs with the smallest patch, unless a cost is known."""
        if self.seconds:
            return
        patch = self.patches()[-1]
        probe = torch.zeros((1, IMAGE_AND_PROMPT_CHANNELS, *patch), device=self.device)
        costs = []
        for _ in range(3):  # The first one also pays for what is set up once.
            self.forward(probe)
            costs.append(self.seconds[patch])
        self.seconds[patch] = min(costs)

    def patches(self) -> list[Voxel]:
        """The configuration's patch and the smaller ones that the deadline may choose, largest first."""
        stride = self.config.network.stride
        patches = [self.config.patch]
        for divisor in (2, 4):
            # A stage of a single voxel has no deviation to normalize by: two strides are the least.
            smaller = three(max(p // divisor // stride, 2) * stride for p in self.config.patch)
            if smaller < patches[-1]:
                patches.append(smaller)
        return patches

    def expected_seconds(self, patch: Voxel) -> float:
        """What a sample of this patch will cost, from those already run, in proportion to their voxels."""
        return _in_proportion(self.seconds, patch) * SAFETY

    @property
    def batches(self) -> bool:
        """Whether several samples may share a forward."""
        return self.device.type == "cuda" if self.batch is None else self.batch > 1

    def batch_size(self, patch: Voxel) -> int:
        """Samples of this patch that may share a forward: what the free memory holds, by what a forward took."""
        if not self.batches:
            return 1
        most = self.batch or LARGEST_BATCH
        if self.device.type == "cuda":
            if not self._bytes:
                return 1  # Whose memory is measured.
            free, _ = torch.cuda.mem_get_info(self.device)
            free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            most = min(most, int(free / (_in_proportion(self._bytes, patch) * SAFETY)))
        return max(min(most, self._fitting.get(patch, most)), 1)

    def release(self) -> None:
        """Gives memory that is held and not used back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def raise_if_device_failed(self, error: Exception) -> None:
        """Out of memory and errors of other kinds are no failure of the device.

        Raises:
            DeviceFailure: the device failed, and there is another one to try.
        """
        if isinstance(error, DeviceFailure):
            raise error
        reason = f"{type(error).__name__}: {_one_line(error)}"
        if isinstance(error, RuntimeError) and not is_out_of_memory(error) and self.give_up(reason):
            raise DeviceFailure(reason) from error

    def give_up(self, reason: str) -> bool:
        """Notes that the device failed, if there is another one to try; whether there is."""
        if self.reload is None:
            return False
        self.failure = self.failure or reason
        return True

    def _allocated(self) -> int | None:
        """Bytes that are in use before a forward, None where they are not counted."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)


def load_predictor(weights: Path, device: str = "auto") -> Predictor:
    """Weights on disk -> a predictor.

    Args:
        weights: our file, or an nnInteractive folder.
        device: ``auto`` (a GPU that works, else the CPU), or a torch device.

    Raises:
        CheckpointError: the weights cannot be used.
        DeviceError: the device cannot be used.
    """
    chosen = _usable_device() if device == "auto" else _device(device)
    network, config = load_model(weights)
    if chosen.type != "cpu":
        try:
            log_odds = LogOddsUNet(network).eval().to(chosen, memory_format=torch.contiguous_format)  # ty: ignore[no-matching-overload]  # No stub has it.
            # From the file once more, and not from a copy that is kept: a GPU hardly ever fails, and the full network
            # would hold 400 MB for it in every run.
            return Predictor(log_odds, config, chosen, reload=lambda: load_predictor(weights, "cpu"))
        except RuntimeError as error:
            print_line(f"the weights cannot be brought to {chosen}, the CPU is used: {_one_line(error)}")
            network, config = load_model(weights)  # Some of its tensors may be there already.
    return Predictor(for_cpu(LogOddsUNet(network).eval()), config, torch.device("cpu"))


def is_out_of_memory(error: BaseException) -> bool:
    """Torch says it in an error of its own on a GPU, and in words on a CPU or where a driver ran out of it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return "out of memory" in text or ("memory" in text and "alloc" in text and "illegal memory access" not in text)


def _in_proportion(known: dict[Voxel, float], patch: Voxel) -> float:
    """A cost of this patch: the known one, or that of the patch nearest in size, in proportion to their voxels."""
    if patch in known:
        return known[patch]
    nearest = min(known, key=lambda other: abs(np.log(np.prod(other) / np.prod(patch))))
    return known[nearest] * float(np.prod(patch) / np.prod(nearest))


def _not_finite(log_odds: Tensor) -> list[int]:
    """The samples of a batch (N, D, H, W) that hold a value which is not finite."""
    return [index for index, fine in enumerate(torch.isfinite(log_odds).flatten(1).all(dim=1).tolist()) if not fine]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        _compute_on(device)
    except Exception as error:  # Of another kind for each: a name, a build, a driver, a number that is not there.
        # Of a name that is none, PyTorch lists twenty kinds of device, which nobody means.
        reason = "no such kind of device" if "Expected one of" in str(error) else _one_line(error)
        raise DeviceError(f"device {name!r}: {reason}; expected auto, cpu, or a GPU such as cuda") from error
    return device


def _usable_device() -> torch.device:
    if torch.cuda.is_available():
        try:
            _compute_on(torch.device("cuda"))
            return torch.device("cuda")
        except RuntimeError as error:
            print_line(f"the GPU cannot be used, the CPU is: {_one_line(error)}")
    return torch.device("cpu")


def _compute_on(device: torch.device) -> None:
    torch.zeros(1, device=device).tolist()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
