"""The user in the loop of training: clicks on the network's own errors (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from inference.prompts import BOX, PREVIOUS, PromptStyle
from inference.window import upsampled
from training.device_clicks import CHALLENGE, BatchClicks, Placement, batch_clicks, draw
from training.loss import dice
from training.render import Batch


def log_odds(logits: Tensor) -> Tensor:
    """Two heads (N, 2, D, H, W) -> float32 (N, D, H, W); the paper's p is its sigmoid."""
    return logits[:, 1].float() - logits[:, 0].float()


def simulate(
    network: Callable[[Tensor], Tensor],
    batch: Batch,
    clicks: int,
    style: PromptStyle,
    placement: Placement = CHALLENGE,
    generator: torch.Generator | None = None,
    hard_clicks: int = 0,
) -> Tensor:
    """Lets the simulated user click on what the network makes of the samples (equations 5 to 10).

    A sample whose ``first_click`` is set gets one on its truth before any prediction, as in the challenge's runs
    without a box. Then, ``clicks`` times, every sample gets a click on the thresholded, detached prediction, which
    becomes its previous mask.

    Args:
        placement: where in an error the clicks are.
        generator: of the batch's device, for what is drawn; None for PyTorch's own.
        hard_clicks: further rounds for samples whose Dice is not above the batch's median.

    Returns:
        (N, 8, D, H, W): the batch's channels with previous masks and clicks drawn. The batch is not changed.
    """
    return _simulated(network, batch, clicks, style, placement, generator, hard_clicks)[0]


def look_finer(
    network: Callable[[Tensor], Tensor],
    batch: Batch,
    clicks: int,
    style: PromptStyle,
    finer: int,
    placement: Placement = CHALLENGE,
    generator: torch.Generator | None = None,
    hard_clicks: int = 0,
) -> Tensor:
    """What the network sees when it looks again, ``finer`` times as finely, at what it has seen coarsely.

    Args:
        batch: of the finer patches; the coarse look, with its clicks, is made here.
        placement: as in :func:`simulate`, and so ``generator`` and ``hard_clicks``.

    Returns:
        (N, 8, D, H, W), fine: the batch's channels, the clicks, and the coarse look's probabilities as previous mask.
    """
    coarse = coarser(batch, finer)
    coarse_channels, made = _simulated(network, coarse, clicks, style, placement, generator, hard_clicks)
    with torch.no_grad():
        seen = log_odds(network(coarse_channels))
    channels = batch.channels.clone()
    channels[:, PREVIOUS] = torch.sigmoid(upsampled(seen, finer))
    for one_each in made:
        draw(channels, one_each, style, finer)
    return channels


def coarser(batch: Batch, finer: int) -> Batch:
    """The batch as a patch of fewer voxels shows it."""
    channels = avg_pool3d(batch.channels, finer)
    channels[:, BOX] = (channels[:, BOX] >= 0.5).float()
    share = avg_pool3d(batch.truth.float()[:, None], finer)[:, 0]
    truth = share > 0.5
    # Of what is thinner than a coarse voxel nothing would be left, and no click made.
    lost = ~truth.flatten(1).any(dim=1)
    return Batch(channels, truth | ((share > 0) & lost[:, None, None, None]), batch.first_click)


def _simulated(
    network: Callable[[Tensor], Tensor],
    batch: Batch,
    clicks: int,
    style: PromptStyle,
    placement: Placement,
    generator: torch.Generator | None,
    hard_clicks: int,
) -> tuple[Tensor, list[BatchClicks]]:
    """As :func:`simulate`; also the clicks, in voxels of the patch, in the order in which they were made."""
    channels = batch.channels.contiguous().clone()
    wanted = batch.first_click.to(channels.device, non_blocking=True)
    made = []
    # Asking a tensor on a GPU whether any sample wants a click would wait for it.
    if batch.first_click.is_cuda or batch.first_click.any():
        made.append(_click(channels, torch.zeros_like(batch.truth), batch.truth, style, placement, generator, wanted))
    for turn in range(clicks + hard_clicks):
        with torch.no_grad():
            prediction = log_odds(network(channels)) > 0
        if turn < clicks:
            wanted = torch.ones_like(wanted)
            channels[:, PREVIOUS] = prediction
        else:
            scores = dice(prediction, batch.truth)
            wanted = scores <= scores.median()
            previous = channels[:, PREVIOUS]
            channels[:, PREVIOUS] = torch.where(wanted[:, None, None, None], prediction.to(previous.dtype), previous)
        made.append(_click(channels, prediction, batch.truth, style, placement, generator, wanted))
    return channels, made


def _click(
    channels: Tensor,
    prediction: Tensor,
    truth: Tensor,
    style: PromptStyle,
    placement: Placement,
    generator: torch.Generator | None,
    wanted: Tensor,
) -> BatchClicks:
    """Makes and draws a click for each wanted sample that has an error."""
    if truth.is_cuda or placement != CHALLENGE:
        clicks = batch_clicks(prediction, truth, placement, generator, wanted)
    else:
        clicks = _clicks_one_by_one(prediction, truth, wanted)
    draw(channels, clicks, style)
    return clicks


def _clicks_one_by_one(prediction: Tensor, truth: Tensor, wanted: Tensor) -> BatchClicks:
    """The challenge's own clicks: much faster on a CPU, where they look at an error's box only."""
    # Not above: a machine with a GPU needs neither cc3d nor edt.
    from evaluation.simulated_user import click_from_error

    found = [
        click_from_error(predicted, true) if asked else None
        for predicted, true, asked in zip(prediction.numpy(), truth.numpy(), wanted.tolist())
    ]
    return BatchClicks(
        torch.tensor([(0, 0, 0) if click is None else click[0] for click in found]),
        torch.tensor([click is not None and click[1] for click in found]),
        torch.tensor([click is not None for click in found]),
    )
