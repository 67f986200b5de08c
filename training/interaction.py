"""The user in the loop of training: clicks on the network's own errors (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from evaluation.simulated_user import click_from_error
from inference.case import Click, Voxel
from inference.prompts import BOX, CLICK, CLICK_NEGATIVE, PREVIOUS, PromptStyle, draw_clicks
from inference.window import Window, finely
from training.render import Batch


def log_odds(logits: Tensor) -> Tensor:
    """Two heads (N, 2, D, H, W) -> float32 (N, D, H, W); the paper's p is its sigmoid."""
    return logits[:, 1].float() - logits[:, 0].float()


def simulate(network: Callable[[Tensor], Tensor], batch: Batch, clicks: int, style: PromptStyle) -> Tensor:
    """Lets the simulated user click on what the network makes of the samples (equations 5 to 10).

    A sample whose ``first_click`` is set gets one on its truth before any prediction, as in the challenge's runs
    without a box. Then, ``clicks`` times, every sample gets a click on the thresholded, detached prediction, which
    becomes its previous mask.

    Returns:
        (N, 8, D, H, W): the batch's channels with previous masks and clicks drawn. The batch is not changed.
    """
    return _simulated(network, batch, clicks, style)[0]


def look_finer(
    network: Callable[[Tensor], Tensor], batch: Batch, clicks: int, style: PromptStyle, finer: int
) -> Tensor:
    """What the network sees when it looks again, ``finer`` times as finely, at what it has seen coarsely.

    Args:
        batch: of the finer patches; the coarse look, with its clicks, is made here.

    Returns:
        (N, 8, D, H, W), fine: the batch's channels, the clicks, and the coarse look's probabilities as previous mask.
    """
    coarse_channels, made = _simulated(network, coarser(batch, finer), clicks, style)
    with torch.no_grad():
        seen = log_odds(network(coarse_channels))
    channels = batch.channels.clone()
    channels[:, PREVIOUS] = torch.sigmoid(finely(seen, finer))
    coarse: Voxel = tuple(seen.shape[1:])
    for index, clicks_made in enumerate(made):
        _draw(channels, index, clicks_made, Window((0, 0, 0), coarse, tuple(channels.shape[2:])), style)
    return channels


def coarser(batch: Batch, finer: int) -> Batch:
    """The batch as a patch of fewer voxels shows it."""
    channels = avg_pool3d(batch.channels, finer)
    channels[:, BOX] = (channels[:, BOX] >= 0.5).float()
    truth = avg_pool3d(batch.truth.float()[:, None], finer)[:, 0] > 0.5
    return Batch(channels, truth, batch.first_click)


def _simulated(
    network: Callable[[Tensor], Tensor], batch: Batch, clicks: int, style: PromptStyle
) -> tuple[Tensor, list[list[Click]]]:
    """As :func:`simulate`; also the clicks of each sample, in voxels of the patch."""
    channels = batch.channels.clone()
    made: list[list[Click]] = [[] for _ in batch.truth]
    nothing = torch.zeros_like(batch.truth)
    _click(channels, nothing, batch.truth, made, style, wanted=batch.first_click.tolist())
    for _ in range(clicks):
        with torch.no_grad():
            prediction = log_odds(network(channels)) > 0
        channels[:, PREVIOUS] = prediction
        _click(channels, prediction, batch.truth, made, style, wanted=[True] * len(made))
    return channels, made


def _click(
    channels: Tensor, prediction: Tensor, truth: Tensor, made: list[list[Click]], style: PromptStyle, wanted: list[bool]
) -> None:
    """Adds a click to each wanted sample, drawn by the code that inference draws with."""
    patch = tuple(truth.shape[1:])
    whole = Window((0, 0, 0), patch, patch)
    predicted, true = prediction.cpu().numpy(), truth.cpu().numpy()
    for index, clicks in enumerate(made):
        click = click_from_error(predicted[index], true[index]) if wanted[index] else None
        if click is None:
            continue
        clicks.append(Click(*click))
        _draw(channels, index, clicks, whole, style)


def _draw(channels: Tensor, index: int, clicks: list[Click], window: Window, style: PromptStyle) -> None:
    drawn = torch.zeros((2, *window.patch))
    draw_clicks(drawn[0], drawn[1], tuple(clicks), window, style)
    channels[index, [CLICK, CLICK_NEGATIVE]] = drawn.to(channels.device)
