"""`python -m benchmarks.click_generation`: one simulated click at 512×512×200, ours beside the organizers' function.

The organizers' script is not part of this project: give the path of `CVPR25_iter_eval.py` (repository
JunMa11/CVPR-MedSegFMCompetition) with `--script`. Its click code is taken from the file as it stands and run beside
ours on the same masks; the voxels must be the same.
"""

import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from benchmarks.timing import in_turns, timed
from evaluation.simulated_user import Voxel, click_from_error
from inference.command import Parser, run
from inference.geometry import voxel

SHAPE = (200, 512, 512)
REPETITIONS = 3
Click = tuple[Voxel, bool] | None


def main() -> int:
    parser = Parser("python -m benchmarks.click_generation", __doc__.split("\n")[0])
    parser.add_argument("--script", type=Path, required=True, help="the organizers' CVPR25_iter_eval.py")
    theirs = organizers_click(parser.parse_args().script)
    print(f"{'error':<34}{'voxels':>12}{'theirs, s':>12}{'ours, s':>10}{'faster':>9}  voxel")
    differing = 0
    for name, prediction, truth in scenes():
        clicks = {"theirs": partial(theirs, prediction, truth), "ours": partial(click_from_error, prediction, truth)}
        measured = in_turns({who: partial(timed, click) for who, click in clicks.items()}, REPETITIONS, warm_up=0)
        fastest = {who: min(each, key=lambda pair: pair[0]) for who, each in measured.items()}
        (their_seconds, their_click), (our_seconds, our_click) = fastest["theirs"], fastest["ours"]
        differing += their_click != our_click
        verdict = "same" if their_click == our_click else f"DIFFERS: {their_click} and {our_click}"
        size = np.count_nonzero(prediction != truth)
        ratio = their_seconds / our_seconds
        print(f"{name:<34}{size:>12,}{their_seconds:>12.2f}{our_seconds:>10.3f}{ratio:>8.0f}×  {verdict}")
    return int(differing > 0)


def scenes() -> list[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Return name, prediction and truth: a ragged border, and a lesion, an organ and most of a volume missed."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij", sparse=True)
    distance = np.sqrt(_squared_sum(axes)).astype(np.float32)
    ragged = gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE, np.float32), 4)
    organ = distance < 0.5
    lesion = _squared_sum([axis - 0.3 for axis in axes]) < 0.05**2
    return [
        ("an organ's ragged border", distance + 3 * ragged < 0.5, organ),
        ("a missed lesion", organ & ~lesion, organ),
        ("a missed organ", np.zeros_like(organ), organ),
        ("a missed volume (halved)", np.zeros_like(organ), distance < 1),
    ]


def _squared_sum(axes: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    z, y, x = axes
    return z**2 + y**2 + x**2


def organizers_click(script: Path) -> Callable[[NDArray[np.bool_], NDArray[np.bool_]], Click]:
    """Return the organizers' click as a function, made of their functions and the body of their loop over classes."""
    source = script.read_text()
    names = {"np": np, "torch": torch, "cc3d": cc3d, "distance_transform_edt": distance_transform_edt}
    exec(_between(source, "def sample_coord", "parser = argparse"), names)
    loop = _between(source, "                        # Compute error mask", "                    # update model input")
    body = compile(textwrap.dedent(loop), str(script), "exec")

    def click(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Click:
        masks = {"segs_cls": prediction.astype(np.uint8), "gts_cls": truth.astype(np.uint8)}
        made = {"fg": [], "bg": []}
        exec(body, names | masks | {"clicks_cls": [made], "clicks_order": [[]], "ind": 0, "cls": 1, "verbose": False})
        for kind, positions in made.items():
            for position in positions:
                return voxel(position), kind == "fg"
        return None

    return click


def _between(text: str, start: str, end: str) -> str:
    if start not in text or end not in text:
        raise ValueError(
            f"the script has no part from {start.strip()!r} to {end.strip()!r}; expected CVPR25_iter_eval.py"
        )
    return text[text.index(start) : text.index(end)]


if __name__ == "__main__":
    sys.exit(run(main, ValueError))
