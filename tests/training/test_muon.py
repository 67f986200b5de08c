"""Muon: its update is the orthogonal factor of the gradient, and it has the kernels that it should."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from inference.network import NetworkConfig, ResidualEncoderUNet
from training.config import DEFAULT
from training.loop import optimizers
from training.muon import (
    COEFFICIENTS,
    ITERATIONS,
    Muon,
    all_orthogonalized,
    inner_kernels,
    orthogonalized,
    rescale_kernels,
)

SMALL = NetworkConfig(features=(4, 6, 8), blocks=(1, 1, 1))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_all_singular_values_come_near_one(shape: tuple[int, int]):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(all_orthogonalized([matrix], [1.0], torch.ones(()))[0])
    assert values.min() > 0.5 and values.max() < 1.3  # As far as five iterations bring them (Jordan et al.).


def test_singular_vectors_stay():
    matrix = torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    product = u.T @ orthogonalized(matrix[None])[0] @ vh.T
    assert (product - product.diag().diag()).abs().max() < 1e-4


def test_a_zero_gradient_changes_nothing():
    kernel = nn.Parameter(torch.ones(3, 2, 1, 1, 1))
    kernel.grad = torch.zeros_like(kernel)
    Muon([kernel], lr=0.1).step()
    torch.testing.assert_close(kernel.detach(), torch.ones(3, 2, 1, 1, 1))


def test_the_first_update_is_as_large_as_adam_s():
    kernel = nn.Parameter(torch.zeros(16, 8, 3, 3, 3))
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(2))
    Muon([kernel], lr=1e-2).step()
    root_mean_square = kernel.detach().square().mean().sqrt()
    assert 0.15e-2 < root_mean_square < 0.25e-2
    assert (kernel.detach() * kernel.grad).sum() < 0  # Downhill.


def test_each_parameter_has_one_optimizer():
    network = ResidualEncoderUNet(SMALL)
    adam, muon = optimizers(replace(DEFAULT, muon=True), network)
    given = [id(p) for optimizer in (adam, muon) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(given) == sorted(map(id, network.parameters()))
    assert [type(optimizer) for optimizer in optimizers(replace(DEFAULT, muon=False), network)] == [torch.optim.AdamW]


def test_the_first_and_the_last_kernels_are_not_muon_s():
    network = ResidualEncoderUNet(SMALL)
    inner = {id(kernel) for kernel in inner_kernels(network)}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in inner}
    assert "encoder.stages.1.blocks.0.conv1.conv.weight" in names and "decoder.transpconvs.0.weight" in names
    assert not any("stem" in name or "seg_layers" in name or name.endswith("bias") for name in names)


def test_rescaled_kernels_compute_the_same_and_have_a_fresh_one_s_scale():
    torch.manual_seed(0)
    network = ResidualEncoderUNet(SMALL).eval()
    fresh = {name: tensor.square().mean().sqrt() for name, tensor in network.state_dict().items() if tensor.ndim == 5}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        image = torch.randn(1, 8, 16, 16, 16)
        before = network(image)
        rescale_kernels(network)
        torch.testing.assert_close(network(image), before, rtol=1e-3, atol=1e-3)
    for name, tensor in network.state_dict().items():
        if name.endswith(("conv1.conv.weight", "conv2.conv.weight")):
            assert tensor.square().mean().sqrt() / fresh[name] == pytest.approx(1, abs=0.15)


def plain_update(parameter: Tensor, gradient: Tensor, momentum: Tensor, rate: float, weight_decay: float) -> None:
    """One parameter's step in place, as it is written down, for a momentum of 0.95."""
    momentum.lerp_(gradient, 0.05)
    direction = gradient.lerp(momentum, 0.95).flatten(1)
    wide = direction.T if len(direction) > direction.shape[1] else direction
    wide = wide / wide.norm().clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    update = wide.T if len(direction) > direction.shape[1] else wide
    parameter.mul_(1 - rate * weight_decay)
    parameter.sub_(update.reshape(parameter.shape) * 0.2 * math.sqrt(max(direction.shape)) * rate)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_stacks_are_updated_as_each_kernel_alone(memory_format: torch.memory_format):
    random = torch.Generator().manual_seed(3)
    shapes = [(6, 4, 3, 3, 3), (6, 4, 3, 3, 3), (20, 2, 1, 1, 1), (2, 20, 1, 1, 1), (6, 6, 2, 2, 2), (9, 1, 2, 2, 2)]
    kernels = [nn.Parameter(torch.randn(s, generator=random).to(memory_format=memory_format)) for s in shapes]
    expected = [kernel.detach().clone() for kernel in kernels]
    momenta = [torch.zeros(shape) for shape in shapes]
    optimizer = Muon(kernels, lr=0.02, weight_decay=0.1)
    for _ in range(3):
        for kernel, plain, momentum in zip(kernels, expected, momenta):
            kernel.grad = torch.randn(kernel.shape, generator=random).to(memory_format=memory_format)
            plain_update(plain, kernel.grad.clone(), momentum, 0.02, 0.1)
        optimizer.step()
    for kernel, plain, momentum in zip(kernels, expected, momenta):
        torch.testing.assert_close(kernel.detach(), plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(optimizer.state[kernel]["momentum"], momentum)
    assert set(optimizer.state_dict()["state"][0]) == {"momentum"}


def test_zeros_that_fill_a_stack_up_change_nothing():
    random = torch.Generator().manual_seed(4)
    narrow = torch.randn((6, 20), generator=random)
    filled = torch.cat((narrow, torch.zeros((6, 30))), dim=1)
    together = orthogonalized(torch.stack((filled, torch.randn((6, 50), generator=random))))[0]
    torch.testing.assert_close(together[:, :20], orthogonalized(narrow[None])[0], rtol=1e-4, atol=1e-5)
    assert not together[:, 20:].any()
