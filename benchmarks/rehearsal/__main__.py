"""`python -m benchmarks.rehearsal`: the recipe of docs/how-to/train-on-a-gpu.md, on the CPU of this machine.

In an environment with the GPU machine's versions, in a clean copy of the repository, with a tiny network and two
minutes of training. The first training command is ended by SIGTERM, the second one by SIGKILL, and the third one goes
on to the end. What is carried and what comes back is held against the machine's limits. Then a step of each kind on an
emulated CUDA device (:mod:`benchmarks.rehearsal.emulation`).
"""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch

from benchmarks.rehearsal.environment import Environment, MachineError, prepared
from benchmarks.rehearsal.limits import MIB, LimitError, Limits
from benchmarks.rehearsal.machine import REPOSITORY, Machine
from benchmarks.rehearsal.recipe import PAGE, Command, commands
from inference import checkpoint
from inference.checkpoint import ModelConfig
from inference.command import Parser, run
from inference.model import load_model
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.npz import read_array
from inference.prompts import PAPER_STYLE
from training import pieces
from training.config import DEFAULT
from training.doctor import write_synthetic
from training.log import read_log
from training.loop import Run, begin
from training.pack import pack
from training.step import update

TINY = ModelConfig(NetworkConfig((8, 16, 24), (1, 1, 1)), (16, 16, 16), PAPER_STYLE, isotropic_zoom=False, finer=2)
WEIGHTS = "runs/tiny.pt"
SMALL = {
    "-m training.doctor ": f"-m training.doctor --device cpu --weights {WEIGHTS} ",
    "-m benchmarks.gpu ": f"-m benchmarks.gpu --device cpu --quick --workers 1 --weights {WEIGHTS} ",
    "--init weights/default.pt": f"--init {WEIGHTS} --patch 16 --workers 1",
    "--batch 32 --finer-batch 12": "--batch 2 --finer-batch 1",
    "--minutes 25": "--minutes 2 --checkpoint-every 5",
}
"""What makes the recipe small."""

STOPS = (signal.SIGTERM, signal.SIGKILL, None)
"""What ends each training command in the middle."""

COMMAND_SECONDS = 600.0


class StepError(Exception):
    """A step that failed; the message says what was expected."""


