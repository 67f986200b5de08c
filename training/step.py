"""One step of the training loop: the gradients of its batches, then the update of the weights and their average.

On a GPU nothing here waits for it: what a step finds out, such as gradients that are not finite, stays a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainingConfig
from training.interaction import log_odds, look_finer, simulate
from training.loss import dice_loss, segmentation_loss
from training.stream import Step

if TYPE_CHECKING:
    from training.loop import Run
    from training.state import State


class LossScaler:
    """Multiplies the loss so that gradients fit into float16, and counts the steps whose gradients did not.

    As :class:`torch.amp.GradScaler`, but what it knows stays on the device. The state dictionaries are the same.

    Args:
        device: of the loss.
        enabled: False for a factor that stays 1.
    """

    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000
    """Factors after so many finite steps in a row, and after one that was not."""

    def __init__(self, device: torch.device, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = torch.full((), 2.0**16 if enabled else 1.0, device=device)
        self.tracker = torch.zeros((), dtype=torch.int32, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, found_inf: Tensor) -> None:
        """Counts a step; ``found_inf``, float32 without axes, is 1 if its gradients were not finite, otherwise 0."""
        self.skipped += found_inf.long()
        if self.enabled:
            torch._amp_update_scale_(self.scale, self.tracker, found_inf, self.GROWTH, self.BACKOFF, self.INTERVAL)

    def state_dict(self) -> dict[str, Any]:
        """Returns the factor and the finite steps since it changed, read from the device; nothing if not enabled."""
        if not self.enabled:
            return {}
        return {"scale": self.scale.item(), "_growth_tracker": int(self.tracker)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state, be it GradScaler's. An empty one, of a run on a CPU, leaves the factor as it begins."""
        if self.enabled and state:
            self.scale.fill_(state["scale"])
            self.tracker.fill_(state["_growth_tracker"])


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 1e-2) -> torch.optim.AdamW:
    """Returns an AdamW of few operations that can skip a step by itself, whatever state it is given later."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    def fused(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """A state holds the settings of the run that saved it, and they decide where the steps are counted."""
        groups = [group | {"fused": True, "foreach": None} for group in state["param_groups"]]
        return state | {"param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(fused)
    return optimizer


def accumulate(
    forward: nn.Module, state: State, drawn: Step, config: TrainingConfig, run: Run
) -> tuple[Tensor, Tensor]:
    """Adds up the gradients of a step's batches; returns the mean loss and Dice over them and over all processes.

    Both are tensors without axes on the run's device, since reading them waits for it.
    """
    dtype = torch.float16 if run.device.type == "cuda" else torch.bfloat16
    state.network.zero_grad(set_to_none=True)
    losses, dices = [], []
    # Of the step's own, so that a resumed run clicks where an uninterrupted one does.
    random = torch.Generator(run.device).manual_seed(run.seed * 1_000_003 + state.step)
    style = config.model.style
    for index, batch in enumerate(drawn.batches):
        last = index + 1 == len(drawn.batches)
        # Gradients travel between processes once a step, with the last batch.
        unsynchronized = isinstance(forward, DistributedDataParallel) and not last
        with forward.no_sync() if unsynchronized else nullcontext():
            with torch.autocast(run.device.type, dtype, enabled=run.mixed_precision):
                hard = config.sampling.hard_clicks
                if drawn.finer_look:
                    finer = config.model.finer
                    channels = look_finer(
                        state.network, batch, drawn.clicks, style, finer, drawn.placement, random, hard
                    )
                else:
                    channels = simulate(state.network, batch, drawn.clicks, style, drawn.placement, random, hard)
                # PyTorch before 2.10 takes up the weights halved for the looks, without a gradient (its issue 158232).
                torch.clear_autocast_cache()
                odds = log_odds(forward(channels))
            truth = batch.truth.float()
            loss = segmentation_loss(odds, truth)
            (loss * (state.scaler.scale / len(drawn.batches))).backward()
        losses.append(loss.detach())
        dices.append(1 - dice_loss(odds.detach(), truth).mean())
    means = torch.stack([torch.stack(losses).mean(), torch.stack(dices).mean()])
    if distributed.is_initialized():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    return means[0], means[1]


@torch.no_grad()
def update(state: State, config: TrainingConfig) -> None:
    """A step of the optimizer and of the running average; gradients that are not finite are skipped and counted."""
    found_inf = clip([p for p in state.network.parameters() if p.grad is not None], state.scaler.scale, config.clip)
    for optimizer in state.optimizers:
        optimizer.found_inf = found_inf  # ty: ignore[missing-attribute]  # Read by fused optimizers where it is.
        optimizer.step()
        del optimizer.found_inf  # ty: ignore[missing-attribute]
    if config.average:
        decay = max(1 - 1 / (config.average * (state.step + 1)), 0.0)
        means: list[Tensor] = list(state.average.parameters())
        weights: list[Tensor] = list(state.network.parameters())
        steps = list(torch._foreach_sub(weights, means))
        torch._foreach_mul_(steps, (1 - decay) * (1 - found_inf))
        torch._foreach_add_(means, steps)
    state.scaler.update(found_inf)


@torch.no_grad()
def clip(parameters: list[nn.Parameter], scale: Tensor, largest: float) -> Tensor:
    """Divides the gradients by the scale, and shortens them to a norm of ``largest``; 0 if they are not finite.

    Returns:
        1 if they are not finite, otherwise 0; float32, without axes.
    """
    # One tensor for all: whatever is done to it is one operation.
    everything = torch.empty(sum(p.numel() for p in parameters), device=scale.device)
    gradients, first = [], 0
    for parameter in parameters:
        gradients.append(everything.as_strided(parameter.shape, parameter.stride(), first))
        first += parameter.numel()
    torch._foreach_copy_(gradients, [p.grad for p in parameters if p.grad is not None])
    norm = torch.linalg.vector_norm(everything) / scale
    finite = norm.isfinite()
    everything.mul_((largest / (norm + 1e-6)).clamp_max(1.0) / scale)
    everything.masked_fill_(~finite, 0.0)
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient
    return (~finite).float()
