"""`python -m benchmarks.container_run --case CASE.npz`: where the seconds of one organizers' run go, and its memory.

Runs the image several times up to each of its stages (container, imports, weights, whole run) in turn, so that all see
the same machine, and prints the medians and what each stage adds. The whole run is the organizers' line; the peak
memory is that of the process in it.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.timing import seconds_in_turns
from inference.command import Parser, run

WHOLE = "sh predict.sh"
STAGES = {
    "container": "true",
    "and imports": 'python3 -c "import inference.__main__"',
    "and weights": 'python3 -c "from inference.__main__ import *; from inference.options import *; '
    "load_segmenter(DEFAULT_WEIGHTS, 'auto')\"",
    "whole run": WHOLE,
}
MEMORY = (
    "python3 -c 'import resource, sys; sys.argv = [sys.argv[0]]; from inference.__main__ import main; main(); "
    'print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\''
)


def main() -> None:
    parser = Parser("python -m benchmarks.container_run", __doc__.split("\n")[0])
    parser.add_argument("--case", type=Path, required=True, help="an .npz as the evaluator hands it out")
    parser.add_argument("--image", default="segfm3d:latest")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs", Path(folder) / "outputs"
        for each in (inputs, outputs):
            each.mkdir()
            each.chmod(0o777)
        shutil.copy(options.case, inputs)

        def run(command: str) -> str:
            mounts = ["-v", f"{inputs}/:/workspace/inputs/", "-v", f"{outputs}/:/workspace/outputs/"]
            line = [
                "docker",
                "container",
                "run",
                "-m",
                "32G",
                "--rm",
                *mounts,
                options.image,
                "/bin/bash",
                "-c",
                command,
            ]
            return subprocess.run(line, check=True, capture_output=True, text=True).stdout

        said = run(WHOLE)  # Also warms the file cache.
        stages = {stage: partial(run, command) for stage, command in STAGES.items()}
        seconds = seconds_in_turns(stages, options.runs, warm_up=0)
        peak = int(run(MEMORY).rsplit("peak ", 1)[1])
    print(said.strip())
    print(f"median of {options.runs} runs, file cache warm; seconds until the stage has ended, and what it adds")
    before = 0.0
    for stage, times in seconds.items():
        print(f"  {stage:<12}{times.median:7.2f}{times.median - before:+8.2f}")
        before = times.median
    print(f"  peak memory of the process: {peak / 2**20:.2f} GiB")


if __name__ == "__main__":
    sys.exit(run(main))
