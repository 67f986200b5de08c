"""Muon: its update is the orthogonal factor of the gradient, and it has the kernels that it should."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from inference.network import NetworkConfig, ResidualEncoderUNet
from training.config import DEFAULT
from training.loop import optimizers
from training.muon import Muon, freshen, inner_kernels, orthogonalized

SMALL = NetworkConfig(features=(4, 6, 8), blocks=(1, 1, 1))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_all_singular_values_come_near_one(shape: tuple[int, int]):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.5 and values.max() < 1.3  # As far as five iterations bring them (Jordan et al.).


def test_singular_vectors_stay():
    matrix = torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    product = u.T @ orthogonalized(matrix) @ vh.T
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


def test_a_freshened_network_computes_the_same_with_kernels_of_a_fresh_one_s_scale():
    torch.manual_seed(0)
    network = ResidualEncoderUNet(SMALL).eval()
    fresh = {name: tensor.square().mean().sqrt() for name, tensor in network.state_dict().items() if tensor.ndim == 5}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        image = torch.randn(1, 8, 16, 16, 16)
        before = network(image)
        freshen(network)
        torch.testing.assert_close(network(image), before, rtol=1e-3, atol=1e-3)
    for name, tensor in network.state_dict().items():
        if name.endswith(("conv1.conv.weight", "conv2.conv.weight")):
            assert tensor.square().mean().sqrt() / fresh[name] == pytest.approx(1, abs=0.15)
