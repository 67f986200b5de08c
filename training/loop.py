"""The training loop."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from evaluation.cases import EvaluationCase
from inference import checkpoint
from inference.atomic import replacing
from inference.network import NetworkConfig, ResidualEncoderUNet
from training.config import TrainingConfig
from training.dataset import Volume
from training.interaction import log_odds, look_finer, simulate
from training.lock import held
from training.log import Log, draw_curves
from training.loss import dice_loss, segmentation_loss
from training.muon import Muon, freshen, inner_kernels
from training.stream import Step, Steps, stream
from training.validation import validate


@dataclass(frozen=True)
class Run:
    """How and where a run is carried out; nothing here changes what is learnt, but for ``seed``.

    Args:
        out: folder for ``last.pt`` (all that a resumed run needs), ``weights.pt`` (what inference reads), ``best.pt``
            (the same, of the step that validated best), ``log.csv`` and ``curves.png``.
        steps: of the optimizer, in all.
        device: where the network is.
        mixed_precision: float16 on a GPU, bfloat16 on a CPU; see :func:`half_precision_pays`.
        compile: whether the forward is compiled; a minute or two at the start, then a sixth less time a step.
        workers: processes that draw samples ahead; 0 for none.
        checkpoint_every: seconds.
        validation: cases to validate on; none for no validation.
        validate_every: steps.
    """

    out: Path
    steps: int
    device: torch.device
    seed: int = 0
    mixed_precision: bool = True
    compile: bool = False
    workers: int = 1
    checkpoint_every: float = 120.0
    validation: tuple[EvaluationCase, ...] = ()
    validate_every: int = 500


class ResumeError(Exception):
    """A run's ``last.pt`` is not what the run could go on from. Its text is one line that says what to do."""


_NUMBERS = ("step", "samples", "seconds", "skipped", "best")
_STATEFUL = ("network", "average", "scaler")


@dataclass
class State:
    """All that changes while training, and that a checkpoint holds."""

    network: ResidualEncoderUNet
    average: ResidualEncoderUNet
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    skipped: int = 0
    best: float = 0.0

    def save(self, path: Path) -> None:
        content = {name: getattr(self, name) for name in _NUMBERS}
        content |= {name: getattr(self, name).state_dict() for name in _STATEFUL}
        content["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        with replacing(path) as unfinished:
            torch.save(content, unfinished)

    def load(self, path: Path, device: torch.device) -> None:
        """Goes on from a file that :meth:`save` wrote.

        Raises:
            ResumeError: it is none, or of a run with another network or optimizer.
        """
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            if content.keys() != {*_NUMBERS, *_STATEFUL, "optimizers"}:
                raise ValueError("it holds other things than today's runs do")
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(content[name])
            for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except Exception as error:  # A broken pickle may end in nearly any of them.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ResumeError(
                f"{path}: this run cannot go on from it ({reason}); give the options that it was begun with, or "
                "another folder with --out"
            ) from error
        for name in _NUMBERS:
            setattr(self, name, content[name])


def half_precision_pays(device: torch.device) -> bool:
    """Whether the network is faster in half precision: on a GPU, and on CPUs that multiply bfloat16 in tiles (AMX).

    Others convert bfloat16 before they multiply, and take up to twice the time of float32.
    """
    return device.type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine from ``learning_rate`` to ``final_learning_rate``."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = min((step - config.warmup) / max(steps - config.warmup, 1), 1.0)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


def train(
    config: TrainingConfig,
    volumes: list[Volume],
    run: Run,
    initial: dict[str, Tensor] | None = None,
    build: Callable[[NetworkConfig], ResidualEncoderUNet] = ResidualEncoderUNet,
) -> ResidualEncoderUNet:
    """Trains from ``initial`` or from scratch, or goes on from ``out/last.pt`` where there is one.

    Under ``torchrun`` each process draws its share of every step.

    Args:
        build: makes the network; an experiment may change it.

    Returns:
        the weights to ship: the running average, or the weights themselves if none is kept.

    Raises:
        ResumeError: ``out/last.pt`` is of another run.
        FolderInUseError: another run writes into ``out``.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(run.seed)
    state = begin(config, run, initial, build)
    if run.compile:
        # Two sizes of patches: one graph for any size would be slower than one for each.
        state.network.to(memory_format=torch.channels_last_3d).compile(dynamic=False)
    forward = _parallel(state.network, run.device) if processes > 1 else state.network
    source = stream(Steps(volumes, config, run.seed, rank, processes), state.step, run.steps, run.workers, run.device)
    clock = _Clock(state.seconds)
    bar = tqdm(
        source, desc="training", unit="step", initial=state.step, total=run.steps, disable=None if rank == 0 else True
    )
    moving = None
    with (
        held(run.out) if rank == 0 else nullcontext(),
        Log(run.out / "log.csv", state.step) if rank == 0 else nullcontext() as log,
    ):
        for drawn in bar:
            rate = learning_rate(config, state.step, run.steps)
            for optimizer in state.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            loss, dice = accumulate(forward, state, drawn, config, run)
            update(state, config)
            state.step += 1
            state.samples += processes * drawn.samples
            moving = dice if moving is None else 0.98 * moving + 0.02 * dice
            bar.set_postfix(dice=f"{moving:.3f}", refresh=False)
            if rank != 0:
                continue
            row = {"step": state.step, "samples": state.samples, "loss": loss, "dice": dice}
            last = state.step == run.steps
            if run.validation and (last or state.step % run.validate_every == 0):
                row |= _validated(state, config, run)
            state.seconds = clock.total()
            log.write(row | {"seconds": state.seconds, "learning_rate": rate, "skipped": state.skipped})
            if last or clock.due(run.checkpoint_every):
                state.save(run.out / "last.pt")
                checkpoint.save(run.out / "weights.pt", config.model, state.average.state_dict(), torch.float16)
                draw_curves(run.out / "log.csv", run.out / "curves.png")
    if distributed.is_initialized():
        # The first process writes for a while after the last step; one that left before it could keep it from ending.
        distributed.barrier()
        distributed.destroy_process_group()
    return state.average


def begin(
    config: TrainingConfig,
    run: Run,
    initial: dict[str, Tensor] | None,
    build: Callable[[NetworkConfig], ResidualEncoderUNet] = ResidualEncoderUNet,
) -> State:
    """A run's state at its start, or where its last checkpoint left it."""
    run.out.mkdir(parents=True, exist_ok=True)
    network = build(config.model.network).to(run.device)
    if initial is not None:
        network.load_state_dict(initial)
        if config.muon:
            freshen(network)
    average = copy.deepcopy(network).requires_grad_(False) if config.average else network
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.mixed_precision and run.device.type == "cuda")
    state = State(network, average, optimizers(config, network), scaler)
    if (run.out / "last.pt").exists():
        state.load(run.out / "last.pt", run.device)
        print(f"{run.out / 'last.pt'}: goes on at step {state.step}")
    return state


