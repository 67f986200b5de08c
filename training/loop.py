"""The training loop."""

from __future__ import annotations

import copy
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from inference import checkpoint
from inference.network import ResidualEncoderUNet
from training import pieces
from training.activations import checkpoint_stages
from training.config import TrainingConfig
from training.dataset import Volume
from training.device import process_rank
from training.lock import held
from training.log import Log, draw_curves
from training.muon import Muon, inner_kernels, rescale_kernels
from training.shapes.library import LabelMap
from training.state import State
from training.step import LossScaler, accumulate, adamw, update
from training.stream import Steps, stream

ENDLESS = 2**31
"""Steps of a run that only the clock ends."""


@dataclass(frozen=True)
class Run:
    """How and where a run is carried out; nothing here changes what is learnt, but for ``seed`` and how long it is.

    Args:
        out: folder for ``last.pt`` (all that a resumed run needs), ``weights.pt`` (what inference reads: the running
            average, float16), ``log.csv`` and ``curves.png``.
        device: where the network is.
        steps: of the optimizer, in all; None if ``minutes`` says how long.
        minutes: of the run in all, earlier commands, imports and the reading of the data included. The learning rate
            follows the clock, and the last save ends within them.
        mixed_precision: float16 on a GPU, bfloat16 on a CPU; see :func:`half_precision_pays`.
        compile: whether the forward is compiled; a minute or two at the start, then a sixth less time a step.
        checkpoint_activations: whether stages are computed again for their gradients
            (:func:`training.activations.checkpoint_stages`).
        workers: processes that draw samples ahead; 0 for none.
        checkpoint_every: seconds.
        pieces: folder for the state in pieces at every checkpoint (:mod:`training.pieces`); None for none.
        piece_megabytes: of a piece, at most.
        elapsed: seconds that this process has spent before the run, which count as its own.
        clock: tells the time in seconds.
    """

    out: Path
    device: torch.device
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    mixed_precision: bool = True
    compile: bool = False
    checkpoint_activations: bool = False
    workers: int = 1
    checkpoint_every: float = 60.0
    pieces: Path | None = None
    piece_megabytes: float = 16.0
    elapsed: float = 0.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a run has either steps or minutes")

    def progress(self, step: int, seconds: float) -> float:
        """Returns how much of the run lies behind, from 0 to 1."""
        done = seconds / self.limit if self.steps is None else step / self.steps
        return min(done, 1.0)

    @property
    def limit(self) -> float:
        """Seconds of the run in all; infinite where steps say when it ends."""
        return float("inf") if self.minutes is None else 60 * self.minutes


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        weights: to ship: the running average, or the weights themselves if none is kept.
        step: the last one.
        signal: that ended it early; None if it came to its end.
    """

    weights: ResidualEncoderUNet
    step: int
    signal: int | None


def half_precision_pays(device: torch.device) -> bool:
    """Returns whether the network is faster in half precision: on a GPU, and on CPUs that multiply bfloat16 in tiles.

    Others than those with AMX convert bfloat16 before they multiply, and take up to twice the time of float32.
    """
    return device.type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """Returns the rate: a linear warm-up by steps, times a cosine from the peak to the final rate by progress.

    Args:
        step: of the optimizer, from 0.
        progress: of the whole run, from 0 to 1.
    """
    span = config.learning_rate - config.final_learning_rate
    rate = config.final_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2
    return rate * min((step + 1) / max(config.warmup, 1), 1.0)


def train(
    config: TrainingConfig,
    volumes: Sequence[Volume],
    run: Run,
    initial: dict[str, Tensor] | None = None,
    shapes: Sequence[LabelMap] = (),
) -> Outcome:
    """Trains from ``initial`` or from scratch, or goes on from ``out/last.pt`` where there is one.

    SIGTERM and SIGINT end it after the step at hand, with everything saved. Under ``torchrun`` each process draws its
    share of every step, and the first one's clock counts.

    Args:
        config: what is trained, and how.
        volumes: labelled images, in memory or on disk.
        run: where, and how long.
        initial: the network's weights to begin with.
        shapes: label maps without images.

    Raises:
        ResumeError: ``out/last.pt`` is of another run.
        FolderInUseError: another run writes into ``out``.
    """
    rank, processes = join_processes(run.device), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(run.seed)
    torch.backends.cudnn.benchmark = True  # Patches have two sizes, and the fastest kernels for each are found once.
    run.out.mkdir(parents=True, exist_ok=True)
    with (
        held(run.out) if rank == 0 else nullcontext(),
        _signals() as received,
    ):
        state = begin(config, run, initial)
        if run.checkpoint_activations:
            checkpoint_stages(state.network)
        if run.compile:
            # Two sizes of patches: one graph for any size would be slower than one for each.
            state.network.to(memory_format=torch.channels_last_3d)  # ty: ignore[no-matching-overload]  # No stub has it.
            state.network.compile(dynamic=False)
        # The deep-supervision heads are not computed, so they have no gradient to wait for.
        forward = (
            DistributedDataParallel(state.network, find_unused_parameters=True) if processes > 1 else state.network
        )
        clock = _Clock(run, state.seconds)
        drawn = iter(
            stream(
                Steps(volumes, config, run.seed, rank, processes, shapes),
                state.step,
                ENDLESS if run.steps is None else run.steps,
                run.workers,
                run.device,
            )
        )
        with Log(run.out / "log.csv", state.step) if rank == 0 else nullcontext() as log:
            if log is not None:
                compiles = "; it compiles, which takes minutes" if run.compile else ""
                print(f"first step: {state.step + 1}, on {run.device}{compiles}", flush=True)
            while not clock.ended(state.step, received):
                rate = learning_rate(config, state.step, run.progress(state.step, clock.total))
                for optimizer in state.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                began = run.clock()
                step = next(drawn)
                waited = run.clock() - began
                loss, dice = accumulate(forward, state, step, config, run)
                update(state, config)
                state.step += 1
                state.samples += processes * step.samples
                state.seconds = clock.tick()
                if log is None:  # The first process alone writes.
                    continue
                row = {"step": state.step, "samples": state.samples, "seconds": state.seconds, "learning_rate": rate}
                log.step(row, loss, dice, waited)
                if log.due:
                    log.report(state.skipped)
                if clock.save_due:
                    with clock.saving():
                        log.report(state.skipped)
                        _save(state, config, run)
            if log is not None:
                log.report(state.skipped)
                _save(state, config, run)
        del drawn  # Ends the workers.
        if rank == 0 and state.step:
            draw_curves(run.out / "log.csv", run.out / "curves.png")
    if distributed.is_initialized():
        # The first process writes for a while after the last step; one that left before it could keep it from ending.
        distributed.barrier()
        distributed.destroy_process_group()
    return Outcome(state.average, state.step, received[0] if received else None)


def begin(config: TrainingConfig, run: Run, initial: dict[str, Tensor] | None) -> State:
    """Returns a run's state at its start, or where its last checkpoint left it."""
    network = ResidualEncoderUNet(config.model.network).to(run.device)
    if initial is not None:
        network.load_state_dict(initial)
        if config.muon:
            rescale_kernels(network)
    average = copy.deepcopy(network).requires_grad_(False) if config.average else network
    scaler = LossScaler(run.device, enabled=run.mixed_precision and run.device.type == "cuda")
    state = State(network, average, optimizers(config, network), scaler)
    if (run.out / "last.pt").exists():
        state.load(run.out / "last.pt", run.device)
        if process_rank() == 0:
            print(f"{run.out / 'last.pt'}: goes on at step {state.step}", flush=True)
    return state


