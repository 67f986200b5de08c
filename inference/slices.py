"""The slices of a box: the only bound that the challenge's boxes set exactly.

A box goes from the first to the last slice of its object, while in y and x it is that of the middle slice, widened at
random (challenge rule): elsewhere the object may leave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from inference.case import Box, ObjectPrompts


def slices_of(prompts: ObjectPrompts, previous: Box | None, depth: int) -> tuple[int, int]:
    """The first and the last slice, of ``depth``, in which an object can be: all of them without a box of the user's.

    A foreground click before the box's first slice, or behind its last, says that the box is too short there, and so
    does a previous mask that reaches further: then the object is not bounded on that side.

    Args:
        previous: where the object's previous mask lies; None if there is none.
    """
    if prompts.box is None or prompts.guessed:
        return 0, depth - 1
    known = [click.position[0] for click in prompts.clicks if click.positive]
    if previous is not None:
        known += [previous.lower[0], previous.upper[0]]
    first = prompts.box.lower[0] if all(z >= prompts.box.lower[0] for z in known) else 0
    last = prompts.box.upper[0] if all(z <= prompts.box.upper[0] for z in known) else depth - 1
    return first, last


def within(slabs: Iterable[tuple[Box, Tensor]], first: int, last: int) -> Iterator[tuple[Box, Tensor]]:
    """What of an object's log-odds lies in the slices from ``first`` to ``last``, both included."""
    for where, log_odds in slabs:
        bounds = Box((first, *where.lower[1:]), (last, *where.upper[1:]))
        if (part := where.intersection(bounds)) is not None:
            yield part, log_odds[part.slices_in(where)]
