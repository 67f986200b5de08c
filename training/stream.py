"""The stream of samples: the same with any number of workers or processes, from whatever step it is taken up.

Processes draw recipes ahead. For a GPU they go over while it computes, and become batches there; for a CPU the same
processes make the batches too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from training.config import TrainingConfig
from training.dataset import Volume
from training.device_clicks import CHALLENGE, HUMAN, Placement
from training.recipe import PackedRecipes, Recipe, pack
from training.render import Batch, carry, render
from training.sample import file_probabilities, make_drawn_sample, make_finer_sample, make_region_sample, make_sample
from training.shapes.library import LabelMap

FINER_ATTEMPTS = 30
"""Objects that are tried until one is larger than the patch."""

SAMPLE_ATTEMPTS = 5
"""Samples that are tried in place of one that cannot be made; then the run ends, since something is wrong."""

ANEW = 1_000_003
"""Places between a sample and the one drawn instead of it: more than a batch has."""

RESIDENT = 0.1
"""Share of a GPU's memory that volumes may take."""


@dataclass(frozen=True)
class Step:
    """The batches of one step of the optimizer in one process, and the rounds of clicks that they get.

    Args:
        finer_look: whether the batches are of finer patches.
        placement: where in an error the clicks are.
    """

    batches: list[Batch]
    clicks: int
    finer_look: bool = False
    placement: Placement = CHALLENGE

    @property
    def samples(self) -> int:
        """Of this process."""
        return sum(len(batch.truth) for batch in self.batches)


@dataclass(frozen=True)
class StepRecipes:
    """A :class:`Step` before it is made."""

    batches: list[PackedRecipes]
    clicks: int
    finer_look: bool
    placement: Placement

    def pin_memory(self) -> StepRecipes:
        return replace(self, batches=[batch.pin_memory() for batch in self.batches])

    def to(self, device: torch.device) -> StepRecipes:
        return replace(self, batches=[batch.to(device) for batch in self.batches])

    def rendered(self, volumes: Sequence[Volume]) -> Step:
        batches = [render(batch, volumes) for batch in self.batches]
        return Step(batches, self.clicks, self.finer_look, self.placement)


