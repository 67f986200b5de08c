"""`python -m benchmarks.gpu --out FILE.json`: what a GPU makes of inference and of training, in 150 seconds.

- The forward that inference runs: the default weights at 48³ and 96³, the full network (random weights) at 192³, on
  random input. Seconds in float16 and in float32, the peak of memory in float16, and how far float16 is from float32:
  the largest difference over the largest log-odds, and the share of voxels that change sign.
- Whole runs of `python -m inference`, each a process of its own, on a ball in noise of 96×160×160 voxels: for one
  object and for ten. The first one of all is told apart, since it also fills the file cache.
- Training with the default configuration's network, two clicks a sample: for both kinds of steps (plain, and with the
  fine pass) what the loader makes when nothing else is done, and steps at several numbers of samples a batch.

A batch that does not fit into memory is said, and larger ones are left out. Works on a CPU as well, in float32 there;
`--quick` asks for less of everything.
"""

from __future__ import annotations

import gc
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.process import REPOSITORY
from benchmarks.rows import Unavailable, Value, measure
from benchmarks.timing import timed, wait_for
from benchmarks.whole_run import ball_case, write_repeated
from inference import checkpoint, command
from inference.command import Parser
from inference.cpu_forward import for_cpu
from inference.deadline import process_age
from inference.model import load_model
from inference.network import FULL, IMAGE_AND_PROMPT_CHANNELS, LogOddsUNet, ResidualEncoderUNet
from inference.options import DEFAULT_WEIGHTS
from inference.predictor import DeviceError
from training.config import DEFAULT, TrainingConfig
from training.dataset import Volume, load_volumes
from training.device import training_device
from training.loop import Run, begin, half_precision_pays
from training.state import State
from training.step import accumulate, update
from training.stream import Step, Steps, stream

LOADED = 6
"""Steps of each worker that the loader is measured by; all bring their first one at about the same time."""

