"""The network: its size, its parity with the published architecture, and its two heads as one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.peer import peer_network
from inference.network import FULL, LogOddsUNet, NetworkConfig, ResidualEncoderUNet
from tests.inference.factories import randomized

SMALL = NetworkConfig((8, 12, 16), (1, 2, 3))


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def pair(config: NetworkConfig) -> tuple[nn.Module, nn.Module]:
    """Our network and the peer's with the same weights, taken from ours."""
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    ours = randomized(ResidualEncoderUNet(config))
    theirs = peer_network(config)
    own = theirs.state_dict()
    tensors = {name: tensor for name, tensor in ours.state_dict().items() if name in own}
    assert tensors.keys() == ours.state_dict().keys(), "every tensor of ours has its name there"
    # Their aliases share memory with the tensors that they repeat, so that these are filled as well.
    theirs.load_state_dict(tensors, strict=False)
    return ours, theirs.eval()


def test_the_full_configuration_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = ResidualEncoderUNet(FULL)
    assert sum(parameter.numel() for parameter in network.parameters()) == 102_355_818
    assert len(network.state_dict()) == 264


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 16, 8)], ids=str)
@torch.inference_mode()
def test_a_small_network_equals_the_peers(shape: tuple[int, int, int]) -> None:
    ours, theirs = pair(SMALL)
    x = torch.randn(2, 8, *shape, generator=torch.Generator().manual_seed(1))
    assert relative_difference(ours(x), theirs(x)) < 1e-4


@pytest.fixture(scope="module")
def full_pair() -> tuple[nn.Module, nn.Module]:
    return pair(FULL)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 64, 64), (96, 64, 32)], ids=str)
@torch.inference_mode()
def test_the_full_network_equals_the_peers(full_pair: tuple[nn.Module, nn.Module], shape: tuple[int, int, int]) -> None:
    ours, theirs = full_pair
    x = torch.randn(1, 8, *shape, generator=torch.Generator().manual_seed(1))
    assert relative_difference(ours(x), theirs(x)) < 1e-4


@torch.inference_mode()
def test_the_prediction_depends_on_every_tensor_that_is_run() -> None:
    """Otherwise parity would say little: with the usual initialization, residual branches begin at zero."""
    network = randomized(ResidualEncoderUNet(SMALL))
    x = torch.randn(1, 8, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    before = network(x)
    for name, parameter in network.named_parameters():
        # A constant before a normalization does nothing; other heads are for training.
        if name.endswith("conv.bias") or name.startswith("decoder.seg_layers.0"):
            continue
        kept = parameter.clone()
        parameter[0] += 1.0
        assert not torch.equal(network(x), before), name
        parameter.copy_(kept)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 16, 8)], ids=str)
@torch.inference_mode()
def test_the_folded_head_is_the_difference_of_both(shape: tuple[int, int, int]) -> None:
    network = randomized(ResidualEncoderUNet(SMALL))
    x = torch.randn(2, 8, *shape, generator=torch.Generator().manual_seed(1))
    heads = network(x)
    log_odds = LogOddsUNet(network)(x)
    assert log_odds.shape == (2, 1, *shape)
    torch.testing.assert_close(log_odds, heads[:, 1:] - heads[:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_odds.sigmoid(), heads.softmax(dim=1)[:, 1:], atol=1e-5, rtol=1e-5)


def test_every_parameter_that_is_run_can_be_trained() -> None:
    network = ResidualEncoderUNet(SMALL)
    network(torch.randn(1, 8, 16, 16, 16)).sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == ["decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"]


@pytest.mark.parametrize(("features", "blocks"), [((8, 16), (1,)), ((8,), (1,)), ((8, 0), (1, 1)), ((8, 16), (1, 0))])
def test_a_shape_that_is_none_is_refused(features: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        NetworkConfig(features, blocks)
