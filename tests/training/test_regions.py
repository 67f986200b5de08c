"""Regions that nobody labelled: solid, thin and scattered ones are found where the image shows them."""

import numpy as np
import torch

from training.regions import region


def test_a_region_is_what_the_image_shows():
    """In a dark room with a bright ball, what is found is the ball, whole or in part, and never the room."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    ball = (grid - 16).square().sum(dim=0) <= 64
    image = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.05 - 1 + 4 * ball
    image[:3] = 0
    found = [region(image, np.random.default_rng(seed), "solid") for seed in range(40)]
    balls = [mask for mask in found if mask is not None]
    assert balls
    for mask in balls:
        assert (mask & ball).sum() > 0.7 * mask.sum()
    assert len(balls) < 40, "the dark room, at the window's rim, is no object"


def test_half_of_the_regions_hold_what_they_enclose():
    grid = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * 3, indexing="ij"))
    distance = (grid - 20).square().sum(dim=0).sqrt()
    shell, hollow = (distance <= 12) & (distance > 6), distance <= 4
    image = torch.randn(40, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.05 - 1 + 4 * shell
    found = [region(image, np.random.default_rng(seed), "solid") for seed in range(100)]
    shells = [mask for mask in found if mask is not None and (mask & shell).sum() > 0.7 * shell.sum()]
    filled = [bool(mask[hollow].all()) for mask in shells]
    assert 0.2 < np.mean(filled) < 0.8
    assert all(full or not mask[hollow].any() for full, mask in zip(filled, shells))
