"""`python -m benchmarks.rehearsal.emulation`: steps of training and a case of inference on an emulated CUDA device.

For a step of each kind: the loss, kernel launches, and what made the host wait for the device, with the line; more than
a bound of either fails. Then the state is saved and loaded, a network is judged as short runs are, and a case is
segmented on the device and on the CPU.
Needs what :mod:`benchmarks.rehearsal.environment` sets up; `make rehearse` does.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.rehearsal.device import CUDA, Counts, CudaTensor, emulated
from benchmarks.training_ablation import judge, judging_samples
from inference import deadline
from inference.command import run
from inference.network import ResidualEncoderUNet
from training.config import DEFAULT, TrainingConfig
from training.dataset import Volume, load_volumes
from training.doctor import WEIGHTS, agreement, write_synthetic
from training.loop import Run, begin
from training.step import accumulate, update
from training.stream import Steps, stream

MOST_WAITS = 2
"""Times that the host may wait for the device in a step."""

MOST_LAUNCHES = 2500
"""Kernels of a step: forward, backward, two clicks and the optimizers."""

SMALL = replace(DEFAULT, model=replace(DEFAULT.model, patch=(32, 32, 32)), batch=2, finer_batch=1)
"""The embedded weights' network, whose launches do not depend on the patch."""

CLICKS = 1
"""Rounds for all samples; a further one is for hard ones."""


def main() -> int:
    """Makes the steps; returns 0, or 1 if a bound is not kept or a loss is not finite."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_synthetic(folder / "data")
        volumes = load_volumes(data)
        # Its thread would not know of the device.
        deadline.Watchdog.run = lambda self, compute, seconds: compute()
        with emulated() as counts:
            fine = [step_of(kind, volumes, folder / str(kind), counts) for kind in (False, True)]
            print(f"judged: {judged(volumes)}", flush=True)
            print(f"inference: {agreement(data, WEIGHTS, CUDA)}", flush=True)
    return 0 if all(fine) else 1


def step_of(fine_pass: bool, volumes: list[Volume], out: Path, counts: Counts) -> bool:
    """Makes two steps of one kind, since the first one sets up the optimizers, and counts in the second one.

    Returns:
        whether it is within the bounds.
    """
    clicks = tuple(float(count == CLICKS) for count in range(CLICKS + 1))
    config = replace(SMALL, sampling=replace(SMALL.sampling, finer_look=float(fine_pass), clicks=clicks, hard_clicks=1))
    run = Run(out, CUDA, steps=2, workers=0)
    out.mkdir()
    state = begin(config, run, None)
    elsewhere = [name for name, each in state.network.named_parameters() if not isinstance(each.data, CudaTensor)]
    steps = iter(stream(Steps(volumes, config, seed=0), 0, 3, 0, CUDA))
    for number in range(2):
        if number:
            counts.launches.clear()
            counts.waits.clear()
        drawn = next(steps)
        loss, dice = accumulate(state.network, state, drawn, config, run)
        update(state, config)
        state.step += 1
    launched, waited = counts.launches.copy(), counts.waits.copy()
    launches, waits, value = launched.total(), waited.total(), float(loss)
    kind = "fine pass" if fine_pass else "plain"
    print(f"{kind} step: loss {value:.3f}, Dice {float(dice):.3f}, {launches} launches, {waits} waits", flush=True)
    for why, times in waited.most_common():
        print(f"    {times} × {why}")
    print("    most launched: " + ", ".join(f"{times} × {name}" for name, times in launched.most_common(6)))
    print(f"    saved and loaded: {_saved_and_loaded(state, config, run)}", flush=True)
    within = waits <= MOST_WAITS and launches <= MOST_LAUNCHES
    if not within:
        print(f"    FAIL: at most {MOST_WAITS} waits and {MOST_LAUNCHES} launches a step were expected")
    if elsewhere:
        print(f"    FAIL: parameters that are not on the device: {', '.join(elsewhere[:3])}")
    return within and not elsewhere and math.isfinite(value)


def judged(volumes: list[Volume]) -> str:
    """What a fresh network reaches on two samples of a volume."""
    network = ResidualEncoderUNet(SMALL.model.network).to(CUDA).eval()
    figures = judge(network, SMALL.model.style, judging_samples(SMALL, volumes[:1], 2))
    return ", ".join(f"{kind}: Dice {each.first:.3f} to {each.final:.3f}" for kind, each in figures.items())


def _saved_and_loaded(state, config: TrainingConfig, run: Run) -> str:
    state.save(run.out / "last.pt")
    again = begin(config, run, None)
    for before, after in zip(state.network.parameters(), again.network.parameters()):
        written, read = before.data, after.data
        assert isinstance(written, CudaTensor) and isinstance(read, CudaTensor)
        if not torch.equal(written.values, read.values):
            raise AssertionError("the loaded network is not the saved one")
    return f"step {again.step}"


if __name__ == "__main__":
    sys.exit(run(main))
