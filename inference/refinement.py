"""One object: a coarse pass that zooms out and recenters, a fine pass, a guided filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.case import Click, ObjectPrompts
from inference.geometry import Box, Voxel, voxel
from inference.guided_filter import GuidedFilter
from inference.normalization import NormalizedImage
from inference.placement import has_leaked, recentered, window_for, zoomed_out
from inference.predictor import Predictor
from inference.prompts import encode
from inference.window import Window, upsampled

NEIGHBOURS = 2
"""Foreground clicks of other objects that an object without a box is shown."""

FILTER_VOXELS_PER_SECOND = 1e7
"""For the time that the guided filter takes: a slow core."""

Forwards = Generator[Tensor, Tensor, None]
"""Yields what the network is to be shown, (8, D, H, W) on its device; is sent the log-odds (D, H, W) there."""

OneForward = Generator[Tensor, Tensor, Tensor]
"""The same for a single forward, whose log-odds it returns."""


@dataclass(frozen=True)
class RefinementConfig:
    """What an object is worth beside one forward, as far as the deadline allows.

    Args:
        zoom_outs: how often the window of an object without a box grows while the object reaches out of it.
        recenter: whether an object that was found by its first click alone is looked at again, in a window around it.
        restart: whether an object without a box is looked for afresh when the newest click says that its previous mask
            has leaked into something larger (:func:`inference.placement.has_leaked`).
        neighbours: whether an object without a box is shown foreground clicks of others (:func:`with_neighbours`).
        fine_pass: whether an object larger than the patch is looked at again in a patch of more voxels, by weights that
            were taught to.
        guided_filter: whether the border of an object larger than the patch is moved to the image's edges
            (:mod:`inference.guided_filter`).
        inner_first: whether an object whose box lies inside another's gets what both claim, as long as there are only
            boxes (:func:`inference.fusion.advantages`).
        nearest_click: whether, in a case without boxes, what several objects claim tends to the one with the nearest
            foreground click (:func:`inference.fusion.nearness`).
        box_slices: whether an object is kept to the slices of its box (:func:`inference.placement.allowed_region`).
    """

    zoom_outs: int = 5
    recenter: bool = True
    restart: bool = True
    neighbours: bool = True
    fine_pass: bool = True
    guided_filter: bool = True
    inner_first: bool = True
    nearest_click: bool = True
    box_slices: bool = True


ONE_FORWARD = RefinementConfig(
    zoom_outs=0,
    recenter=False,
    restart=False,
    neighbours=False,
    fine_pass=False,
    guided_filter=False,
    inner_first=False,
    nearest_click=False,
    box_slices=False,
)
"""The paper's: nothing beside it."""


@dataclass(frozen=True)
class ObjectReport:
    """What became of an object.

    Args:
        seconds: what it took; objects that were segmented side by side share theirs.
        device: where, as torch calls it.
        given_up: what it was not given for lack of time or memory or because something failed, a line each.
    """

    seconds: float
    device: str
    given_up: tuple[str, ...] = ()


class PartialPrediction:
    """What the network has said of an object so far; the deadline may cut it short at any time.

    All of it lies on the CPU, where a device that fails cannot reach it.

    Attributes:
        left_out: the steps that were not taken although the object called for them, and why, for people.
    """

    def __init__(self, region: Box) -> None:
        """``region``: the part of the image in which the object can be."""
        self.region = region
        # One pair: the thread that gives a pass up must never see the window of one and the log-odds of another.
        self.taken: tuple[Window, Tensor] | None = None
        self.guided_filter: GuidedFilter | None = None
        self.left_out: list[str] = []

    def leave_out(self, what: str) -> None:
        """Notes, once, a step that was not taken although the object called for it; ``what`` says why, for people."""
        if what not in self.left_out:
            self.left_out.append(what)

    @property
    def window(self) -> Window:
        return self._taken()[0]

    @property
    def log_odds(self) -> Tensor:
        return self._taken()[1]

    def _taken(self) -> tuple[Window, Tensor]:
        if self.taken is None:
            raise ValueError("the network has said nothing yet")
        return self.taken

    def take(self, window: Window, log_odds: Tensor) -> None:
        self.taken = (window, log_odds.cpu())

    def slabs(self, image: NormalizedImage) -> Iterator[tuple[Box, Tensor]]:
        """Pastes the log-odds into the region in which the object can be, slab by slab.

        Args:
            image: on the CPU.
        """
        # In this order: the filter is of the last that was taken.
        guided_filter, (window, log_odds) = self.guided_filter, self._taken()
        if guided_filter is None:
            return window.paste(log_odds, self.region)
        return guided_filter.paste(image, window, log_odds, self.region)