CLICKS = 2
"""Rounds of prediction and click in each measured step; the configuration's mean is 1.7."""


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns 0, or 1 if a row failed."""
    parser = Parser("python -m benchmarks.gpu", __doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--data", type=Path, nargs="+", help="folders of *.npz with imgs and gts, for the training rows"
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--workers", type=int, default=15, help="processes that draw samples (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=150, help="after which no row is begun (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small patches and batches, one repeat")
    options = parser.parse_args(arguments)
    device = training_device(options.device)
    spent = process_age() if arguments is None else 0.0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    about = machine(device) | {"weights": options.weights.name, "quick": options.quick}
    print("  ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plan = [
            *forward_plan(options.weights, device, options.quick),
            *whole_run_plan(options.weights, device, Path(folder), options.quick),
            *training_plan(options.data, device, options.workers, options.quick, Path(folder)),
        ]
        rows = measure(plan, options.out, about, options.seconds - spent)
    failed = [row.name for row in rows if row.error is not None]
    skipped = sum(row.skipped is not None for row in rows)
    print(f"{options.out}: {len(rows) - len(failed) - skipped} rows, {skipped} skipped, {len(failed)} failed")
    return 1 if failed else 0


def machine(device: torch.device) -> dict[str, object]:
    """What the figures are measured on and with."""
    about: dict[str, object] = {"device": str(device), "torch": torch.__version__, "numpy": np.__version__}
    about |= {"python": platform.python_version(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(device), "cudnn": torch.backends.cudnn.version()}
    return about


Plan = list[tuple[str, Callable[[], dict[str, Value]]]]


def forward_plan(weights: Path, device: torch.device, quick: bool) -> Plan:
    """The rows of the forward alone."""

    def default() -> ResidualEncoderUNet:
        return load_model(weights)[0]

    def full() -> ResidualEncoderUNet:
        return ResidualEncoderUNet(FULL).eval().requires_grad_(False)

    edges = ((48, default), (96, default), (64 if quick else 192, full))
    repeats = 1 if quick else 10
    return [
        (f"forward, {build.__name__}, {edge}³", partial(forward_row, build, edge, device, repeats))
        for edge, build in edges
    ]


def forward_row(build: Callable[[], ResidualEncoderUNet], edge: int, device: torch.device, repeats: int) -> dict:
    """Medians over ``repeats`` forwards after three to warm up, each waited for."""
    torch.manual_seed(0)
    channels = torch.randn(1, IMAGE_AND_PROMPT_CHANNELS, edge, edge, edge).to(device)
    network = LogOddsUNet(build()).eval()
    plain = network.to(device, memory_format=torch.contiguous_format)  # ty: ignore[no-matching-overload]  # No stub has it.
    warm_up = 3 if device.type == "cuda" else 1

    def run(network: nn.Module, half: bool) -> tuple[list[float], Tensor]:
        seconds = []
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=half):
            for _ in range(warm_up + repeats):
                taken, found = timed(lambda: network(channels), device)
                seconds.append(taken)
        return seconds, found.float()

    # Else convolutions in float32 round their factors to ten bits, and float16 would be held against that.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        single, expected = run(plain, half=False)
    with _peak(device) as peak:
        half, found = run(plain if device.type == "cuda" else for_cpu(plain), half=device.type == "cuda")
    scale = float(expected.abs().max())
    return {
        "ms": 1e3 * statistics.median(half[warm_up:]),
        "first ms": 1e3 * half[0],
        "float32 ms": 1e3 * statistics.median(single[warm_up:]),
        "GiB": peak.gib,
        "difference": float((found - expected).abs().max()) / scale,
        "other sign": float(((found > 0) != (expected > 0)).float().mean()),
    }


def whole_run_plan(weights: Path, device: torch.device, folder: Path, quick: bool) -> Plan:
    """The rows of whole processes."""
    names = ("one object, first", "one object", "ten objects")
    counts = (1, 1, 2 if quick else 10)
    if quick:
        names = (*names[:2], "two objects")
    return [
        (f"whole run, {name}", partial(whole_run_row, weights, device, folder / str(place), count))
        for place, (name, count) in enumerate(zip(names, counts))
    ]


def whole_run_row(weights: Path, device: torch.device, folder: Path, count: int) -> dict[str, Value]:
    folder.mkdir()
    case = write_repeated(ball_case(), count, folder)
    outputs = folder / "outputs"
    command = [sys.executable, "-m", "inference", "--inputs", case.parent, "--outputs", outputs]
    command += ["--weights", weights.resolve(), "--device", str(device)]
    seconds, done = timed(lambda: subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120))
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stdout + done.stderr).strip()[-250:]}")
    with np.load(outputs / case.name) as content:
        voxels = int(np.count_nonzero(content["segs"]))
    return {"s": seconds, "s an object": seconds / count, "voxels": voxels}


def training_plan(data: Sequence[Path] | None, device: torch.device, workers: int, quick: bool, folder: Path) -> Plan:
    """The rows of training; the volumes are read with the first one that needs them."""
    batches = (1, 2) if quick else (8, 16, 32, 64)
    config = DEFAULT
    if quick:
        edge = max(config.model.network.stride * 2, 16)  # Textures want as much.
        config = replace(config, model=replace(config.model, patch=(edge, edge, edge)))
    clicks = tuple(float(count == CLICKS) for count in range(CLICKS + 1))
    volumes: list[Volume] = []
    too_large: dict[bool, int] = {}

    def chosen(fine: bool, batch: int) -> TrainingConfig:
        if not data:
            raise Unavailable("no --data")
        if not volumes:
            volumes.extend(load_volumes(data, at_most=8 if quick else None))
        sampling = replace(config.sampling, finer_look=float(fine), clicks=clicks)
        return replace(config, sampling=sampling, batch=batch, finer_batch=batch)

    def loader(fine: bool) -> dict[str, Value]:
        return loader_row(chosen(fine, batches[0]), volumes, device, workers)

    def row(fine: bool, batch: int) -> dict[str, Value]:
        if fine in too_large:
            raise Unavailable(f"{too_large[fine]} samples did not fit into memory")
        try:
            return training_row(chosen(fine, batch), volumes, device, workers, 1 if quick else 5, folder)
        except torch.OutOfMemoryError as error:
            too_large[fine] = batch
            raise Unavailable("does not fit into memory") from error
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()

    plan: Plan = []
    for fine, kind in ((False, "plain"), (True, "fine pass")):
        plan.append((f"loader, {kind}", partial(loader, fine)))
        plan += [(f"training, {kind}, batch {batch}", partial(row, fine, batch)) for batch in batches]
    return plan


def loader_row(config: TrainingConfig, volumes: list[Volume], device: torch.device, workers: int) -> dict[str, Value]:
    """Samples a second that are drawn, and made on the device, when no steps are run; from when all workers are busy.

    Steps lie ready after the first one that every worker brings: only those behind them say how fast it goes.
    """
    busy, came, samples = max(workers, 1), [], 0
    for step in stream(Steps(volumes, config, seed=0), 0, LOADED * busy, workers, device):
        wait_for(device)
        came.append(time.perf_counter())
        samples = step.samples
    return {"samples/s": samples * (len(came) - busy) / (came[-1] - came[busy - 1])}


def training_row(
    config: TrainingConfig, volumes: list[Volume], device: torch.device, workers: int, repeats: int, folder: Path
) -> dict[str, Value]:
    """The median of ``repeats`` steps after two to warm up, each waited for, once its samples are there."""
    warm_up = 2 if device.type == "cuda" else 1
    run = Run(folder, device, steps=repeats, mixed_precision=half_precision_pays(device))
    state = begin(config, run, None)
    seconds = []
    with _peak(device) as peak:
        for step in stream(Steps(volumes, config, seed=0), 0, warm_up + repeats, workers, device):
            seconds.append(timed(partial(_step, state, step, config, run), device)[0])
    median = statistics.median(seconds[warm_up:])
    return {"steps/s": 1 / median, "samples/s": step.samples / median, "GiB": peak.gib}


class _peak:
    """The largest amount of GPU memory that was taken within a block, in GiB; None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.gib: float | None = None

    def __enter__(self) -> _peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self.gib = torch.cuda.max_memory_allocated(self._device) / 2**30


def _step(state: State, step: Step, config: TrainingConfig, run: Run) -> None:
    accumulate(state.network, state, step, config, run)
    update(state, config)


if __name__ == "__main__":
    sys.exit(command.run(main, checkpoint.CheckpointError, DeviceError))
