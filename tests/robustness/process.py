"""``python -m inference`` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WITHOUT_CAPABILITIES = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
"""What keeps root from reading and writing whatever it likes."""


class Process:
    """The command with its folders, which it makes.

    Args:
        inputs, outputs: the folders.
        weights: for ``--weights``.
    """

    def __init__(self, inputs: Path, outputs: Path, weights: Path) -> None:
        self.inputs, self.outputs, self.weights = inputs, outputs, weights
        inputs.mkdir()
        outputs.mkdir()

    def line(self, *more: str) -> list[str]:
        """The command line, with time enough for any machine."""
        folders = ["--inputs", str(self.inputs), "--outputs", str(self.outputs), "--weights", str(self.weights)]
        return [sys.executable, "-m", "inference", *folders, "--device", "cpu", "--seconds-per-class", "1e6", *more]

    def start(self, *more: str, **options: object) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(self.line(*more), cwd=ROOT, env=environment, text=True, **pipes)

    def run(self, *before: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs it to its end; ``before`` stands before the command line."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
        line = [*before, *self.line()]
        return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    def names(self) -> list[str]:
        """What lies in the output folder, hidden files too."""
        return sorted(path.name for path in self.outputs.iterdir())