def optimizers(config: TrainingConfig, network: ResidualEncoderUNet) -> list[torch.optim.Optimizer]:
    """Returns AdamW for all parameters, or with ``config.muon`` for those that Muon is not for."""
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if not config.muon:
        return [adamw(network.parameters(), **settings)]
    kernels = inner_kernels(network)
    known = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return [adamw(others, **settings), Muon(kernels, **settings)]


def _save(state: State, config: TrainingConfig, run: Run) -> None:
    state.save(run.out / "last.pt")
    checkpoint.save(run.out / "weights.pt", config.model, state.average.state_dict(), torch.float16)
    if run.pieces is not None:
        pieces.write(state, config.model, run.out / "log.csv", run.pieces, run.piece_megabytes)


def join_processes(device: torch.device) -> int:
    """Joins the processes that ``torchrun`` has started, once; returns this one's rank, 0 if it is alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return process_rank()


@contextmanager
def _signals() -> Generator[list[int]]:
    """Gathers SIGTERM and SIGINT, once each: a second one of the same kind ends the process at once."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        print(f"{signal.Signals(number).name}: ends after this step, and saves", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Clock:
    """Seconds of the run, when to save, and when to end."""

    def __init__(self, run: Run, before: float) -> None:
        self._run = run
        self._began = run.clock() - before - run.elapsed
        self._saved = run.clock()
        self._step_began = run.clock()
        self._longest_save = 0.0
        self._longest_step = 0.0
        self.total = before + run.elapsed

    def tick(self) -> float:
        """Ends a step; returns the run's seconds so far."""
        now = self._run.clock()
        self._longest_step = max(now - self._step_began, 0.9 * self._longest_step)
        self._step_began, self.total = now, now - self._began
        return self.total

    @property
    def save_due(self) -> bool:
        return self._run.clock() - self._saved >= self._run.checkpoint_every

    @contextmanager
    def saving(self) -> Generator[None]:
        began = self._run.clock()
        yield
        self._saved = self._step_began = self._run.clock()
        self._longest_save = max(self._longest_save, self._saved - began)

    def ended(self, step: int, received: list[int]) -> bool:
        """Returns whether no further step is to be made; all processes of a run agree."""
        stop = bool(received)
        if self._run.steps is not None:
            stop = stop or step >= self._run.steps
        else:
            # A step, and a save that takes twice as long as the longest one so far, still fit.
            reserve = self._longest_step + 2 * self._longest_save + (0.0 if self._longest_save else FIRST_SAVE)
            stop = stop or self.total + reserve >= self._run.limit
        if distributed.is_initialized():
            agreed = torch.tensor([float(stop), self.total], device=self._run.device)
            distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
            stop, self.total = bool(agreed[0]), float(agreed[1])
        return stop


FIRST_SAVE = 5.0
"""Seconds that are kept for a save before one was measured."""
