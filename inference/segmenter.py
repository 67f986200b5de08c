"""One object: window + prompts + network -> log-odds. One case: every object, within the time that there is."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inference import checkpoint
from inference.case import Box, Case, ObjectPrompts, Voxel
from inference.checkpoint import ModelConfig
from inference.cpu_forward import for_cpu
from inference.deadline import Deadline, DeadlineExceeded, Watchdog
from inference.edges import Edges
from inference.fusion import Fusion, advantages
from inference.intensities import NormalizedImage
from inference.network import IMAGE_AND_PROMPT_CHANNELS, LogOddsUNet
from inference.pieces import disobeyed, piece, without_ruled_out
from inference.prompts import encode
from inference.slices import where_it_can_be
from inference.window import SLAB, Window, blended, closer, finely, grown, refocused, tiles, window_for

FALLBACK_LOG_ODDS = 2.0
"""How sure the previous mask or an ellipsoid counts among what the network says: p = 0.88."""

CLICK_RADIUS = 4
"""Voxels around a foreground click that are taken where nothing else is known and no time is left."""

SAFETY = 1.3
"""A forward may cost this much more than the last one did."""

TILES = 24
"""Forwards along a coarse border, at most, for weights that are good at it."""

EDGE_VOXELS_PER_SECOND = 1e7
"""For the time that following edges takes: a slow core."""

WRITE_VOXELS_PER_SECOND = 2e7
"""For the time that is kept back to fuse and write the result: a slow disk and a slow core."""

FIXED_RESERVE = 1.0
"""Seconds kept back for whatever happens outside this process, such as the container's start and end."""


@dataclass(frozen=True)
class Effort:
    """What an object is worth beside one forward, as far as the deadline allows.

    Args:
        larger_windows: how often the window of an object without a box grows while the object reaches out of it.
        refocus: whether an object that was found by its first click alone is looked at again, in a window around it.
        finer: whether an object larger than the patch is looked at again in a patch of more voxels, by weights that
            were taught to.
        pieces: whether clicks that the network contradicts add a piece of the object or take one away.
        edges: whether the border of an object larger than the patch is moved to the image's edges
            (:mod:`inference.edges`).
        tiles: forwards at native resolution along a border that was seen coarsely, at most.
        inner_first: whether an object whose box lies inside another's gets what both claim, as long as there are only
            boxes (:func:`inference.fusion.advantages`).
        box_slices: whether an object is kept to the slices of its box (:mod:`inference.slices`).
    """

    larger_windows: int = 5
    refocus: bool = True
    finer: bool = True
    pieces: bool = True
    edges: bool = True
    tiles: int = 0
    inner_first: bool = True
    box_slices: bool = True

    @classmethod
    def for_weights(cls, config: ModelConfig) -> Effort:
        """What pays for these weights.

        nnInteractive refines in tiles of native resolution, so its weights, which keep proportions, get them. The
        embedded ones draw a border worse in a tile than the edges do without one.
        """
        return cls(tiles=TILES if config.keep_proportions else 0)


ONE_FORWARD = Effort(
    larger_windows=0, refocus=False, finer=False, pieces=False, edges=False, inner_first=False, box_slices=False
)
"""The paper's effort."""


