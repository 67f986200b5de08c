"""The paper's loss against its equations in float64."""

import numpy as np
import torch

from training.loss import ALPHA, EPSILON, dice_loss, segmentation_loss


def reference(odds: np.ndarray, truth: np.ndarray) -> float:
    """Equations 13 to 15, a sample at a time."""
    losses = []
    for o, g in zip(odds, truth, strict=True):
        p = 1 / (1 + np.exp(-o))
        dice = 1 - (2 * (p * g).sum() + EPSILON) / (p.sum() + g.sum() + EPSILON)
        cross_entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean()
        losses.append(ALPHA * dice + cross_entropy)
    return float(np.mean(losses))


def example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    odds = 3 * torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64)
    truth = (torch.rand(2, 5, 6, 7, generator=generator) > 0.7).to(dtype)
    return odds.to(dtype), truth


def test_equals_a_float64_reference():
    odds, truth = example(torch.float32)
    expected = reference(odds.double().numpy(), truth.double().numpy())
    assert abs(float(segmentation_loss(odds, truth)) - expected) < 1e-5 * expected


def test_gradient_equals_finite_differences_of_the_reference():
    odds, truth = example(torch.float64)
    odds.requires_grad_()
    segmentation_loss(odds, truth).backward()
    values, random = odds.detach().numpy(), np.random.default_rng(0)
    for _ in range(20):
        index = tuple(random.integers(0, n) for n in odds.shape)
        step = np.zeros(odds.shape)
        step[index] = 1e-5
        numeric = (reference(values + step, truth.numpy()) - reference(values - step, truth.numpy())) / 2e-5
        np.testing.assert_allclose(float(odds.grad[index]), numeric, rtol=1e-4, atol=1e-7)


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_all():
    truth = torch.zeros(1, 4, 4, 4)
    truth[0, :2] = 1
    certain = (truth * 2 - 1) * 50
    assert float(dice_loss(certain, truth)) < 1e-6
    assert float(dice_loss(-certain, truth)) > 1 - 1e-6


def test_an_empty_truth_has_a_finite_gradient():
    odds = torch.full((1, 4, 4, 4), -60.0, requires_grad=True)
    segmentation_loss(odds, torch.zeros(1, 4, 4, 4)).backward()
    assert torch.isfinite(odds.grad).all()
