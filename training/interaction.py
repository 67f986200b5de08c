"""The user in the loop of training: clicks on the network's own errors (paper, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluation.simulated_user import click_from_error
from inference.case import Click
from inference.prompts import CLICK, CLICK_NEGATIVE, PREVIOUS, PromptStyle, draw_clicks
from inference.window import Window


def log_odds(logits: Tensor) -> Tensor:
    """Two heads (N, 2, D, H, W) -> (N, D, H, W); the paper's p is its sigmoid."""
    return (logits[:, 1] - logits[:, 0]).float()


def simulate(
    network: nn.Module, channels: Tensor, truth: Tensor, first_click: list[bool], clicks: int, style: PromptStyle
) -> Tensor:
    """Lets the simulated user click on what the network makes of the samples so far (equations 5 to 10).

    The predictions are thresholded and detached; each becomes the previous mask of the next.

    Args:
        channels: (N, 8, D, H, W), changed in place.
        truth: (N, D, H, W) bool.
        first_click: a sample, whether its first click comes before any prediction.
        clicks: rounds of prediction and click.

    Returns:
        channels, with previous masks and clicks drawn.
    """
    made: list[list[Click]] = [[] for _ in range(len(truth))]
    prediction = torch.zeros_like(truth)
    _click(channels, prediction, truth, made, style, only=first_click)
    for _ in range(clicks):
        # A sample without a box has had its first click; the evaluator shows it no prediction between.
        with torch.no_grad():
            prediction = log_odds(network(channels)) > 0
        channels[:, PREVIOUS] = prediction
        _click(channels, prediction, truth, made, style, only=[True] * len(truth))
    return channels


def _click(
    channels: Tensor, prediction: Tensor, truth: Tensor, made: list[list[Click]], style: PromptStyle, only: list[bool]
) -> None:
    patch = tuple(truth.shape[1:])
    here = Window((0, 0, 0), patch, patch)
    for index, (wanted, clicks) in enumerate(zip(only, made)):
        if not wanted:
            continue
        click = click_from_error(prediction[index].cpu().numpy(), truth[index].cpu().numpy())
        if click is None:
            continue
        clicks.append(Click(*click))
        channels[index, CLICK] = 0
        channels[index, CLICK_NEGATIVE] = 0
        draw_clicks(channels[index, CLICK], channels[index, CLICK_NEGATIVE], tuple(clicks), here, style)
