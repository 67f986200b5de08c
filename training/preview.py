"""``python -m training.preview``: a picture of what is trained on, to look at before hours are spent on it.

A row a kind: the slice that holds most of the object, as the network sees it, and the same with the object's outline.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from inference.atomic import replacing
from inference.command import Parser, run
from inference.geometry import voxel
from training import regions, shapes
from training.appearance import make_image
from training.config import DEFAULT
from training.dataset import load_volumes
from training.sample import region_image
from training.shapes.library import LabelMap, from_library, load_shapes
from training.stream import Steps

Draw = Callable[[np.random.Generator], tuple[Tensor, Tensor] | None]

ATTEMPTS = 40


def main(arguments: list[str] | None = None) -> int:
    """Writes the picture; wrong use ends it with one line and exit code 2."""
    parser = Parser("python -m training.preview", "Writes the picture.", "--data DATA --out preview.png")
    parser.add_argument("--data", type=Path, help="folder of *.npz with imgs and gts")
    parser.add_argument("--shapes", type=Path, help="folder of *.npz with gts")
    parser.add_argument("--out", type=Path, required=True, help="the picture (.png)")
    parser.add_argument("--columns", type=int, default=6, help="samples of each kind")
    parser.add_argument("--at-most", type=int, help="volumes that are read")
    parser.add_argument("--finer", action="store_true", help="patches of the finer look")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return run(lambda: _preview(options))


def _preview(options: argparse.Namespace) -> None:
    volumes = load_volumes(options.data, at_most=options.at_most) if options.data else []
    maps = load_shapes(options.shapes) if options.shapes else []
    finer = DEFAULT.model.finer if options.finer else 1
    patch = voxel(n * finer for n in DEFAULT.model.patch)
    kinds: dict[str, Draw] = {name: partial(_drawn, patch, name) for name in shapes.KINDS}
    if maps:
        kinds["library"] = partial(_of_library, patch, maps)
    if volumes:
        steps = Steps(volumes, DEFAULT, options.seed, shapes=maps)
        for name in regions.KINDS:
            kinds[name] = partial(_of_region, steps, finer, name)
    rows = {}
    for number, (name, draw) in enumerate(tqdm(kinds.items(), desc="drawing", unit="kind", disable=None)):
        random = np.random.default_rng((options.seed, number))
        tries = (draw(random) for _ in range(options.columns * ATTEMPTS))
        rows[name] = [pair for pair, _ in zip(filter(None, tries), range(options.columns))]
    _picture(rows, options.columns, options.out)
    print(options.out)


def _drawn(patch: tuple[int, int, int], kind: str, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    return make_image(shapes.procedural(patch, random, kind), random)


def _of_library(
    patch: tuple[int, int, int], maps: list[LabelMap], random: np.random.Generator
) -> tuple[Tensor, Tensor] | None:
    scene = from_library(maps, patch, random)
    return None if scene is None else make_image(scene, random)


def _of_region(steps: Steps, finer: int, kind: str, random: np.random.Generator) -> tuple[Tensor, Tensor] | None:
    volume = steps.volumes[random.choice(len(steps.volumes), p=steps.probabilities)]
    image = region_image(volume, steps.config.model, random, finer)
    truth = regions.region(image, kind, random)
    return None if truth is None else (image, truth)


def _picture(rows: dict[str, list[tuple[Tensor, Tensor]]], columns: int, path: Path) -> None:
    from matplotlib.figure import Figure  # Slow to import, and nothing else here needs it.

    figure = Figure(figsize=(2.8 * columns, 1.45 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2 * columns, squeeze=False)
    for row, (name, pairs) in zip(axes, rows.items()):
        row[0].set_title(name, fontsize=8)
        for axis in row:
            axis.set_axis_off()
        for column, (image, truth) in enumerate(pairs):
            middle = int(truth.flatten(1).sum(dim=1).argmax())
            for axis in row[2 * column : 2 * column + 2]:
                axis.imshow(image[middle], cmap="gray", vmin=-2.5, vmax=3.5)
            row[2 * column + 1].contour(truth[middle], [0.5], colors="red", linewidths=0.7)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=75)


if __name__ == "__main__":
    sys.exit(main())
