"""The slices of a box: the only bound that the challenge's boxes set exactly.

A box goes from the first to the last slice of its object, while in y and x it is that of the middle slice, widened at
random (challenge rule): elsewhere the object may leave it.
"""

from __future__ import annotations

from inference.case import Box, ObjectPrompts, Voxel


def where_it_can_be(prompts: ObjectPrompts, previous: Box | None, shape: Voxel) -> Box:
    """The part of the image in which an object can be: its box's slices; all of it without a box of the user's.

    A foreground click before the box's first slice, or behind its last, says that the box is too short there, and so
    does a previous mask that reaches further: then the object is not bounded on that side.

    Args:
        previous: where the object's previous mask lies; None if there is none.
        shape: (D, H, W) of the image.
    """
    image = Box.of(shape)
    if prompts.box is None or prompts.guessed:
        return image
    known = [click.position[0] for click in prompts.clicks if click.positive]
    if previous is not None:
        known += [previous.lower[0], previous.upper[0]]
    lower, upper = prompts.box.lower[0], prompts.box.upper[0]
    first = max(lower, 0) if all(z >= lower for z in known) else 0
    last = min(upper, image.upper[0]) if all(z <= upper for z in known) else image.upper[0]
    return Box((first, 0, 0), (last, *image.upper[1:]))
