"""All objects of a case, by the best that the time allows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from inference.batches import side_by_side
from inference.case import Case, ObjectPrompts
from inference.checkpoint import ModelConfig
from inference.command import print_traceback
from inference.deadline import Deadline, DeadlineExceeded, Watchdog
from inference.fallback import fallback, fallback_name
from inference.fusion import Fusion, advantages, enforce_prompts, nearness
from inference.geometry import Box, Voxel, label_extents
from inference.normalization import NormalizedImage
from inference.placement import allowed_region
from inference.predictor import DeviceFailure, Predictor, is_out_of_memory, load_predictor
from inference.refinement import Forwards, ObjectRefinement, ObjectReport, PartialPrediction, RefinementConfig

WRITE_VOXELS_PER_SECOND = 2e7
"""For the time that is kept back to fuse and write the result: a slow disk and a slow core."""

FIXED_RESERVE = 1.0
"""Seconds kept back for whatever happens outside this process, such as the container's start and end."""

Result = TypeVar("Result")


@dataclass
class Segmenter:
    """A network on a device, and how it is used.

    Args:
        predictor: the network; one on the CPU takes its place where its device fails.
        refinement: what an object is worth beside one forward.
        failures: objects that met an unexpected error so far, and have what was seen before it or the fallback.
        reports: label -> what became of the object, of the last case.
    """

    predictor: Predictor
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    failures: int = 0
    reports: dict[int, ObjectReport] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return self.predictor.config


def load_segmenter(weights: Path, device: str = "auto") -> Segmenter:
    """Weights on disk -> a segmenter; arguments and errors are those of :func:`inference.predictor.load_predictor`."""
    return Segmenter(load_predictor(weights, device))


def segment_case(
    case: Case,
    segmenter: Segmenter | None,
    deadline: Deadline,
    watchdog: Watchdog | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[tuple[ObjectPrompts, ...]], Iterable[ObjectPrompts]] = iter,
    fusion: Fusion | None = None,
) -> np.ndarray:
    """Segments all objects of a case.

    Every object gets the best that the time left allows: one pass, a pass with a smaller patch, or what needs no
    network (the previous mask, else the box's inscribed ellipsoid). What is given up is said. An object that fails
    harms no other. On a GPU several objects share the network's forwards, as far as its memory allows.

    Args:
        segmenter: None where there are no weights: then nothing but the fallback is left.
        deadline: for this case; some of it is kept back for writing.
        watchdog: a shared one, so that a forward which overran an earlier case is waited for and not doubled.
        log: takes a line for people.
        progress: goes through the objects, and may show people how far it is.
        fusion: an empty one of the image's shape, where it is to be looked at; a new one by default.

    Returns:
        (D, H, W) uint8 label map.
    """
    shape: Voxel = case.image.shape
    fusion = Fusion(shape) if fusion is None else fusion
    reserve = FIXED_RESERVE + case.image.size / WRITE_VOXELS_PER_SECOND
    extents = {} if case.previous is None else label_extents(case.previous)
    settings = RefinementConfig() if segmenter is None else segmenter.refinement
    advantage = advantages(case.objects, extents) if settings.inner_first else {}
    by_clicks = settings.nearest_click and len(case.objects) > 1 and all(each.box is None for each in case.objects)
    network = None if segmenter is None else _CaseSegmenter(case, segmenter, extents, watchdog or Watchdog(), log)
    if segmenter is not None:
        segmenter.reports = {}
    objects, waiting = iter(progress(case.objects)), len(case.objects)
    while waiting:
        end = time.monotonic() + deadline.remaining() - reserve
        began = time.monotonic()
        group = list(islice(objects, 1 if network is None else min(network.group_size(end), waiting)))
        found = [None] * len(group) if network is None else network.segment(group, end, waiting)
        for prompts, slabs in zip(group, found):
            label = prompts.label
            for where, log_odds in slabs or fallback(prompts, case.previous, extents.get(label), shape):
                near = nearness(prompts, where, shape, log_odds.device) if by_clicks else 0.0
                fusion.add(label, where, log_odds, advantage.get(label, near))
        waiting -= len(group)
        if network is not None:
            network.report(group, (time.monotonic() - began) / len(group))
    next(objects, None)  # Only when asked for one more does the progress know that all are done.
    labels = fusion.label_map().numpy()
    enforce_prompts(labels, case.objects)
    return labels


