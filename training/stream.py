"""The stream of samples: the same with any number of workers or processes, from whatever step it is taken up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config import TrainingConfig
from training.dataset import Volume
from training.sample import (
    Sample,
    file_probabilities,
    make_drawn_sample,
    make_finer_sample,
    make_region_sample,
    make_sample,
)
from training.shapes.library import LabelMap

FINER_ATTEMPTS = 30
"""Objects that are tried until one is larger than the patch."""


@dataclass(frozen=True)
class Batch:
    """What one forward is given.

    Args:
        channels: (N, 8, D, H, W) float32.
        truth: (N, D, H, W) bool.
        first_click: (N,) bool, as in :class:`training.sample.Sample`.
    """

    channels: Tensor
    truth: Tensor
    first_click: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(self.channels.to(device, non_blocking=True), self.truth.to(device), self.first_click)

    def pin_memory(self) -> Batch:
        return Batch(self.channels.pin_memory(), self.truth.pin_memory(), self.first_click)


@dataclass(frozen=True)
class Step:
    """The batches of one step of the optimizer in one process, and the rounds of clicks that they get.

    Args:
        finer_look: whether the batches are of finer patches.
    """

    batches: list[Batch]
    clicks: int
    finer_look: bool = False

    @property
    def samples(self) -> int:
        """Of this process."""
        return sum(len(batch.truth) for batch in self.batches)

    def pin_memory(self) -> Step:
        return Step([batch.pin_memory() for batch in self.batches], self.clicks, self.finer_look)


class Steps(Dataset[Step]):
    """Step number -> :class:`Step`.

    Every sample has a generator of its own, seeded by run, step and place in the step, so that two processes with a
    batch of n draw what one with a batch of 2 n draws.

    Args:
        shapes: label maps without images; their share of the samples is procedural where there are none.
    """

    def __init__(
        self,
        volumes: list[Volume],
        config: TrainingConfig,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        shapes: Sequence[LabelMap] = (),
    ):
        self.volumes, self.config, self.seed, self.shapes = volumes, config, seed, list(shapes)
        self.rank, self.processes = rank, processes
        self.probabilities = file_probabilities(volumes, config.sampling)

    def __getitem__(self, step: int) -> Step:
        config = self.config
        random = np.random.default_rng((self.seed, step))
        clicks = random.choice(len(config.sampling.clicks), p=config.sampling.clicks)
        finer_look = bool(random.random() < config.sampling.finer_look) and config.model.finer > 1
        size, sample = (config.finer_batch, self.finer_sample) if finer_look else (config.batch, self.sample)
        batches = []
        for forward in range(config.accumulate):
            first = (forward * self.processes + self.rank) * size
            batches.append(collate([sample(step, first + place) for place in range(size)]))
        return Step(batches, int(clicks), finer_look)

    def sample(self, step: int, place: int) -> Sample:
        random = np.random.default_rng((self.seed, step, place))
        made = self._made_sample(random.random(), random)
        if made is not None:
            return made
        volume = self._volume(random)
        return make_sample(volume, int(random.choice(list(volume.objects))), self.config, random)

    def _volume(self, random: np.random.Generator) -> Volume:
        return self.volumes[random.choice(len(self.volumes), p=self.probabilities)]

    def _made_sample(self, chance: float, random: np.random.Generator, finer: int = 1) -> Sample | None:
        """A sample of no labelled object of an image, of the kind that ``chance``, in [0, 1), falls to; None beyond."""
        sampling = self.config.sampling
        if chance < sampling.procedural:
            return make_drawn_sample([], self.config, random, finer)
        if chance < sampling.procedural + sampling.shapes:
            return make_drawn_sample(self.shapes, self.config, random, finer)
        if chance < sampling.procedural + sampling.shapes + sampling.regions:
            return make_region_sample(self._volume(random), self.config, random, finer)
        return None

    def finer_sample(self, step: int, place: int) -> Sample:
        """A sample for a finer look: made, or of a real object larger than the patch, if one is soon found."""
        random = np.random.default_rng((self.seed, step, place))
        sampling, sample, attempts = self.config.sampling, None, 0
        if random.random() < sampling.finer_made:
            made = sampling.procedural + sampling.shapes + sampling.regions
            sample = self._made_sample(made * random.random(), random, self.config.model.finer)
        while sample is None:
            attempts += 1
            volume = self._volume(random)
            label = int(random.choice(list(volume.objects)))
            any_size = attempts == FINER_ATTEMPTS
            sample = make_finer_sample(volume, label, self.config, random, any_size)
        return sample


def collate(samples: list[Sample]) -> Batch:
    return Batch(
        torch.stack([sample.channels for sample in samples]),
        torch.stack([sample.truth for sample in samples]),
        torch.tensor([sample.first_click for sample in samples]),
    )


def stream(steps: Steps, first: int, last: int, workers: int, device: torch.device) -> Iterable[Step]:
    """The steps from ``first`` to before ``last``, in order, drawn ahead by ``workers`` processes (0: by this one)."""
    return DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        # Volumes are read before the fork, so workers share them instead of holding copies.
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_worker,
    )


def _worker(_: int) -> None:
    torch.set_num_threads(1)
    # A signal to the run's process group, as Ctrl-C sends it, must not end them before the run does: they have a group
    # of their own. Where the run cannot ask them to end, it terminates them, and then waits: SIGTERM must not be ignored.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
