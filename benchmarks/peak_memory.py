"""`python -m benchmarks.peak_memory --authors CHECKOUT --authors-python PYTHON`: memory a voxel, by number of objects.

The peak of a whole run over a case of 512×512×200 voxels with box and previous mask, less that of a run over the same
objects in a volume of 32³: what a volume takes above the idle process. Ours runs the embedded default; the authors'
network answers with its box channel (`benchmarks/without_forward`), so that what is left is their arithmetic on whole
volumes. Numbers of objects for which a run does not fit into `--gib` are said not to fit. Without `--authors` ours are
measured alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import authors
from benchmarks.process import REPOSITORY, WITHOUT_FORWARD, Cost, ProcessError, median_costs, run
from benchmarks.volumes import ellipsoids, grey_values, write_objects
from inference import command
from inference.checkpoint import ModelConfig
from inference.command import Parser
from inference.memory import available_memory
from inference.network import FULL, ResidualEncoderUNet
from inference.prompts import NNINTERACTIVE_STYLE

SMALL = (32, 32, 32)


def main() -> None:
    parser = Parser("python -m benchmarks.peak_memory", __doc__.split("\n")[0])
    authors.add_options(parser, required=False)
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512), metavar=("D", "H", "W"))
    parser.add_argument("--objects", type=int, nargs="+", default=[2, 20, 60])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--gib",
        type=float,
        default=0.8 * available_memory() / 2**30,
        help="that a run may have: four fifths of the free",
    )
    options = parser.parse_args()
    shape = tuple(options.shape)
    voxels = int(np.prod(shape))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        container = None
        if options.authors:
            config = ModelConfig(FULL, (192, 192, 192), NNINTERACTIVE_STYLE)
            state = ResidualEncoderUNet(FULL).state_dict()
            container = authors.Authors.prepare(options, folder / "theirs", config, state)
        outputs = folder / "outputs"
        outputs.mkdir()
        memory = int(options.gib * 2**30)
        print(
            f"{'×'.join(map(str, shape))} voxels, uint8, medians of {options.runs} runs, at most {options.gib:.1f} GiB;"
        )
        print("peak above the idle process, and bytes a voxel")
        for count in options.objects:
            small, large = (
                _inputs(folder / f"{count}-{what}", extent, count)
                for what, extent in (("small", SMALL), ("large", shape))
            )

            def ours(inputs: Path) -> Cost:
                folders = ["--inputs", inputs, "--outputs", outputs]
                command = ["sh", "predict.sh", *folders, "--device", "cpu", "--seconds-per-class", "1e6"]
                weights = ["--weights", REPOSITORY / "weights" / "default.pt"]
                return run([*command, *weights], variables={"PYTHON": sys.executable}, memory=memory)

            commands: dict[str, Callable[[Path], Cost]] = {"ours": ours}
            if container is not None:
                commands["authors"] = partial(
                    container.predict, outputs=outputs, variables=WITHOUT_FORWARD, memory=memory
                )
            for who, command in commands.items():
                try:
                    taken = _above_idle(options.runs, command, small, large)
                except ProcessError as error:
                    print(f"{count:>3} objects, {who:<8} does not fit ({str(error).splitlines()[-1][:100]})")
                else:
                    print(f"{count:>3} objects, {who:<8}{taken / 2**20:8.0f} MiB{taken / voxels:8.2f}", flush=True)


def _inputs(folder: Path, shape: tuple[int, int, int], count: int) -> Path:
    """A folder of one case of ``count`` objects, with the previous run's label map, as a click's run has it."""
    folder.mkdir()
    labels = ellipsoids(shape, count)
    write_objects(folder / "MR_case.npz", grey_values(labels), labels, prev_pred=labels)
    return folder


def _above_idle(runs: int, command: Callable[[Path], Cost], small: Path, large: Path) -> int:
    costs = median_costs(runs, {"idle": lambda: command(small), "peak": lambda: command(large)})
    return costs["peak"].peak - costs["idle"].peak


if __name__ == "__main__":
    sys.exit(command.run(main))