@dataclass(eq=False)
class _ObjectRun:
    """An object on its way through the network.

    Args:
        previous: the extent of its previous mask, if it has one.
        partial: what the network has said of it.
        earlier: the same, from a device that failed.
        done: its passes have ended; else ``error`` may say why they did not.
        cut_short: something went wrong, and that was said.
    """

    prompts: ObjectPrompts
    previous: Box | None
    partial: PartialPrediction
    earlier: PartialPrediction | None = None
    done: bool = False
    error: Exception | None = None
    cut_short: bool = False


@dataclass
class _CaseSegmenter:
    """A case's image on the predictor's device, and the ladder of ways to segment objects of it."""

    case: Case
    segmenter: Segmenter
    extents: dict[int, Box]
    watchdog: Watchdog
    log: Callable[[str], None]
    image: NormalizedImage | None = None
    image_there: NormalizedImage | None = None
    labels_there: Tensor | None = None
    given_up: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    failed_devices: tuple[str, ...] = ()

    def report(self, objects: list[ObjectPrompts], seconds: float) -> None:
        """Keeps what became of objects that were segmented side by side; ``seconds``: of each."""
        device = str(self.segmenter.predictor.device)
        for label in (prompts.label for prompts in objects):
            given_up = (*self.failed_devices, *self.given_up[label])
            self.segmenter.reports[label] = ObjectReport(seconds, device, given_up)

    def _give_up(self, run: _ObjectRun, what: str, detail: str = "") -> None:
        """Says what an object is not given, and keeps it for its report; ``detail``, figures for one, is only said."""
        self.log(f"object {run.prompts.label}: {what}{detail and f' ({detail})'}")
        self.given_up[run.prompts.label].append(what)

    def group_size(self, end: float) -> int:
        """Objects that are segmented side by side: as many patches as share a forward."""
        if not self.segmenter.predictor.batches:
            return 1
        try:
            return self._in_time(self._measured_batch, end)
        except Exception:  # Whatever it is, the object that comes next meets it again, and says it.
            return 1

    def segment(
        self, objects: list[ObjectPrompts], end: float, waiting: int
    ) -> list[Iterator[tuple[Box, Tensor]] | None]:
        """Some objects' log-odds by the best way that fits; None for each for which none does.

        Args:
            end: when the whole case must be written, by the monotonic clock.
            waiting: objects that share the time until then, these included.
        """
        shape: Voxel = self.case.image.shape
        bounded = self.segmenter.refinement.box_slices
        runs = []
        for prompts in objects:
            previous = self.extents.get(prompts.label)
            region = allowed_region(prompts, previous, shape) if bounded else Box.of(shape)
            runs.append(_ObjectRun(prompts, previous, PartialPrediction(region)))
        if failed := self._descend(runs, end, waiting):
            for run in failed:
                run.earlier, run.partial = run.partial, PartialPrediction(run.partial.region)
            for run in self._descend(failed, end, waiting):  # On the CPU, unless that cannot be had either.
                self._may_go_on(run, run.error or DeviceFailure(self.segmenter.predictor.failure))
        return [self._slabs(run) for run in runs]

    def _descend(self, runs: list[_ObjectRun], end: float, waiting: int) -> list[_ObjectRun]:
        """Segments objects side by side with the largest patch that fits.

        Returns:
            those to which nothing happened but that the device failed.
        """
        share = (end - time.monotonic()) / waiting
        for patch in self.segmenter.predictor.patches():
            out_of_memory, error = False, None
            for run in runs:
                run.error = None
            try:
                if not self._prepared:
                    self._in_time(self._prepare, end)
                expected = self.segmenter.predictor.expected_seconds(patch)
                if expected > share:
                    seconds = f"{expected:.1f} s expected, {share:.1f} s left"
                    for run in runs:
                        self._give_up(run, f"no time for a patch of {patch}", seconds)
                    continue
                until = time.monotonic() + share * len(runs)
                self._in_time(lambda p=patch, u=until, r=tuple(runs): self._run(r, p, u), end)
            except DeviceFailure:
                return [run for run in runs if not run.done]
            except Exception as caught:  # Whatever it is, it is said below, and kept from the other objects.
                error = caught
            no_end = RuntimeError("its passes did not end")
            ended = [(run, run.error or error or no_end) for run in runs if not run.done]
            runs = [run for run, why in ended if self._may_go_on(run, why, patch)]
            if not runs:
                return []
            out_of_memory = True
        return runs if out_of_memory and self.segmenter.predictor.give_up("out of memory") else []

    def _may_go_on(self, run: _ObjectRun, error: Exception, patch: Voxel | None = None) -> bool:
        """Says what went wrong; whether a smaller patch may help."""
        run.cut_short, smaller, detail = True, False, ""
        if isinstance(error, DeadlineExceeded):
            wrong, detail = "the network was too slow", str(error)
        elif is_out_of_memory(error):
            smaller = run.partial.taken is None
            wrong = "out of memory" + (f" with a patch of {patch}" if smaller else "")
        else:
            wrong = f"{type(error).__name__}: {error}"
            print_traceback(error)
            self.segmenter.failures += 1
        self._give_up(run, wrong, detail)
        return smaller

    def _slabs(self, run: _ObjectRun) -> Iterator[tuple[Box, Tensor]] | None:
        partial = run.partial if run.partial.taken is not None or run.earlier is None else run.earlier
        if partial.taken is None or self.image is None:
            self._give_up(run, f"taking {fallback_name(run.prompts, run.previous)}")
            return None
        for what in tuple(partial.left_out):
            self._give_up(run, what)
        if partial is run.earlier or (run.cut_short and not run.done):
            self._give_up(run, "taking what the network has said so far")
        return partial.slabs(self.image)

    def _in_time(self, compute: Callable[[], Result], end: float) -> Result:
        """The result of what uses the device.

        Raises:
            DeadlineExceeded: there was none by ``end``.
            DeviceFailure: the device failed, and the predictor knows it.
        """

        def guarded() -> Result:
            try:
                return compute()
            except Exception as error:
                self.segmenter.predictor.raise_if_device_failed(error)
                raise

        return self.watchdog.run(guarded, end - time.monotonic())

    @property
    def _prepared(self) -> bool:
        return self.image_there is not None and self.segmenter.predictor.failure is None

    def _prepare(self) -> None:
        """Brings the image to where the network is, and measures what a forward costs there."""
        predictor = self.segmenter.predictor
        if predictor.failure is not None and predictor.reload is not None:
            self.log(f"{predictor.device}: {predictor.failure}; the CPU is used from now on")
            self.failed_devices += (f"{predictor.device} failed",)
            predictor = self.segmenter.predictor = predictor.reload()
        if self.image is None:
            self.image = NormalizedImage.of(self.case.image)
        image = self.image.to(predictor.device)
        if self.case.previous is not None:
            self.labels_there = torch.from_numpy(self.case.previous).to(predictor.device)
        predictor.measure()
        self.image_there = image

    def _measured_batch(self) -> int:
        if not self._prepared:
            self._prepare()
        return self.segmenter.predictor.batch_size(self.segmenter.config.patch)

    def _run(self, runs: tuple[_ObjectRun, ...], patch: Voxel, until: float) -> None:
        """Segments objects side by side; one for which that took too much memory, alone."""
        self._side_by_side(runs, patch, until)
        for run in runs if len(runs) > 1 else ():
            if run.error is not None and is_out_of_memory(run.error) and run.partial.taken is None:
                run.error = None
                self.segmenter.predictor.release()
                self._side_by_side((run,), patch, until)

    def _side_by_side(self, runs: tuple[_ObjectRun, ...], patch: Voxel, until: float) -> None:
        predictor, settings = self.segmenter.predictor, self.segmenter.refinement
        image, labels = self.image_there, self.labels_there
        assert image is not None, "brought there before any pass"
        running: dict[_ObjectRun, Forwards] = {}

        def seconds_left() -> float:
            return (until - time.monotonic()) / len(running)

        objects = self.case.objects
        for run in runs:
            refinement = ObjectRefinement(
                predictor, settings, image, labels, run.prompts, objects, run.previous, seconds_left, run.partial
            )
            running[run] = refinement.passes(patch)
        for run, error in side_by_side(predictor, running):
            run.error, run.done = error, error is None