@dataclass
class ObjectRefinement:
    """The passes over one object.

    Each of them yields what it wants predicted and is sent the answer, so that the passes of several objects can share
    the network's forwards.

    Args:
        predictor: whose answers these are, and what a forward costs there.
        settings: what the object is worth.
        image, labels: the whole image and the previous run's label map (D, H, W), on the predictor's device; no label
            map if there was no run.
        prompts: what the user said of the object.
        objects: the prompts of all objects of the case.
        previous: the extent of its previous mask, if it has one.
        seconds_left: what is left of the object's share of the time.
        partial: takes what the network says.
    """

    predictor: Predictor
    settings: RefinementConfig
    image: NormalizedImage
    labels: Tensor | None
    prompts: ObjectPrompts
    objects: tuple[ObjectPrompts, ...]
    previous: Box | None
    seconds_left: Callable[[], float]
    partial: PartialPrediction

    def __post_init__(self) -> None:
        self.config = self.predictor.config
        self.shape: Voxel = voxel(self.image.volume.shape)
        self.shown = with_neighbours(self.prompts, self.objects) if self.settings.neighbours else self.prompts

    def passes(self, patch: Voxel) -> Forwards:
        """Finds the object; then, as far as the time allows, what makes its mask better.

        Args:
            patch: the configuration's, or a smaller one where there is no time for that.
        """
        if self.settings.restart and self.labels is not None and has_leaked(self.labels, self.prompts):
            self.labels = self.previous = None
        window = window_for(self.prompts, self.shape, patch, self.config.isotropic_zoom, self.previous)
        yield from self._coarse_pass(window)
        found = self.partial.window
        if not found.exceeds_patch:
            return
        if found.patch == self.config.patch:  # With a smaller one, there was no time for more.
            yield from self._fine_pass()
        elif self.settings.fine_pass and self.config.finer > 1:
            self.partial.leave_out("no fine pass with a smaller patch")
        self._fit_guided_filter()

    def _coarse_pass(self, window: Window) -> Forwards:
        """One forward; without a box, more in larger windows, and then one around what was found."""
        isotropic_zoom = self.config.isotropic_zoom
        before = self._previous_mask(window)
        log_odds = yield from self._predicted(before, window)
        self.partial.take(window, log_odds)
        for _ in range(self.settings.zoom_outs if self.prompts.box is None else 0):
            larger = zoomed_out(window, log_odds, self.shape, isotropic_zoom)
            if larger is None or not self._in_time_for("zooming out further", window.patch):
                break
            window = larger
            log_odds = yield from self._predicted(self._previous_mask(window), window)
            self.partial.take(window, log_odds)
        found_by_clicks = self.prompts.box is None and not _any(before)
        if self.settings.recenter and found_by_clicks:
            around = recentered(window, log_odds, self.prompts, self.shape, isotropic_zoom)
            if around is not None and self._in_time_for("recentering", window.patch):
                mask = window.resampled_to((log_odds > 0).float(), around)
                log_odds = yield from self._predicted(mask, around)
                self.partial.take(around, log_odds)

    def _fine_pass(self) -> Forwards:
        """Looks again at the same window in a patch of more voxels."""
        times = self.config.finer
        window = self.partial.window.finer(times)
        if not self.settings.fine_pass or times == 1 or not self._in_time_for("the fine pass", window.patch):
            return
        # As in training: what the network itself has said, before the temperature.
        seen = torch.sigmoid(upsampled(self.partial.log_odds[None] * self.config.temperature, times)[0])
        self.partial.take(window, (yield from self._predicted(seen.to(self.predictor.device), window)))

    def _fit_guided_filter(self) -> None:
        if not self.settings.guided_filter:
            return
        partial = self.partial
        image, squares = self.image.crop(partial.window).cpu(), self.image.crop_squares(partial.window).cpu()
        fitted = GuidedFilter.fit(image, squares, partial.log_odds, partial.window, partial.region)
        if fitted is None:
            return
        if fitted.box.voxels / FILTER_VOXELS_PER_SECOND <= self.seconds_left():
            partial.guided_filter = fitted
        else:
            partial.leave_out("no time for the guided filter")

    def _predicted(self, mask: Tensor | None, window: Window) -> OneForward:
        """What the network says of the object in a window, shown a mask [0, 1] of the patch's shape, or none."""
        log_odds = yield encode(self.image.crop(window), mask, self.shown, window, self.config.style)
        return log_odds

    def _previous_mask(self, window: Window) -> Tensor | None:
        """The previous run's mask of the object in a window; None if there was no run."""
        return None if self.labels is None else window.crop_label(self.labels, self.prompts.label)

    def _in_time_for(self, step: str, patch: Voxel) -> bool:
        """Whether there is time for a step, one forward of a patch; what there is none for is noted."""
        in_time = self.predictor.expected_seconds(patch) <= self.seconds_left()
        if not in_time:
            self.partial.leave_out(f"no time for {step}")
        return in_time


def with_neighbours(prompts: ObjectPrompts, objects: tuple[ObjectPrompts, ...]) -> ObjectPrompts:
    """An object's prompts as the network is shown them: other objects' clicks say where it ends, if no box does.

    Those foreground clicks of others that lie nearest to its own are background clicks of it. More than a few would be
    more than the network has seen in training.

    Args:
        prompts: of the object; as they are if it has a box or no foreground click.
        objects: of the case, the object among them or not.
    """
    own = prompts.foreground
    if prompts.box is not None or not own:
        return prompts
    others = {place for other in objects if other.label != prompts.label for place in other.foreground}
    nearest = sorted(others.difference(own), key=lambda place: (min(math.dist(place, each) for each in own), place))
    clicks = tuple(Click(place, positive=False) for place in nearest[:NEIGHBOURS])
    return replace(prompts, clicks=clicks + prompts.clicks)


def _any(mask: Tensor | None) -> bool:
    return mask is not None and bool(mask.any())
