"""Regions that nobody labelled: solid, thin and scattered ones are found where the image shows them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label as connected_components
from torch.nn.functional import avg_pool3d

from training.noise import local_mean
from training.regions import region


def test_a_region_is_what_the_image_shows():
    """In a dark room with a bright ball, what is found is the ball, whole or in part, and never the room."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    ball = (grid - 16).square().sum(dim=0) <= 64
    image = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.05 - 1 + 4 * ball
    image[:3] = 0
    found = [region(image, "solid", np.random.default_rng(seed)) for seed in range(40)]
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
    found = [region(image, "solid", np.random.default_rng(seed)) for seed in range(60)]
    shells = [mask for mask in found if mask is not None and (mask & shell).sum() > 0.7 * shell.sum()]
    filled = [bool(mask[hollow].all()) for mask in shells]
    assert 0.2 < np.mean(filled) < 0.8
    assert all(full or not mask[hollow].any() for full, mask in zip(filled, shells))


def test_a_bright_tube_is_found_as_a_thin_region():
    image = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 - 0.1
    tube = torch.zeros(32, 32, 32, dtype=torch.bool)
    for z in range(4, 28):
        tube[z, 10 + z // 3, 16:18] = True
    image[tube] += 6
    found = [region(image, "thin", np.random.default_rng(seed)) for seed in range(20)]
    found = [mask for mask in found if mask is not None]
    assert found
    assert max(int((mask & tube).sum()) / int((mask | tube).sum()) for mask in found) > 0.6


def test_scattered_bright_pieces_are_one_object():
    image = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 - 0.1
    pieces = torch.zeros(32, 32, 32, dtype=torch.bool)
    for z, y, x in np.ndindex(3, 3, 3):
        pieces[4 + 9 * z : 7 + 9 * z, 4 + 9 * y : 7 + 9 * y, 4 + 9 * x : 7 + 9 * x] = True
    image[pieces] += 4
    found = [region(image, "scattered", np.random.default_rng(seed)) for seed in range(20)]
    found = [mask for mask in found if mask is not None]
    assert found
    for mask in found:
        assert connected_components(mask.numpy())[1] >= 4
    assert max(int((mask & pieces).sum()) / int((mask | pieces).sum()) for mask in found) > 0.6


def test_peaks_of_noise_are_no_objects():
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    for seed in range(10):
        for kind in ("thin", "scattered"):
            assert region(noise, kind, np.random.default_rng(seed)) is None


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("wide", [1, 3, 9])
def test_local_means_are_those_of_pooling(wide: int, count_include_pad: bool):
    expected = image = torch.randn(9, 12, 17, generator=torch.Generator().manual_seed(0))
    for kernel in ((wide, 1, 1), (1, wide, 1), (1, 1, wide)):
        padding = [n // 2 for n in kernel]
        expected = avg_pool3d(expected[None, None], kernel, 1, padding, count_include_pad=count_include_pad)[0, 0]
    assert torch.equal(local_mean(image, wide, count_include_pad), expected)
