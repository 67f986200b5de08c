"""The interpreter and the packages of a GPU machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = "3.12"
PACKAGES = ("torch==2.11.0", "numpy==2.5.2", "scipy", "scikit-image", "matplotlib", "tqdm", "pillow", "jinja2")
ABSENT = ("cc3d", "edt", "SimpleITK", "surface_distance", "nilearn", "pytest", "hypothesis")
"""What the machine does not have, hidden where the environment has it."""


class MachineError(Exception):
    """The environment cannot be made; the message is one line: what is missing, and what to do."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Args:
        folder: where it is.
    """

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def driver(self) -> Path:
        return self.folder / "lib" / "emulated" / "libcuda.so.1"

    def variables(self, **others: str) -> dict[str, str]:
        """The variables of a command on the machine: its interpreter first, and what it does not have hidden."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("SEGFM3D_", "PYTHON"))}
        path = f"{self.python.parent}{os.pathsep}{variables['PATH']}"
        return variables | {
            "PATH": path,
            "PYTHONPATH": str(HERE / "absent"),
            "REHEARSAL_ABSENT": " ".join(ABSENT),
            **others,
        }

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs the interpreter."""
        settings = self.variables(**variables)
        return subprocess.run([self.python, *arguments], env=settings, capture_output=True, text=True)

    def versions(self) -> str:
        """Python's, torch's and NumPy's."""
        code = "import platform, numpy, torch; print(platform.python_version(), torch.__version__, numpy.__version__)"
        done = self.run("-c", code)
        if done.returncode:
            raise MachineError(f"{self.folder}: {done.stderr.strip()[-200:]}; remove the folder, and run again")
        python, torch, numpy = done.stdout.split()
        return f"Python {python}, torch {torch}, numpy {numpy}"

    def has_cuda_build(self) -> bool:
        """Whether its torch can be shown an emulated device; a GPU is not needed."""
        return self.run("-c", "import sys, torch; sys.exit(torch.version.cuda is None)").returncode == 0

    def build_driver(self) -> None:
        """Compiles what stands in for CUDA's driver.

        Raises:
            MachineError: there is no compiler, or it fails.
        """
        source = HERE / "driver.cpp"
        if self.driver.exists() and self.driver.stat().st_mtime > source.stat().st_mtime:
            return
        if shutil.which("g++") is None:
            raise MachineError("no g++ here; install it, for example with apt-get install g++")
        self.driver.parent.mkdir(parents=True, exist_ok=True)
        command = ["g++", "-std=c++17", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", self.driver, source]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise MachineError(f"{source}: {done.stderr.strip()[-300:]}")


def prepared(folder: Path) -> Environment:
    """An environment with the machine's versions, made where it is not there (some 3 GB, some minutes).

    Raises:
        MachineError: no interpreter of that version, or a package cannot be had.
    """
    environment, ready = Environment(folder.resolve()), folder / "ready"
    if ready.exists():
        return environment
    print(f"{folder}: is being made, which takes some minutes and 3 GB", flush=True)
    _checked([_interpreter(), "-m", "venv", "--clear", folder])
    _checked([environment.python, "-m", "pip", "install", "--quiet", *PACKAGES])
    ready.touch()
    return environment


def _checked(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise MachineError(f"{' '.join(map(str, command[:4]))} …: {done.stderr.strip()[-300:]}")


def _interpreter() -> str:
    """Python of the machine's version: this one, that on the path, or one that pyenv has."""
    installed = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{PYTHON}*/bin/python"))
    for candidate in (sys.executable, f"python{PYTHON}", *map(str, installed)):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        except FileNotFoundError:
            continue
        if done.stdout.strip() == PYTHON:
            return candidate
    raise MachineError(f"no Python {PYTHON} here; install it, for example with pyenv install {PYTHON}")
