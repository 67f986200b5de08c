"""`python -m benchmarks.whole_run`: one run of a case from the files to the file, ours beside nnInteractive's.

Runs `python -m inference` and the challenge baseline of the nninteractive package (`pip install nninteractive`; left
out where that is missing) with the same weights on the same case, in turns, each in a new process: imports, weights,
case, network, output. nnInteractive gets the weights as a folder that it loads, and enlarges their patch to 96³ where
it is smaller. Once with one object and once with ten, which are the case's boxes in turn, over and over.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.process import ProcessError, run
from benchmarks.timing import in_turns
from inference.case import CaseError
from inference.command import Parser
from inference.command import run as run_command
from inference.geometry import Box, voxel
from inference.model import load_model
from inference.nninteractive import WEIGHTS_LICENCE, export
from inference.options import DEFAULT_WEIGHTS

COUNTS = (1, 10)
BASELINE = """
import sys
import torch
from nnInteractive.inference.cvpr2025_challenge_baseline import predict

wanted, predict.CHECKPOINT_DIR = sys.argv.pop(1), sys.argv.pop(1)
Session = predict.nnInteractiveInferenceSession
predict.nnInteractiveInferenceSession = lambda device, **settings: Session(device=torch.device(wanted), **settings)
predict.main()
"""
"""The package's own script, which asks for a GPU and for weights in its working folder; all else is as it stands."""


def main() -> None:
    parser = Parser("python -m benchmarks.whole_run", __doc__.split("\n")[0])
    parser.add_argument("--case", type=Path, help="an .npz with imgs, spacing and boxes (default: a ball in noise)")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run_ours = ["-m", "inference", "--weights", str(options.weights.resolve()), "--device", options.device]
        run_theirs = None
        if importlib.util.find_spec("nnInteractive") is None:
            print("nninteractive: left out, since it is not installed; pip install nninteractive")
        else:
            run_theirs = ["-c", BASELINE, options.device, str(_exported(options.weights, folder))]
        case = ball_case() if options.case is None else _prompted(options.case)
        shape = "×".join(map(str, case["imgs"].shape))
        source = "a ball in noise" if options.case is None else options.case.name
        print(f"{source}, {shape}, on {options.device}, medians of {options.runs} runs in turns, file cache warm")
        print(f"{'':<14}{'objects':>8}{'seconds':>10}{'an object':>11}{'min':>8}{'max':>8}")
        for count in COUNTS:
            path = write_repeated(case, count, folder)
            output = folder / f"outputs{count}" / path.name
            commands = {"ours": [*run_ours, "--inputs", str(path.parent), "--outputs", str(output.parent)]}
            if run_theirs is not None:
                commands["nninteractive"] = [*run_theirs, "--case_path", str(path), "--save_path", str(output)]
            runs = {name: partial(_run, arguments, output) for name, arguments in commands.items()}
            try:
                measured = in_turns(runs, options.runs)
            except ProcessError as error:
                sys.exit(str(error))
            for name, each in measured.items():
                median = statistics.median(each)
                print(f"{name:<14}{count:>8}{median:>10.2f}{median / count:>11.2f}{min(each):>8.2f}{max(each):>8.2f}")


def _run(arguments: list[str], output: Path) -> float:
    """Seconds of a run, which must leave a label map at ``output``."""
    output.unlink(missing_ok=True)
    cost = run([sys.executable, *arguments])
    if not output.is_file():
        raise ProcessError(f"{' '.join(arguments)} wrote no {output}")
    return cost.seconds


def _exported(weights: Path, folder: Path) -> Path:
    """The weights as nnInteractive loads them, under the fold that its challenge script asks for."""
    network, config = load_model(weights)
    target = folder / "nninteractive"
    export(target, config, network.state_dict(), WEIGHTS_LICENCE)
    (target / "fold_0").rename(target / "fold_all")
    return target


def _prompted(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=True) as content:  # The challenge's boxes are pickled; give files that you trust.
        if "boxes" not in content.files:
            raise CaseError(f"{path}: holds no boxes; expected a case with one box an object")
        return {key: content[key] for key in ("imgs", "spacing", "boxes")}


def ball_case() -> dict[str, np.ndarray]:
    """96×160×160 voxels of noise around a bright ball of 60 voxels, which has a box."""
    shape, centre, radius = (96, 160, 160), (48, 80, 80), 30
    image = np.random.default_rng(0).normal(80, 20, shape)
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    image[sum((axis - middle) ** 2 for axis, middle in zip(axes, centre)) <= radius**2] += 80
    low, high = (voxel(middle + sign * radius for middle in centre) for sign in (-1, 1))
    return {
        "imgs": image.clip(0, 255).astype(np.uint8),
        "spacing": np.ones(3),
        "boxes": np.array([{key: np.int64(value) for key, value in Box(low, high).entry().items()}], dtype=object),
    }


def write_repeated(case: dict[str, np.ndarray], count: int, folder: Path) -> Path:
    """A folder of one case with ``count`` objects."""
    path = folder / f"inputs{count}" / f"CT_{count}_objects.npz"
    path.parent.mkdir()
    boxes = np.array([case["boxes"][index % len(case["boxes"])] for index in range(count)], dtype=object)
    np.savez_compressed(path, imgs=case["imgs"], spacing=case["spacing"], boxes=boxes)
    return path


if __name__ == "__main__":
    sys.exit(run_command(main, CaseError))
