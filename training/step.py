"""One step of the training loop: the gradients of its batches, then the update of the weights and their average."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainingConfig
from training.interaction import log_odds, look_finer, simulate
from training.loss import dice_loss, segmentation_loss
from training.stream import Step

if TYPE_CHECKING:
    from training.loop import Run, State


def accumulate(forward: nn.Module, state: State, drawn: Step, config: TrainingConfig, run: Run) -> tuple[float, float]:
    """Adds up the gradients of a step's batches; returns the mean loss and Dice over them and over all processes."""
    dtype = torch.float16 if run.device.type == "cuda" else torch.bfloat16
    state.network.zero_grad(set_to_none=True)
    losses, dices = [], []
    for index, batch in enumerate(drawn.batches):
        batch = batch.to(run.device)
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
