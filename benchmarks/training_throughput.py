"""`python -m benchmarks.training_throughput --data DIR`: what a training sample costs, and what of it is spent where.

Measures, in processor time of one thread, a sample's recipe and its making on the CPU (which a GPU does itself where
there is one). And in samples a second: the loader alone, the step alone (on samples drawn before), and both together;
and the share of a step's time that the simulated clicks take. Medians over the steps, in one run, on the same samples.
Steps of the patch and, where a finer look is trained, steps of the finer patch are measured one after the other.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from unittest import mock

import torch

from benchmarks.timing import timed, wait_for
from inference.command import Parser, run
from inference.predictor import DeviceError
from training import interaction
from training.config import CONFIGS, TrainingConfig
from training.dataset import Volume, load_volumes
from training.device import training_device
from training.device_clicks import BatchClicks
from training.loop import Run, begin
from training.step import accumulate, update
from training.stream import Step, Steps, stream

T = TypeVar("T")


def main() -> None:
    parser = Parser("python -m benchmarks.training_throughput", __doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--config", choices=sorted(CONFIGS), default="default")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    options = parser.parse_args()
    config, device = CONFIGS[options.config], training_device(options.device)
    volumes = load_volumes(options.data)
    print(f"configuration {options.config}, {options.steps} steps each, on {device}; {options.workers} worker(s),")
    print(f"{torch.get_num_threads()} thread(s); medians")
    for finer_look in (False, True) if config.model.finer > 1 else (False,):
        measure(
            replace(config, sampling=replace(config.sampling, finer_look=float(finer_look))), volumes, options, device
        )


def measure(config: TrainingConfig, volumes: list[Volume], options: argparse.Namespace, device: torch.device) -> None:
    """Steps that are all of one kind."""
    steps = Steps(volumes, config, seed=0)
    drawing, recipes = _on_one_thread(lambda: [steps.recipes(number) for number in range(options.steps + 2)])
    making, made = _on_one_thread(lambda: [each.rendered(volumes) for each in recipes])
    total, samples = sum(each.samples for each in made), made[0].samples
    drawn = list(stream(steps, 0, options.steps + 2, 0, device))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), device, steps=options.steps)
        state = begin(config, run, None)

        def step(drawn: Step) -> None:
            accumulate(state.network, state, drawn, config, run)
            update(state, config)
            wait_for(device)

        print(f"patch {tuple(drawn[0].batches[0].truth.shape[1:])}, {samples} samples a step")
        print(f"recipe                {1e3 * drawing / total:8.2f} ms a sample, one CPU thread")
        print(f"made from it          {1e3 * making / total:8.2f} ms a sample, one CPU thread; a GPU does it itself")
        loading = _intervals(stream(steps, 0, options.steps + 2, options.workers, device))
        print(f"loader alone          {samples / loading:8.2f} samples/s")
        stepping, clicking = _step_seconds(drawn, step, device)
        print(f"step alone            {samples / stepping:8.2f} samples/s")
        both = _intervals(_after(stream(steps, 0, options.steps + 2, options.workers, device), step))
        print(f"loader and step       {samples / both:8.2f} samples/s")
        print(f"click generation      {clicking:8.1%} of a step")


def _on_one_thread(action: Callable[[], T]) -> tuple[float, T]:
    """The processor's seconds that something takes, and what it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.thread_time()
    given = action()
    seconds = time.thread_time() - began
    torch.set_num_threads(threads)
    return seconds, given


def _intervals(items) -> float:
    """The median time between items, the first two left out."""
    times = [time.perf_counter() for _ in items]
    return statistics.median(after - before for before, after in itertools.pairwise(times[1:]))


def _after(items, action):
    for item in items:
        action(item)
        yield item


def _step_seconds(drawn: list[Step], step, device: torch.device) -> tuple[float, float]:
    """The median time of a step, and the share of all steps' time spent on finding and drawing clicks."""
    spent = 0.0
    original = interaction._click

    def counted(*arguments) -> BatchClicks:
        nonlocal spent
        seconds, clicks = timed(lambda: original(*arguments), device)
        spent += seconds
        return clicks

    with mock.patch.object(interaction, "_click", counted):
        seconds = [timed(lambda item=item: step(item), device)[0] for item in drawn]
    return statistics.median(seconds[1:]), spent / sum(seconds)


if __name__ == "__main__":
    sys.exit(run(main, DeviceError))