class Steps(Dataset[Step]):
    """Step number -> :class:`Step`, made on the CPU.

    Every sample has a generator of its own, seeded by run, step and place in the step, so that two processes with a
    batch of n draw what one with a batch of 2 n draws.

    Args:
        volumes: in memory or on disk.
        shapes: label maps without images; their share of the samples is procedural where there are none.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        config: TrainingConfig,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        shapes: Sequence[LabelMap] = (),
    ):
        self.volumes, self.config, self.seed, self.shapes = volumes, config, seed, list(shapes)
        self.rank, self.processes = rank, processes
        self.probabilities = file_probabilities(volumes, config.sampling)

    def __getitem__(self, index: int) -> Step:
        return self.recipes(index).rendered(self.volumes)

    def recipes(self, step: int, carried: bool = False) -> StepRecipes:
        """A step before it is made.

        Args:
            carried: whether the recipes carry what is read of the volumes, for a device where these do not lie.
        """
        config = self.config
        random = np.random.default_rng((self.seed, step))
        clicks = random.choice(len(config.sampling.clicks), p=config.sampling.clicks)
        finer_look = bool(random.random() < config.sampling.finer_look) and config.model.finer > 1
        placement = HUMAN if random.random() < config.sampling.human_clicks else CHALLENGE
        size, draw = (config.finer_batch, self.finer_recipe) if finer_look else (config.batch, self.recipe)
        batches = []
        for forward in range(config.accumulate):
            first = (forward * self.processes + self.rank) * size
            drawn = [self._sample(draw, step, first + place) for place in range(size)]
            if carried:
                drawn = [each if each.volume < 0 else carry(each, self.volumes[each.volume]) for each in drawn]
            batches.append(pack(drawn))
        return StepRecipes(batches, int(clicks), finer_look, placement)

    def _sample(self, draw: Callable[[int, int], Recipe], step: int, place: int) -> Recipe:
        """The sample of a place in a step; another one, and a line that says why, if it cannot be made.

        Millions are drawn from whatever volumes there are: one that its code did not foresee must not end a run.
        """
        last = SAMPLE_ATTEMPTS - 1
        for attempt in range(last):
            try:
                return draw(step, place + attempt * ANEW)
            except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:
                what = f"{type(error).__name__}: {error}".replace("\n", " ")
                print(f"step {step}, sample {place}: {what}; another is drawn", file=sys.stderr, flush=True)
        return draw(step, place + last * ANEW)

    def recipe(self, step: int, place: int) -> Recipe:
        """What a sample is made from."""
        random = np.random.default_rng((self.seed, step, place))
        made = self._made(random.random(), random)
        if made is not None:
            return made
        index, volume = self._volume(random)
        recipe = make_sample(volume, int(random.choice(list(volume.objects))), self.config, random)
        return replace(recipe, volume=index)

    def finer_recipe(self, step: int, place: int) -> Recipe:
        """As :meth:`recipe`, for the fine pass: made, or of an object larger than the patch, if one is soon found."""
        random = np.random.default_rng((self.seed, step, place))
        sampling = self.config.sampling
        if random.random() < sampling.finer_made:
            shares = sampling.procedural + sampling.shapes + sampling.regions
            made = self._made(shares * random.random(), random, self.config.model.finer)
            if made is not None:
                return made
        recipe, attempts = None, 0
        while recipe is None:
            attempts += 1
            index, volume = self._volume(random)
            label = int(random.choice(list(volume.objects)))
            any_size = attempts == FINER_ATTEMPTS
            recipe = make_finer_sample(volume, label, self.config, random, any_size)
        return replace(recipe, volume=index)

    def _made(self, chance: float, random: np.random.Generator, finer: int = 1) -> Recipe | None:
        """A sample of no labelled object of an image, of the kind that ``chance``, in [0, 1), falls to; None beyond."""
        sampling = self.config.sampling
        if chance < sampling.procedural:
            return make_drawn_sample([], self.config, random, finer)
        if chance < sampling.procedural + sampling.shapes:
            return make_drawn_sample(self.shapes, self.config, random, finer)
        if chance < sampling.procedural + sampling.shapes + sampling.regions:
            return make_region_sample(self._volume(random)[1], self.config, random, finer)
        return None

    def _volume(self, random: np.random.Generator) -> tuple[int, Volume]:
        index = int(random.choice(len(self.volumes), p=self.probabilities))
        return index, self.volumes[index]


class _Recipes(Dataset[StepRecipes]):
    """Step number -> :class:`StepRecipes`."""

    def __init__(self, steps: Steps, carried: bool) -> None:
        self.steps, self.carried = steps, carried

    def __getitem__(self, index: int) -> StepRecipes:
        return self.steps.recipes(index, self.carried)


def stream(steps: Steps, first: int, last: int, workers: int, device: torch.device) -> Iterable[Step]:
    """The steps from ``first`` to before ``last``, in order, drawn ahead by ``workers`` processes (0: by this one).

    Volumes in memory lie in a GPU's memory too, if they take a small part of it. Of others each recipe carries what its
    window sees, so that what lies in shared memory is larger, and fewer steps are drawn ahead.

    Yields:
        steps whose batches are on the device; first_click stays on the CPU.
    """
    on_cpu = device.type == "cpu"
    carried = not on_cpu and not _resident(steps.volumes, device)
    loader = DataLoader(
        steps if on_cpu else _Recipes(steps, carried),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=(1 if carried else 4) if workers else None,
        # Volumes are read before the fork, so workers share them instead of holding copies.
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_worker,
    )
    return loader if on_cpu else _made_on(device, loader, steps.volumes, carried)


def _resident(volumes: Sequence[Volume], device: torch.device) -> bool:
    """Whether the volumes are to lie on the device."""
    if not isinstance(volumes, list):
        return False
    most = RESIDENT * torch.cuda.get_device_properties(device).total_memory
    return sum(volume.nbytes for volume in volumes) <= most


def _made_on(
    device: torch.device, recipes: Iterable[StepRecipes], volumes: Sequence[Volume], carried: bool
) -> Iterator[Step]:
    """Uploads the volumes once; then each step's recipes while the device still computes the step before."""
    there = volumes if carried else [volume.to(device) for volume in volumes]
    side = torch.cuda.Stream(device)
    ahead = None
    for coming in recipes:
        with torch.cuda.stream(side):
            uploaded = coming.to(device)
            done = side.record_event()
        if ahead is not None:
            yield _made(*ahead, there)
        ahead = uploaded, done
    if ahead is not None:
        yield _made(*ahead, there)


def _made(recipes: StepRecipes, uploaded: torch.cuda.Event, volumes: Sequence[Volume]) -> Step:
    here = torch.cuda.current_stream(recipes.batches[0].content.device)
    here.wait_event(uploaded)
    for batch in recipes.batches:
        # Their memory is the other stream's, which must not have it back before this stream has read it.
        batch.content.record_stream(here)
    return recipes.rendered(volumes)


def _worker(_: int) -> None:
    torch.set_num_threads(1)
    # A signal to the run's process group, as Ctrl-C sends it, must not end them before the run does: they have a group
    # of their own. Where the run cannot ask them to end, it terminates them and waits: SIGTERM must not be ignored.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
