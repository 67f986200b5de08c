"""The paper authors' container code, run as their image runs it: what benchmarks compare with, never part of this.

It is taken from a checkout of their repository, and runs under an interpreter that has what it imports:

    git clone https://github.com/tidiane-camaret/segfm3d_nora_team theirs
    python -m venv theirs-venv && theirs-venv/bin/pip install -c constraints.txt torch monai nnunetv2
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.process import Cost, run
from inference.checkpoint import ModelConfig
from inference.nninteractive import export

CONTEXT = Path("docker/contexts/30_05_final")


def add_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """``--authors`` and ``--authors-python``."""
    parser.add_argument("--authors", type=Path, required=required, help="a checkout of their repository")
    parser.add_argument(
        "--authors-python", type=Path, required=required, help="the `python` of a venv with torch, monai and nnunetv2"
    )


@dataclass(frozen=True)
class Authors:
    """A copy of their container's working folder, with weights.

    Args:
        folder: the copy.
        python: the interpreter.
    """

    folder: Path
    python: Path

    @classmethod
    def prepare(
        cls, options: argparse.Namespace, folder: Path, config: ModelConfig, state: dict[str, Tensor]
    ) -> Authors:
        """Copies their code into a new folder and writes ``state`` as the checkpoint that it loads.

        Raises:
            FileNotFoundError: the checkout or what it imports is missing.
        """
        context = options.authors / CONTEXT
        script = context / "predict.py"
        python = options.authors_python.absolute()
        if not script.is_file():
            raise FileNotFoundError(
                f"{script}: missing; git clone https://github.com/tidiane-camaret/segfm3d_nora_team"
            )
        found = subprocess.run([python, "-c", "import torch, monai, nnunetv2"], capture_output=True, check=False)
        if found.returncode:
            raise FileNotFoundError(
                f"{python}: {python.with_name('pip')} install -c constraints.txt torch monai nnunetv2"
            )
        shutil.copytree(context, folder)
        name = re.search(r'checkpoint_path="([^"]+)"', script.read_text())
        if name is None:
            raise FileNotFoundError(f"{script}: names no checkpoint; expected the code of 30 May 2025")
        checkpoint = folder / name[1]
        checkpoint.parent.mkdir(exist_ok=True)
        export(folder / "exported", config, state)
        (folder / "exported" / "fold_0" / "checkpoint_final.pth").rename(checkpoint)
        return cls(folder, python)

    def imports(self) -> Cost:
        """Starts their interpreter and imports what they import."""
        return self._run(["python", "-c", "import src.method"], {})

    def predict(self, inputs: Path, outputs: Path, variables: Mapping[str, str], memory: int | None = None) -> Cost:
        """One run of their container's command over a folder of cases."""
        for name, target in (("inputs", inputs), ("outputs", outputs)):
            link = self.folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(target, target_is_directory=True)
        return self._run(["sh", "predict.sh"], variables, memory)

    def _run(self, command: list[str], variables: Mapping[str, str], memory: int | None = None) -> Cost:
        # Their script calls the interpreter by its bare name.
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return run(command, self.folder, {"PATH": path, **variables}, memory)
