"""The paper's loss (section 2.6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ALPHA = 10.0
EPSILON = 1e-5


def dice_loss(log_odds: Tensor, truth: Tensor) -> Tensor:
    """Equation 14, a sample: (N, D, H, W) log-odds and truth in [0, 1] -> (N,)."""
    p = torch.sigmoid(log_odds)
    overlap = (p * truth).sum(dim=(1, 2, 3))
    return 1 - (2 * overlap + EPSILON) / (p.sum(dim=(1, 2, 3)) + truth.sum(dim=(1, 2, 3)) + EPSILON)


def dice(prediction: Tensor, truth: Tensor) -> Tensor:
    """The Dice of masks, a sample: two bool (N, D, H, W) -> (N,); 0 where both are empty."""
    both, first, second = (masks.flatten(1).sum(1) for masks in (prediction & truth, prediction, truth))
    return 2 * both / (first + second).clamp_min(1)


def segmentation_loss(log_odds: Tensor, truth: Tensor) -> Tensor:
    """10 × Dice loss + cross-entropy, both to be minimized (equations 13 to 15), the mean over samples."""
    cross_entropy = functional.binary_cross_entropy_with_logits(log_odds, truth)
    return ALPHA * dice_loss(log_odds, truth).mean() + cross_entropy
