"""`python -m benchmarks.fixed_cost --authors CHECKOUT --authors-python PYTHON`: a run without its forward.

One object of 96×160×160 voxels: start of the process, imports, building the network and loading its weights, reading,
preparing, fusing and writing, as `predict.sh` does it here and in the paper authors' container. The network's answer is
its box channel, and each of its weights is read once (`benchmarks/without_forward`), on both sides. Both have the full
configuration with the same random weights; the embedded default is beside them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import authors
from benchmarks.process import REPOSITORY, WITHOUT_FORWARD, Cost, median_costs, run
from benchmarks.volumes import ellipsoids, grey_values, write_objects
from inference import checkpoint, command
from inference.command import Parser
from inference.network import FULL, ResidualEncoderUNet
from inference.prompts import NNINTERACTIVE_STYLE

SHAPE = (96, 160, 160)
CONFIG = checkpoint.ModelConfig(FULL, (192, 192, 192), NNINTERACTIVE_STYLE)


def main() -> None:
    parser = Parser("python -m benchmarks.fixed_cost", __doc__.split("\n")[0])
    authors.add_options(parser)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2, help="processor cores that all runs may use")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs, outputs = folder / "inputs", folder / "outputs"
        for each in (inputs, outputs):
            each.mkdir()
        labels = ellipsoids(SHAPE, 1)
        write_objects(inputs / "MR_case.npz", grey_values(labels), labels)
        state = ResidualEncoderUNet(FULL).state_dict()
        container = authors.Authors.prepare(options, folder / "theirs", CONFIG, state)
        checkpoint.save(folder / "full.pt", CONFIG, state)
        checkpoint.save(folder / "half.pt", CONFIG, state, torch.float16)
        del state

        def ours(weights: Path) -> Cost:
            # On a busy machine the default limit would leave only the fallback, which needs no network.
            folders = ["--inputs", inputs, "--outputs", outputs, "--seconds-per-class", "1e6"]
            variables = {"PYTHON": sys.executable, **WITHOUT_FORWARD}
            return run(["sh", "predict.sh", *folders, "--weights", weights, "--device", "cpu"], variables=variables)

        costs = median_costs(
            options.runs,
            {
                "ours, full configuration": partial(ours, folder / "full.pt"),
                "ours, the same in half precision": partial(ours, folder / "half.pt"),
                "ours, embedded default": partial(ours, REPOSITORY / "weights" / "default.pt"),
                "  of which imports": lambda: run([sys.executable, "-c", "import inference.__main__"]),
                "authors, full configuration": lambda: container.predict(inputs, outputs, WITHOUT_FORWARD),
                "  of which their imports": container.imports,
            },
        )
    print(f"one object, {'×'.join(map(str, SHAPE))} voxels, {options.cores} cores, on the CPU, file cache warm;")
    print(f"medians of {options.runs} runs; seconds of the clock and of the processor, and their share of the authors'")
    theirs = costs["authors, full configuration"]
    for what, cost in costs.items():
        clock, processor = cost.seconds, cost.cpu_seconds
        shares = f"{clock / theirs.seconds:10.3f}{processor / theirs.cpu_seconds:8.3f}"
        print(f"{what:<34}{clock:8.2f}{processor:8.2f}{shares}")


if __name__ == "__main__":
    sys.exit(command.run(main))