@dataclass
class Segmenter:
    """A network and what must be known to run it.

    Args:
        network: (N, 8, D, H, W) -> log-odds (N, 1, D, H, W), on ``device``.
        config: its shape, patch and prompt style.
        device: where it runs; float16 on a GPU.
        effort: what an object is worth beside one forward.
        seconds: patch -> what the last forward of that size cost here.
        failures: objects that met an unexpected error so far, and have what was seen before it or the fallback.
    """

    network: nn.Module
    config: ModelConfig
    device: torch.device
    effort: Effort = Effort()
    seconds: dict[Voxel, float] = field(default_factory=dict)
    failures: int = 0

    def log_odds(
        self, image: NormalizedImage, previous: Tensor | None, prompts: ObjectPrompts, window: Window
    ) -> Tensor:
        """What the network says of an object in a window.

        Args:
            image: on this segmenter's device.
            previous: the object's previous mask in the window, [0, 1], of the patch's shape; None if there is none.
            prompts: the object's label, box and clicks.
            window: where to look; its patch may be smaller than the configuration's.

        Returns:
            float32 log-odds of the patch's shape, on the device.
        """
        return self.forward(encode(image.crop(window), previous, prompts, window, self.config.style))

    def forward(self, channels: Tensor) -> Tensor:
        """(8, D, H, W) -> float32 log-odds (D, H, W); remembers what it cost."""
        began = time.monotonic()
        with torch.inference_mode():
            with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
                log_odds = self.network(channels[None])[0, 0].float()
            # Looking at the values also waits for a GPU, so that the clock below is right.
            if not bool(torch.isfinite(log_odds).all()):  # Beyond what float16 holds, perhaps.
                log_odds = self.network(channels[None])[0, 0]
        if not bool(torch.isfinite(log_odds).all()):
            raise ArithmeticError("the network's output is not finite")
        self.seconds[tuple(channels.shape[1:])] = time.monotonic() - began
        return log_odds / self.config.temperature

    def patches(self) -> list[Voxel]:
        """The configuration's patch and the smaller ones that the deadline may choose, largest first."""
        stride = self.config.network.stride
        patches = [self.config.patch]
        for divisor in (2, 4):
            # A stage of a single voxel has no deviation to normalize by: two strides are the least.
            smaller = tuple(max(p // divisor // stride, 2) * stride for p in self.config.patch)
            if smaller < patches[-1]:
                patches.append(smaller)
        return patches

    def expected_seconds(self, patch: Voxel) -> float:
        """What a forward of this patch will cost, from those already run, in proportion to their voxels."""
        if patch in self.seconds:
            return self.seconds[patch] * SAFETY
        known = min(self.seconds, key=lambda other: abs(np.log(np.prod(other) / np.prod(patch))))
        return self.seconds[known] * float(np.prod(patch) / np.prod(known)) * SAFETY


def load_segmenter(weights: Path, device: str = "auto") -> Segmenter:
    """Weights on disk -> a segmenter.

    Args:
        weights: our file, or an nnInteractive folder.
        device: ``auto`` (a GPU that works, else the CPU), or a torch device.

    Raises:
        checkpoint.CheckpointError: the weights cannot be used.
    """
    network, config = checkpoint.load(weights)
    chosen = _usable_device() if device == "auto" else torch.device(device)
    log_odds = LogOddsUNet(network).eval()
    if chosen.type == "cpu":
        return Segmenter(for_cpu(log_odds), config, chosen, Effort.for_weights(config))
    log_odds = log_odds.to(chosen, memory_format=torch.contiguous_format)
    return Segmenter(log_odds, config, chosen, Effort.for_weights(config))


def segment_case(
    case: Case,
    segmenter: Segmenter | None,
    deadline: Deadline,
    watchdog: Watchdog | None = None,
    say: Callable[[str], None] = print,
    bar: Callable[[tuple[ObjectPrompts, ...]], Iterable[ObjectPrompts]] = iter,
    fusion: Fusion | None = None,
) -> np.ndarray:
    """Segments all objects of a case.

    Every object gets the best that the time left allows: one pass, a pass with a smaller patch, or what needs no
    network (the previous mask, else the box's inscribed ellipsoid). What is given up is said. An object that fails
    harms no other.

    Args:
        segmenter: None where there are no weights: then nothing but the fallback is left.
        deadline: for this case; some of it is kept back for writing.
        watchdog: a shared one, so that a forward which overran an earlier case is waited for and not doubled.
        say: takes a line for people.
        bar: goes through the objects, and may show people how far it is.
        fusion: an empty one of the image's shape, where it is to be looked at; a new one by default.

    Returns:
        (D, H, W) uint8 label map.
    """
    shape: Voxel = case.image.shape
    fusion = Fusion(shape) if fusion is None else fusion
    reserve = FIXED_RESERVE + case.image.size / WRITE_VOXELS_PER_SECOND
    watchdog = watchdog or Watchdog()
    extents = {} if case.previous is None else label_extents(case.previous)
    effort = Effort() if segmenter is None else segmenter.effort
    advantage = advantages(case.objects, extents) if effort.inner_first else {}
    passes = None if segmenter is None else _Passes(case, segmenter, watchdog)
    for index, prompts in enumerate(bar(case.objects)):
        previous = extents.get(prompts.label)
        found = None
        if passes is not None:
            left = deadline.remaining() - reserve
            found = passes.segment(prompts, previous, left, left / (len(case.objects) - index), say)
        if found is None:
            found = _fallback(prompts, case.previous, previous, shape)
        for where, log_odds in found:
            fusion.add(prompts.label, where, log_odds, advantage.get(prompts.label, 0.0))
    labels = fusion.label_map().numpy()
    obey_clicks(labels, case.objects)
    return labels


def obey_clicks(labels: np.ndarray, objects: tuple[ObjectPrompts, ...]) -> None:
    """Sees to it that a foreground click's voxel has its object's label and a background click's voxel has not.

    Where clicks contradict each other, the later one of an object and the later object win.

    Args:
        labels: (D, H, W) uint8 label map, changed in place.
    """
    for prompts in objects:
        for click in prompts.clicks:
            if click.positive:
                labels[click.position] = prompts.label
            elif labels[click.position] == prompts.label:
                labels[click.position] = 0


class _Passes:
    """A case's image on the segmenter's device, and the ladder of ways to segment an object of it."""

    def __init__(self, case: Case, segmenter: Segmenter, watchdog: Watchdog) -> None:
        self.case = case
        self.segmenter = segmenter
        self.watchdog = watchdog
        self.patches = segmenter.patches()
        self.image: NormalizedImage | None = None
        self.previous: Tensor | None = None

    def segment(
        self,
        prompts: ObjectPrompts,
        previous: Box | None,
        left: float,
        share: float,
        say: Callable[[str], None],
    ) -> Iterator[tuple[Box, Tensor]] | None:
        """An object's log-odds by the best way that fits; None if none does.

        Args:
            left: seconds until the whole case must be written.
            share: seconds of it that are this object's.
        """
        name = f"object {prompts.label}"
        end = time.monotonic() + left
        shape: Voxel = self.case.image.shape
        bounded = self.segmenter.effort.box_slices
        wanted = where_it_can_be(prompts, previous, shape) if bounded else Box.of(shape)
        for patch in self.patches:
            look = _Look(wanted)
            try:
                if self.image is None:
                    self.watchdog.run(self._prepare, end - time.monotonic())
                expected = self.segmenter.expected_seconds(patch)
                if expected > share:
                    say(f"{name}: no time for a patch of {patch} ({expected:.1f} s expected, {share:.1f} s left)")
                    continue
                keep_proportions = self.segmenter.config.keep_proportions
                window = window_for(prompts, shape, patch, keep_proportions, previous)
                until = time.monotonic() + share
                self.watchdog.run(
                    lambda w=window, u=until, into=look: self._segment(prompts, w, u, into), end - time.monotonic()
                )
            except DeadlineExceeded as error:
                wrong, smaller = f"the network was too slow ({error})", False
            except Exception as error:  # Whatever it is, it is said, counted, and kept from the other objects.
                smaller = _is_out_of_memory(error)
                if smaller:
                    wrong = "out of memory" + (f" with a patch of {patch}" if look.taken is None else "")
                    if self.segmenter.device.type == "cuda":
                        torch.cuda.empty_cache()
                else:
                    wrong = f"{type(error).__name__}: {error}"
                    traceback.print_exc()
                    self.segmenter.failures += 1
            else:
                return look.slabs(self.image)
            say(f"{name}: {wrong}")
            if look.taken is not None:
                say(f"{name}: taking what the network has said so far")
                return look.slabs(self.image)
            if not smaller:
                break
        say(f"{name}: taking {_fallback_name(prompts, previous)}")
        return None

    def _prepare(self) -> None:
        """Brings the image to where the network is, and measures what a forward costs with the smallest patch."""
        image = NormalizedImage.of(self.case.image, self.segmenter.device)
        if self.case.previous is not None:
            self.previous = torch.from_numpy(self.case.previous).to(self.segmenter.device)
        if not self.segmenter.seconds:
            probe = torch.zeros((IMAGE_AND_PROMPT_CHANNELS, *self.patches[-1]), device=self.segmenter.device)
            costs = []
            for _ in range(3):  # The first one also pays for what is set up once.
                self.segmenter.forward(probe)
                costs.append(self.segmenter.seconds[self.patches[-1]])
            self.segmenter.seconds[self.patches[-1]] = min(costs)
        self.image = image

    def _segment(self, prompts: ObjectPrompts, window: Window, until: float, look: _Look) -> None:
        """Finds the object; then, as far as the time allows, what makes its mask better."""
        self._find(prompts, window, until, look)
        found = look.window
        if found.patch == self.segmenter.config.patch:  # With a smaller one, there was no time for that.
            if found.outgrown:
                self._look_finer(prompts, until, look)
            self._follow_clicks(prompts, found, until, look)
            self._refine_in_tiles(prompts, until, look)
        if found.outgrown:
            self._follow_edges(until, look)

    def _in_time(self, patch: Voxel, until: float) -> bool:
        return time.monotonic() + self.segmenter.expected_seconds(patch) <= until

    def _follow_edges(self, until: float, look: _Look) -> None:
        if not self.segmenter.effort.edges:
            return
        image, squares = self.image.crop(look.window).cpu(), self.image.crop_squares(look.window).cpu()
        edges = Edges.of(image, squares, look.log_odds, look.window, look.wanted)
        if edges is not None and time.monotonic() + edges.region.voxels / EDGE_VOXELS_PER_SECOND <= until:
            look.edges = edges

    def _find(self, prompts: ObjectPrompts, window: Window, until: float, look: _Look) -> None:
        """One pass; without a box, more in larger windows, and then one around what was found."""
        shape: Voxel = self.case.image.shape
        segmenter = self.segmenter
        effort = segmenter.effort
        before = self._previous(prompts, window)
        log_odds = segmenter.log_odds(self.image, before, prompts, window)
        look.take(window, log_odds)
        for _ in range(effort.larger_windows if prompts.box is None else 0):
            larger = grown(window, log_odds, shape, segmenter.config.keep_proportions)
            if larger is None or not self._in_time(window.patch, until):
                break
            window = larger
            log_odds = segmenter.log_odds(self.image, self._previous(prompts, window), prompts, window)
            look.take(window, log_odds)
        if effort.refocus and prompts.box is None and not _any(before) and self._in_time(window.patch, until):
            focused = refocused(window, log_odds, prompts, shape, segmenter.config.keep_proportions)
            if focused is not None:
                mask = window.seen_from((log_odds > 0).float(), focused)
                window, log_odds = focused, segmenter.log_odds(self.image, mask, prompts, focused)
                look.take(window, log_odds)

    def _look_finer(self, prompts: ObjectPrompts, until: float, look: _Look) -> None:
        """Looks again at the same window in a patch of more voxels."""
        segmenter, config = self.segmenter, self.segmenter.config
        window = look.window.finer(config.finer)
        if not segmenter.effort.finer or config.finer == 1 or not self._in_time(window.patch, until):
            return
        # As in training: what the network itself has said, before the temperature.
        seen = torch.sigmoid(finely(look.log_odds[None] * config.temperature, config.finer)[0])
        look.take(window, segmenter.log_odds(self.image, seen.to(segmenter.device), prompts, window))

    def _follow_clicks(self, prompts: ObjectPrompts, found: Window, until: float, look: _Look) -> None:
        """Takes away and adds pieces that clicks contradict; ``found``: the window, in the configuration's patch."""
        if not self.segmenter.effort.pieces:
            return
        look.take(look.window, without_ruled_out(look.log_odds, look.window, prompts.clicks))
        for click in disobeyed(look.log_odds, look.window, prompts.clicks):
            if not click.positive or not self._in_time(found.patch, until):
                continue
            near = closer(found, click.position)
            mask = look.window.seen_from((look.log_odds > 0).float(), near)
            added = piece(self.segmenter.log_odds(self.image, mask, prompts, near).cpu(), near, click)
            if added is not None:
                look.pieces.append((near, added))

    def _refine_in_tiles(self, prompts: ObjectPrompts, until: float, look: _Look) -> None:
        """Looks at the border again, in tiles of native resolution."""
        segmenter, window = self.segmenter, look.window
        coarse = (look.log_odds > 0).float().to(segmenter.device)
        for tile in islice(tiles(window, look.log_odds, self.case.image.shape), segmenter.effort.tiles):
            if not self._in_time(tile.patch, until):
                break
            look.tiles.append(
                (tile, segmenter.log_odds(self.image, window.seen_from(coarse, tile), prompts, tile).cpu())
            )

    def _previous(self, prompts: ObjectPrompts, window: Window) -> Tensor | None:
        """The previous run's mask of an object in a window; None if there was no run."""
        return None if self.previous is None else window.crop_label(self.previous, prompts.label)


class _Look:
    """What the network has said of an object so far; the deadline may cut it short at any time."""

    def __init__(self, wanted: Box) -> None:
        """``wanted``: the part of the image in which the object can be."""
        self.wanted = wanted
        # One pair: the thread that gives a look up must never see the window of one and the log-odds of another.
        self.taken: tuple[Window, Tensor] | None = None
        self.edges: Edges | None = None
        self.tiles: list[tuple[Window, Tensor]] = []
        self.pieces: list[tuple[Window, Tensor]] = []

    @property
    def window(self) -> Window:
        return self.taken[0]

    @property
    def log_odds(self) -> Tensor:
        return self.taken[1]

    def take(self, window: Window, log_odds: Tensor) -> None:
        self.taken = (window, log_odds.cpu())

    def slabs(self, image: NormalizedImage) -> Iterator[tuple[Box, Tensor]]:
        """The log-odds in what is wanted of the image, slab by slab."""
        edges, (window, log_odds) = self.edges, self.taken  # In this order: edges are of the last that was taken.
        pasted = None if edges is None else edges.pasted(image, window, log_odds, self.wanted)
        return blended(window, log_odds, list(self.tiles), list(self.pieces), self.wanted, pasted)


def _fallback(
    prompts: ObjectPrompts, labels: np.ndarray | None, previous: Box | None, shape: Voxel
) -> Iterator[tuple[Box, Tensor]]:
    """What is said of an object without a network: its previous mask, its box's ellipsoid, or a ball at its clicks."""
    if previous is not None:
        where, inside = previous, lambda box: torch.from_numpy(labels[box.slices] == prompts.label)
    elif prompts.box is not None:
        where, inside = prompts.box, lambda box: _ellipsoid(prompts.box, box)
    else:
        balls = [_ball(click.position) for click in prompts.clicks if click.positive]
        if not balls:
            return
        where = balls[0]
        for ball in balls[1:]:
            where = where.union(ball)
        where = where.clipped(shape)
        inside = lambda box: torch.stack([_ellipsoid(ball, box) for ball in balls]).any(dim=0)  # noqa: E731
    for first in range(where.lower[0], where.upper[0] + 1, SLAB):
        last = min(first + SLAB - 1, where.upper[0])
        slab = Box((first, *where.lower[1:]), (last, *where.upper[1:]))
        yield slab, (inside(slab).float() * 2 - 1) * FALLBACK_LOG_ODDS


def _fallback_name(prompts: ObjectPrompts, previous: Box | None) -> str:
    if previous is not None:
        return "its previous mask"
    if prompts.box is not None:
        return "the ellipsoid in its box"
    return "a ball at each foreground click" if any(c.positive for c in prompts.clicks) else "nothing: it has no prompt"


def _ball(centre: Voxel) -> Box:
    return Box(tuple(v - CLICK_RADIUS for v in centre), tuple(v + CLICK_RADIUS for v in centre))


def _ellipsoid(box: Box, part: Box) -> Tensor:
    """The ellipsoid inscribed in a box, in a part of the image: bool of the part's shape."""
    squared = torch.zeros(())
    for axis, (lower, upper, first, last) in enumerate(zip(box.lower, box.upper, part.lower, part.upper)):
        distance = (torch.arange(first, last + 1) - (lower + upper) / 2) / ((upper - lower + 1) / 2)
        squared = squared + distance.square().view([-1 if a == axis else 1 for a in range(3)])
    return squared <= 1


def label_extents(labels: np.ndarray) -> dict[int, Box]:
    """Label -> the box around its voxels, for labels of an integer label map (D, H, W) that have any."""
    from scipy.ndimage import find_objects  # A tenth of the start, and no first run needs it.

    return {
        label: Box(tuple(s.start for s in where), tuple(s.stop - 1 for s in where))
        for label, where in enumerate(find_objects(labels), start=1)
        if where is not None
    }


def _any(mask: Tensor | None) -> bool:
    return mask is not None and bool(mask.any())


def _usable_device() -> torch.device:
    if torch.cuda.is_available():
        try:
            torch.zeros(1, device="cuda")
            return torch.device("cuda")
        except RuntimeError as error:
            print(f"the GPU cannot be used, the CPU is: {' '.join(str(error).split())[:200]}")
    return torch.device("cpu")


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch says it in an error of its own on a GPU, and in words on a CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "memory" in str(error) and ("alloc" in str(error) or "out of memory" in str(error))
