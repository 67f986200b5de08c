"""What a user can say of an object, a class for each type of prompt: all that the rest of ``inference`` asks of it.

The previous mask is none of them: it is one map of all objects, and every further pass has a newer one of its own
(:mod:`inference.refinement`).

PyTorch is imported where a prompt is drawn and not before, so that a case can be read, and refused, without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from inference.geometry import Box, Voxel, rounded_voxel, three

if TYPE_CHECKING:
    from torch import Tensor

    from inference.prompts import PromptStyle
    from inference.window import Window

BALL_RADIUS = 4
"""Voxels around a foreground click that are taken where nothing else is known and no time is left."""


@dataclass(frozen=True)
class Click:
    """A voxel that belongs to the object (``positive``) or does not."""

    position: Voxel
    positive: bool


@dataclass(frozen=True)
class ObjectPrompts:
    """What the user said about one object, a field a type; clicks in the order in which they were made."""

    label: int
    box: Box | None = None
    clicks: tuple[Click, ...] = ()

    @property
    def foreground(self) -> list[Voxel]:
        """The voxels of the foreground clicks, in their order."""
        return [click.position for click in self.clicks if click.positive]

    def extents(self) -> list[Box]:
        """Returns the box around each prompt that there is."""
        return [extent for kind in PROMPT_TYPES for extent in kind.extents(self)]

    def draw(self, channels: Tensor, window: Window, style: PromptStyle) -> None:
        """Draws all of it into the network's channels (8, D, H, W)."""
        for kind in PROMPT_TYPES:
            kind.draw(channels, self, window, style)

    def inside(self) -> list[Box]:
        """Returns boxes whose voxels all lie in the object, by what the user said."""
        return [part for kind in PROMPT_TYPES for part in kind.inside(self)]


class PromptType:
    """A type of prompt. The last three methods are for a type that has something to say there.

    Attributes:
        name: for counts of it.
        field: of :class:`ObjectPrompts`.
        keys: of the ``.npz``, an entry an object each; those after the first may be missing.
        guessed: what :meth:`guess` is called, for people.
    """

    name: ClassVar[str]
    field: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    guessed: ClassVar[str] = ""

    def read(self, entries: list[Any], shape: Voxel, label: int, notes: list[str]) -> Any:
        """Returns the field of an object from its entry of each key, None where there is none.

        What makes no sense is repaired or left aside, and a line about it is added to the notes.

        Args:
            shape: (D, H, W) of the image.
        """
        raise NotImplementedError

    def arrays(self, objects: Sequence[ObjectPrompts]) -> dict[str, np.ndarray]:
        """Returns the arrays that :meth:`read` reads, by their keys; none where no object has such a prompt."""
        raise NotImplementedError

    def draw(self, channels: Tensor, prompts: ObjectPrompts, window: Window, style: PromptStyle) -> None:
        """Draws into the network's channels (8, D, H, W); of what lies outside the window, nothing."""
        raise NotImplementedError

    def extents(self, prompts: ObjectPrompts) -> list[Box]:
        """Returns the box around each of them: the window must hold it."""
        raise NotImplementedError

    def inside(self, prompts: ObjectPrompts) -> list[Box]:
        """Returns boxes whose voxels all lie in the object; beyond the box's slices, they lift that bound."""
        return []

    def guess(self, prompts: ObjectPrompts) -> list[Box]:
        """Returns the boxes whose ellipsoids stand for the object if there is neither a network nor a previous mask."""
        return []

    def enforce(self, labels: np.ndarray, prompts: ObjectPrompts) -> None:
        """Changes the case's label map (D, H, W) where it contradicts what was said."""


class _Boxes(PromptType):
    """The box. It alone tells how large the object is, so these ask for it by name:

    ``window_for`` and ``allowed_region`` of :mod:`inference.placement`, ``advantages`` of :mod:`inference.fusion`,
    ``segment_case``, which goes by clicks where there is none, and :mod:`inference.refinement`, which zooms out and
    recenters there.
    """

    name, field, keys = "box(es)", "box", ("boxes",)
    guessed = "the ellipsoid in its box"

    def read(self, entries: list[Any], shape: Voxel, label: int, notes: list[str]) -> Box | None:
        try:
            stated = Box.from_entry(entries[0])
        except ValueError as error:
            notes.append(f"object {label}: its box {error}; the object is taken as having none")
            return None
        box = Box(three(map(min, stated.lower, stated.upper)), three(map(max, stated.lower, stated.upper)))
        clipped = box.clipped(shape)
        if box != stated:
            notes.append(f"object {label}: its box is inverted; its corners are put in order")
        if clipped is None:
            notes.append(f"object {label}: its box lies outside the image; the object is taken as having none")
        elif clipped != box:
            notes.append(f"object {label}: its box reaches outside the image; the part inside is used")
        return clipped

    def arrays(self, objects: Sequence[ObjectPrompts]) -> dict[str, np.ndarray]:
        boxes = [box.entry() for item in objects for box in self.extents(item)]
        return {"boxes": np.array(boxes)} if boxes else {}

    def draw(self, channels: Tensor, prompts: ObjectPrompts, window: Window, style: PromptStyle) -> None:
        from inference.prompts import BOX, draw_box

        if prompts.box is not None:
            draw_box(channels[BOX], prompts.box, window)

    def extents(self, prompts: ObjectPrompts) -> list[Box]:
        return [] if prompts.box is None else [prompts.box]

    def guess(self, prompts: ObjectPrompts) -> list[Box]:
        return self.extents(prompts)