def optimizers(config: TrainingConfig, network: ResidualEncoderUNet) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or with ``config.muon`` for those that Muon is not for."""
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if not config.muon:
        return [torch.optim.AdamW(network.parameters(), **settings)]
    kernels = inner_kernels(network)
    known = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return [torch.optim.AdamW(others, **settings), Muon(kernels, **settings)]


def accumulate(forward: nn.Module, state: State, drawn: Step, config: TrainingConfig, run: Run) -> tuple[float, float]:
    """Adds up the gradients of a step's batches; returns the mean loss and Dice over them and over all processes."""
    dtype = torch.float16 if run.device.type == "cuda" else torch.bfloat16
    state.network.zero_grad(set_to_none=True)
    losses, dices = [], []
    for index, batch in enumerate(drawn.batches):
        last = index + 1 == len(drawn.batches)
        # Gradients travel between processes once a step, with the last batch.
        unsynchronized = isinstance(forward, DistributedDataParallel) and not last
        with forward.no_sync() if unsynchronized else nullcontext():
            with torch.autocast(run.device.type, dtype, enabled=run.mixed_precision):
                if drawn.finer_look:
                    channels = look_finer(state.network, batch, drawn.clicks, config.model.style, config.model.finer)
                else:
                    channels = simulate(state.network, batch, drawn.clicks, config.model.style)
                odds = log_odds(forward(channels))
            truth = batch.truth.float()
            loss = segmentation_loss(odds, truth)
            state.scaler.scale(loss / len(drawn.batches)).backward()
        losses.append(loss.detach())
        dices.append(1 - dice_loss(odds.detach(), truth).mean())
    means = torch.stack([torch.stack(losses).mean(), torch.stack(dices).mean()])
    if distributed.is_initialized():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    loss, dice = means.tolist()
    return loss, dice


def update(state: State, config: TrainingConfig) -> None:
    """A step of the optimizer and of the running average; gradients that are not finite are skipped and counted."""
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), config.clip)
    if torch.isfinite(norm):
        for optimizer in state.optimizers:
            state.scaler.step(optimizer)
        if config.average:
            decay = min(config.average, (state.step + 1) / (state.step + 10))
            with torch.no_grad():
                for mean, value in zip(state.average.parameters(), state.network.parameters()):
                    mean.lerp_(value, 1 - decay)
    else:
        state.skipped += 1
    state.scaler.update()


def _parallel(network: nn.Module, device: torch.device) -> nn.Module:
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    # The deep-supervision heads are not computed, so they have no gradient to wait for.
    return DistributedDataParallel(network, find_unused_parameters=True)


def _validated(state: State, config: TrainingConfig, run: Run) -> dict[str, float]:
    """Validates the weights to ship, and keeps them as ``best.pt`` if they are."""
    scores = validate(state.average, config.model, list(run.validation), run.device)
    tqdm.write(f"step {state.step}: validation DSC {scores.dsc:.4f}, NSD {scores.nsd:.4f}")
    if scores.mean > state.best:
        state.best = scores.mean
        checkpoint.save(run.out / "best.pt", config.model, state.average.state_dict(), torch.float16)
    return {"validation_dsc": scores.dsc, "validation_nsd": scores.nsd}


class _Clock:
    """Seconds trained, those of earlier runs included, and whether a checkpoint is due."""

    def __init__(self, before: float) -> None:
        self._before = before
        self._began = self._saved = time.monotonic()

    def total(self) -> float:
        return self._before + time.monotonic() - self._began

    def due(self, every: float) -> bool:
        if time.monotonic() - self._saved < every:
            return False
        self._saved = time.monotonic()
        return True
