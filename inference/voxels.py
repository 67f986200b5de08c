"""Three numbers, one for each axis."""

from __future__ import annotations

from collections.abc import Iterable


def voxel(values: Iterable[int]) -> tuple[int, int, int]:
    """Returns (z, y, x) of three whole numbers.

    Unlike ``tuple`` it tells a type checker, and whoever calls it wrongly, that there are three.

    Raises:
        ValueError: there are more or fewer.
    """
    z, y, x = values
    return int(z), int(y), int(x)
