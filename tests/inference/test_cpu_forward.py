"""The forward for CPUs equals the plain network, computed in double precision: float32 costs that one digits, too."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from inference.cpu_forward import PIECE, CpuUNet, for_cpu
from inference.model import load_model
from inference.network import FULL, LogOddsUNet, NetworkConfig, ResidualEncoderUNet
from inference.predictor import load_predictor
from tests.inference.factories import randomized, write_weights

SMALL = NetworkConfig((8, 12, 16), (1, 2, 3))
WITHOUT_PROJECTION = NetworkConfig((8, 16, 16), (1, 1, 2))
ODD = NetworkConfig((1, 3), (1, 2))


def plain(config: NetworkConfig) -> LogOddsUNet:
    return LogOddsUNet(randomized(ResidualEncoderUNet(config))).eval()


def volume(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def relative_error(network: LogOddsUNet, x: torch.Tensor) -> float:
    """Of the forward for CPUs, to the largest log-odds."""
    ours = for_cpu(network)(x)
    expected = deepcopy(network).double()(x.double())
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("config", [SMALL, WITHOUT_PROJECTION, ODD], ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 16, 16, 16), (3, 8, 8, 24, 16)], ids=str)
@torch.inference_mode()
def test_it_equals_the_plain_network(config: NetworkConfig, shape: tuple[int, ...]) -> None:
    assert relative_error(plain(config), volume(*shape)) < 1e-5


@torch.inference_mode()
def test_it_equals_the_plain_network_where_the_last_piece_is_a_smaller_one() -> None:
    x = volume(1, 8, 32, 32, 20)
    assert 8 * x[0, 0].numel() > PIECE and 8 * x[0, 0].numel() % PIECE
    assert relative_error(plain(SMALL), x) < 1e-5


@pytest.mark.slow
@torch.inference_mode()
def test_it_equals_the_plain_network_of_the_full_configuration() -> None:
    assert relative_error(plain(FULL), volume(1, 8, 64, 64, 64)) < 1e-5


@torch.inference_mode()
def test_neither_the_input_nor_the_plain_network_is_changed() -> None:
    network = plain(SMALL)
    x = volume(1, 8, 16, 16, 16)
    input_before, state_before = x.clone(), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast = for_cpu(network)
    first = fast(x)
    assert torch.equal(fast(x), first)
    assert torch.equal(x, input_before)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state_before[name]), name


@torch.inference_mode()
def test_no_digits_are_lost_in_many_voxels_far_from_zero() -> None:
    """As in an image without a background: means and variances are sums of a quarter of a million numbers."""
    x = volume(1, 8, 64, 64, 64).abs() + 10
    assert relative_error(plain(NetworkConfig((8, 12), (1, 1))), x) < 1e-4


def test_kernels_from_a_file_are_used_where_they_are(tmp_path: Path) -> None:
    network = load_model(write_weights(tmp_path / "weights.pt"))[0]
    fast = for_cpu(LogOddsUNet(network))
    stored = {parameter.data_ptr() for parameter in network.parameters()}
    threes = [parameter for parameter in fast.parameters() if parameter.shape[2:] == (3, 3, 3)]
    assert threes and all(kernel.data_ptr() in stored for kernel in threes)


def test_without_onednn_the_plain_network_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = plain(SMALL)
    assert for_cpu(network) is network


def test_a_segmenter_on_the_cpu_has_it(tmp_path: Path) -> None:
    assert isinstance(load_predictor(write_weights(tmp_path / "weights.pt"), "cpu").network, CpuUNet)