def main(arguments: list[str] | None = None) -> int:
    """Rehearses; returns 0, or 1 if a step failed."""
    parser = Parser("python -m benchmarks.rehearsal", __doc__.split("\n")[0])
    parser.add_argument("--environment", type=Path, required=True, help="folder; made if it is not there (3 GB)")
    parser.add_argument("--packed", type=Path, help="folder of part1, part2, … (default: synthetic ones)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        failed = rehearse(options.environment, options.packed, Path(folder))
    print(f"{failed} step(s) failed" if failed else "every step is fine", flush=True)
    return 1 if failed else 0


def rehearse(environment: Path, packed: Path | None, folder: Path) -> int:
    """Goes through all steps, a line each; returns how many failed. After a failed one those that need it are left."""
    limits, steps = Limits(), _Steps()
    machine: list[Machine] = []

    def versions() -> str:
        made = prepared(environment)
        machine.append(Machine(folder / "machine", made, limits))
        return made.versions()

    if not steps.take("environment", versions):
        return steps.failed
    steps.take("pieces of default.pt", lambda: default_pieces(folder / "default", limits))
    if packed is None:
        packed = folder / "packed"
        steps.take("pack", lambda: synthetic_parts(packed, folder / "data"))
    stops = iter(STOPS)
    for command in commands(PAGE.read_text(encoding="utf-8"), SMALL | {"/tmp/segfm3d": str(machine[0].work)}):
        stop = next(stops) if command.trains else None

        def attempt(command: Command = command, stop: signal.Signals | None = stop) -> str:
            return run_command(machine[0], command, stop, packed, folder / "returned", steps.show)

        if not steps.take(f"command {command.number}", attempt):
            return steps.failed
    steps.take("join", lambda: joined(folder))
    steps.take("emulated device", lambda: emulation(machine[0].environment))
    return steps.failed


class _Steps:
    """Makes steps, a line each, and counts those that fail."""

    def __init__(self) -> None:
        self.failed = 0
        self._name = ""

    def take(self, name: str, step: Callable[[], str]) -> bool:
        self._name, began = name, time.monotonic()
        try:
            verdict, found = "ok", step()
        except (StepError, LimitError, MachineError, pieces.PiecesError, OSError) as error:
            verdict, found = "FAIL", str(error)
            self.failed += 1
        self.show("")
        print(f"{verdict:<5} {name:<22} {time.monotonic() - began:5.0f} s  {found}", flush=True)
        return verdict == "ok"

    def show(self, news: str) -> None:
        """On a terminal, what is going on; nothing elsewhere."""
        if sys.stderr.isatty():
            print(f"\r… {self._name} {news:<40}" if news else f"\r{'':<70}\r", end="", file=sys.stderr, flush=True)


def default_pieces(folder: Path, limits: Limits) -> str:
    """The pieces of the default network's state after a step, as large as any."""
    run = Run(folder, torch.device("cpu"), steps=1, mixed_precision=False)
    folder.mkdir()
    state = begin(DEFAULT, run, None)
    for parameter in state.network.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    update(state, DEFAULT)
    (folder / "log.csv").write_text("step\n" * 10_000)
    pieces.write(state, DEFAULT.model, folder / "log.csv", folder / "out" / "pieces", run.piece_megabytes)
    found = limits.give_back(folder / "out")
    shutil.rmtree(folder)
    return found


def synthetic_parts(packed: Path, folder: Path) -> str:
    """Three parts of synthetic cases, and a label map without an image."""
    write_synthetic(folder, count=6)
    paths = sorted(folder.glob("*.npz"))
    sizes = [path.stat().st_size for path in paths]
    shapes = folder / "shapes"
    shapes.mkdir()
    np.savez_compressed(shapes / "synthetic_1.npz", gts=read_array(paths[0], "gts"))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        result = pack(folder, packed, [2 * max(sizes)] * 3, margin=40, shapes=shapes)
    if result.files != 7:
        raise StepError(f"{result.files} of 7 files were packed")
    return f"6 synthetic cases and a label map, {sum(sizes) / MIB:.1f} MiB, in 3 parts"


def run_command(
    machine: Machine,
    command: Command,
    stop: signal.Signals | None,
    packed: Path,
    returned: Path,
    show: Callable[[str], None],
) -> str:
    """Runs one command of the recipe as the machine would, and keeps what comes back."""
    source = packed / Path(command.carries).name if command.carries else packed
    if command.carries and not source.is_dir():
        raise StepError(f"{source}: no such folder; the recipe carries it")
    carried = machine.carry(command.carries, source)
    network = ResidualEncoderUNet(TINY.network)
    (machine.repository / WEIGHTS).parent.mkdir(exist_ok=True)
    checkpoint.save(machine.repository / WEIGHTS, TINY, network.state_dict())
    ended = machine.run(command.text, stop, COMMAND_SECONDS, show)
    expected = {None: 0, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}[stop]
    if ended.code != expected or (stop is not None) != ended.stopped:
        raise StepError(f"exit code {ended.code}, expected {expected}; it ended with\n{ended.said}")
    back = machine.limits.give_back(machine.out)
    if command.trains:
        shutil.rmtree(returned, ignore_errors=True)
        shutil.copytree(machine.out, returned)
        reached = f", step {pieces.join(returned / 'pieces', returned.with_name('joined'))}"
    else:
        reached = ""
    how = "" if stop is None else f"ended by {stop.name}, "
    return f"{how}exit code {ended.code}{reached}; {carried}; {back}"


def joined(folder: Path) -> str:
    """What came back of the last command: usable weights, and a log without a gap."""
    load_model(folder / "joined" / "weights.pt")
    rows = [int(row["step"]) for row in read_log(folder / "joined" / "log.csv")]
    if rows != list(range(1, len(rows) + 1)):
        raise StepError(f"log.csv: {len(rows)} rows up to step {max(rows, default=0)}; expected one a step")
    return f"weights load, {len(rows)} steps in the log, none missing"


def emulation(environment: Environment) -> str:
    """A step of each kind on an emulated CUDA device."""
    if not environment.has_cuda_build():
        return "left out: this torch is built without CUDA, which the emulated device needs"
    environment.build_driver()
    variables = environment.variables(LD_PRELOAD=str(environment.driver), OMP_NUM_THREADS="2")
    done = subprocess.run(
        [environment.python, "-m", "benchmarks.rehearsal.emulation"],
        cwd=REPOSITORY,
        env=variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise StepError(f"exit code {done.returncode}\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return "\n" + "\n".join(f"      {line}" for line in done.stdout.strip().splitlines())


if __name__ == "__main__":
    sys.exit(run(main))