class _Clicks(PromptType):
    name, field, keys = "click(s)", "clicks", ("clicks", "clicks_order")
    guessed = "a ball at each foreground click"

    def read(self, entries: list[Any], shape: Voxel, label: int, notes: list[str]) -> tuple[Click, ...]:
        """The clicks in the order given; foreground first where the order does not fit the lists."""
        entry, order = entries
        if not isinstance(entry, dict):
            return ()
        lists = {kind: _as_list(entry.get(kind)) for kind in ("fg", "bg")}
        kinds = [str(kind) for kind in _as_list(order) if isinstance(kind, str) and kind in lists]
        if any(kinds.count(kind) != len(lists[kind]) for kind in lists):
            notes.append(f"object {label}: clicks_order does not fit its clicks; foreground clicks are taken first")
            kinds = ["fg"] * len(lists["fg"]) + ["bg"] * len(lists["bg"])
        positions = {kind: iter(lists[kind]) for kind in lists}
        clicks = []
        for kind in kinds:
            position = rounded_voxel(next(positions[kind]))
            if position is None or not Box.of(shape).contains(position):
                notes.append(f"object {label}: a click that is no voxel of the image is left aside")
            else:
                clicks.append(Click(position, positive=kind == "fg"))
        notes.extend(contradictions(label, clicks))
        return tuple(clicks)

    def arrays(self, objects: Sequence[ObjectPrompts]) -> dict[str, np.ndarray]:
        """Objects with fewer clicks than others have None in ``clicks_order`` for the steps that they lack."""
        steps = max((len(item.clicks) for item in objects), default=0)
        if not steps:
            return {}
        by_kind = np.empty(len(objects), object)
        order = np.full((len(objects), steps), None, object)
        for index, item in enumerate(objects):
            by_kind[index] = {
                kind: [list(click.position) for click in item.clicks if click.positive == (kind == "fg")]
                for kind in ("fg", "bg")
            }
            order[index, : len(item.clicks)] = ["fg" if click.positive else "bg" for click in item.clicks]
        # Made anew, numpy gives it the type that the challenge's files have: text, or objects where a None is among it.
        return {"clicks": by_kind, "clicks_order": np.array(order.tolist())}

    def draw(self, channels: Tensor, prompts: ObjectPrompts, window: Window, style: PromptStyle) -> None:
        from inference.prompts import CLICK, CLICK_NEGATIVE, draw_clicks

        draw_clicks(channels[CLICK], channels[CLICK_NEGATIVE], prompts.clicks, window, style)

    def extents(self, prompts: ObjectPrompts) -> list[Box]:
        return [Box(click.position, click.position) for click in prompts.clicks]

    def inside(self, prompts: ObjectPrompts) -> list[Box]:
        return [Box(place, place) for place in prompts.foreground]

    def guess(self, prompts: ObjectPrompts) -> list[Box]:
        return [_ball(place) for place in prompts.foreground]

    def enforce(self, labels: np.ndarray, prompts: ObjectPrompts) -> None:
        """A foreground click's voxel has the label and a background click's has not; the later of an object wins."""
        for click in prompts.clicks:
            if click.positive:
                labels[click.position] = prompts.label
            elif labels[click.position] == prompts.label:
                labels[click.position] = 0


PROMPT_TYPES: tuple[PromptType, ...] = (_Boxes(), _Clicks())
"""A case has as many objects as the first of them that it holds has entries; the first that has a guess makes it."""


def counted(objects: Sequence[ObjectPrompts]) -> str:
    """Returns how many prompts of each type there are: ``1 box(es), 3 click(s)``."""
    return ", ".join(f"{sum(len(kind.extents(item)) for item in objects)} {kind.name}" for kind in PROMPT_TYPES)


def contradictions(label: int, clicks: Sequence[Click], first: int = 0) -> list[str]:
    """Returns a line for each voxel that was clicked as foreground and as background, and which of both counts.

    Args:
        label: the object's.
        clicks: in the order in which they were made.
        first: the number of the first new click: only those that contradict an earlier one are told of.
    """
    latest: dict[Voxel, bool] = {}
    contradicted: dict[Voxel, None] = {}
    for number, click in enumerate(clicks):
        if number >= first and latest.get(click.position, click.positive) != click.positive:
            contradicted[click.position] = None
        latest[click.position] = click.positive
    return [
        f"object {label}: {','.join(map(str, place))} (z,y,x) is clicked as foreground and as background; the later "
        f"click counts, {'foreground' if latest[place] else 'background'}"
        for place in contradicted
    ]


def _ball(centre: Voxel) -> Box:
    return Box(three(v - BALL_RADIUS for v in centre), three(v + BALL_RADIUS for v in centre))


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim) else []
