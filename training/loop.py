"""The training loop."""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from inference import checkpoint
from inference.atomic import replacing
from inference.network import ResidualEncoderUNet
from training.config import TrainingConfig
from training.dataset import Volume
from training.interaction import log_odds, simulate
from training.loss import dice_loss, segmentation_loss
from training.sample import Sample, Sampler

LOG_FIELDS = ("step", "samples", "seconds", "loss", "dice", "learning_rate", "skipped")


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine from ``learning_rate`` to ``final_learning_rate``."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = min((step - config.warmup) / max(config.steps - config.warmup, 1), 1.0)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


def train(
    config: TrainingConfig,
    volumes: list[Volume],
    out: Path,
    *,
    initial: dict[str, Tensor] | None,
    seed: int,
    device: torch.device,
    mixed_precision: bool,
    checkpoint_every: float,
) -> nn.Module:
    """Trains from ``initial`` or from scratch, or goes on from ``out/last.pt`` where there is one.

    Writes ``out/last.pt`` (all that a resumed run needs), ``out/weights.pt`` (what inference reads: the averaged
    weights in half precision) and ``out/log.csv``.

    Args:
        checkpoint_every: seconds between checkpoints.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = ResidualEncoderUNet(config.model.network).to(device)
    if initial is not None:
        network.load_state_dict(initial)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    first, seconds_before, skipped = 0, 0.0, 0
    if (out / "last.pt").exists():
        state = torch.load(out / "last.pt", map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds_before, skipped = state["step"], state["seconds"], state["skipped"]
        print(f"{out / 'last.pt'}: resumed at step {first}")
    autocast = (
        (lambda: torch.autocast(device.type, torch.bfloat16 if device.type == "cpu" else torch.float16))
        if mixed_precision
        else nullcontext
    )
    scaler = torch.amp.GradScaler(enabled=mixed_precision and device.type == "cuda")
    per_step = config.batch * config.accumulate
    # A resumed run draws what an uninterrupted one would: each step has a generator of its own.
    stream = _prefetched(volumes, config, seed, first)
    began = saved = time.monotonic()
    moving = None
    bar = tqdm(
        range(first, config.steps), initial=first, total=config.steps, desc="training", unit="step", disable=None
    )
    with _log(out / "log.csv", first) as log:
        for step in bar:
            samples, clicks = next(stream)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.zero_grad(set_to_none=True)
            losses, dices = [], []
            for begin in range(0, per_step, config.batch):
                batch = samples[begin : begin + config.batch]
                channels = torch.stack([sample.channels for sample in batch]).to(device)
                truth = torch.stack([sample.truth for sample in batch]).to(device)
                with autocast():
                    simulate(network, channels, truth, [s.first_click for s in batch], clicks, config.model.style)
                    odds = log_odds(network(channels))
                loss = segmentation_loss(odds, truth.float())
                scaler.scale(loss / config.accumulate).backward()
                losses.append(float(loss.detach()))
                dices.append(1 - float(dice_loss(odds.detach(), truth.float()).mean()))
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            if torch.isfinite(norm):
                scaler.step(optimizer)
                _average(average, network, min(config.ema, (step + 1) / (step + 10)))
            else:
                skipped += 1
            scaler.update()
            dice = float(np.mean(dices))
            moving = dice if moving is None else 0.98 * moving + 0.02 * dice
            bar.set_postfix(dice=f"{moving:.3f}", refresh=False)
            now = time.monotonic()
            row = (step + 1, (step + 1) * per_step, seconds_before + now - began, np.mean(losses), dice)
            log.writerow([*row, optimizer.param_groups[0]["lr"], skipped])
            if now - saved > checkpoint_every or step + 1 == config.steps:
                saved = now
                _save(out, network, average, optimizer, config, step + 1, seconds_before + now - began, skipped)
    return average


def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(average.parameters(), network.parameters()):
            mean.lerp_(value, 1 - decay)


def _save(
    out: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    step: int,
    seconds: float,
    skipped: int,
) -> None:
    state: dict[str, object] = {"network": network.state_dict(), "average": average.state_dict()}
    state |= {"optimizer": optimizer.state_dict(), "step": step, "seconds": seconds, "skipped": skipped}
    with replacing(out / "last.pt") as unfinished:
        torch.save(state, unfinished)
    checkpoint.save(out / "weights.pt", config.model, average.state_dict(), torch.float16)


def _prefetched(
    volumes: list[Volume], config: TrainingConfig, seed: int, first: int
) -> Iterator[tuple[list[Sample], int]]:
    """The samples of each step and its number of clicks, drawn one step ahead."""

    def draw(step: int) -> tuple[list[Sample], int]:
        sampler = Sampler(volumes, config, seed=hash((seed, step)) & 0x7FFFFFFF)
        clicks = int(sampler.random.choice(len(config.sampling.clicks), p=config.sampling.clicks))
        return [sampler.draw() for _ in range(config.batch * config.accumulate)], clicks

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(draw, first)
        for step in range(first, config.steps):
            current, upcoming = upcoming, pool.submit(draw, step + 1)
            yield current.result()


class _log:
    """A CSV file that a resumed run carries on: rows after the checkpoint are dropped, since they are run again."""

    def __init__(self, path: Path, first: int) -> None:
        kept = []
        if first and path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= first]
        self.file = path.open("w", newline="", buffering=1)
        writer = csv.writer(self.file)
        writer.writerows([LOG_FIELDS, *kept])
        self.writer = writer

    def __enter__(self) -> csv.writer:
        return self.writer

    def __exit__(self, *error: object) -> None:
        self.file.close()


def log_rows(path: Path) -> dict[str, Tensor]:
    """The log's columns by name."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: torch.tensor([float(row[name]) for row in rows]) for name in LOG_FIELDS}
