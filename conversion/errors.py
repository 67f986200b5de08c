"""What a file or an option that cannot be used is answered with."""

from __future__ import annotations

from collections.abc import Sequence


class ConversionError(ValueError):
    """A file or an option that cannot be used; the message is one line: which, what is wrong, what is expected."""


def described_axes(size: Sequence[int]) -> str:
    """How many axes there are and how long each is, in the order in which coordinates are typed: z before y before x.

    Args:
        size: voxels along x, y, z, t, …
    """
    names = "×".join("xyzt"[: len(size)][::-1]) if len(size) <= 4 else "the last axis of the file first"
    return f"{len(size)} axes ({'×'.join(map(str, size[::-1]))}, {names})"
