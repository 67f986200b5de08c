"""Procedural objects: what data sets rarely label — thin, branching, folded, hollow, scattered, touching.

:func:`procedural` draws an object of one of the :data:`KINDS` and other structures around it, in a patch, without an
image (:mod:`training.appearance` makes one). Lengths are in voxels of the patch, sizes in shares of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from training.noise import grown
from training.shapes.fields import Scene, Shape
from training.shapes.solids import blob, cells, nested, scatter
from training.shapes.surfaces import plate, ring, sheet, shell
from training.shapes.tubes import bundle, tangle, tree

LEAST = 12
"""Voxels of an object."""

MOST = 0.6
"""Share of the patch that an object may fill."""

KINDS: dict[str, Callable[[Shape, np.random.Generator], Scene]] = {
    kind.__name__: kind for kind in (tree, bundle, tangle, shell, sheet, plate, ring, blob, nested, scatter, cells)
}
"""What :func:`procedural` draws."""


def procedural(shape: Shape, random: np.random.Generator, kind: str | None = None) -> Scene:
    """An object of a kind, a random one by default, and up to two drawings of other structures around it."""
    while True:
        name = kind or str(random.choice(list(KINDS)))
        scene = KINDS[name](shape, random)
        if LEAST <= int(scene.truth.sum()) <= MOST * scene.truth.numel():
            break
    for _ in range(int(random.choice(3, p=(0.35, 0.45, 0.2)))):
        other = name if random.random() < 0.6 else str(random.choice(list(KINDS)))
        scene = _with_others(scene, KINDS[other](shape, random), random)
    return scene


def _with_others(scene: Scene, others: Scene, random: np.random.Generator) -> Scene:
    """Adds structures where there are none; a third of the time they look like the object, at a distance from it."""
    labels = scene.labels
    free = labels == 0
    if random.random() < 1 / 3:
        added = others.labels
        free &= ~grown(scene.truth, 2)
    else:
        added = others.labels + labels.max()
    return Scene(torch.where(free & (others.labels > 0), added, labels), scene.truth)
