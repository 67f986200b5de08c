"""The convolution with half of the multiplications equals the plain one in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv3d

from inference import winograd
from inference.cpu_forward import for_cpu
from inference.network import LogOddsUNet, NetworkConfig, ResidualEncoderUNet
from tests.inference.factories import randomized

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


def random_tensor(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("depth", [1, 3, 4, 5, 6, 7, 8, 13])
@pytest.mark.parametrize("channels", [(16, 16), (8, 24), (24, 8)], ids=str)
@torch.inference_mode()
def test_it_equals_the_plain_convolution(depth: int, channels: tuple[int, int]) -> None:
    inputs, outputs = channels
    x = random_tensor(1, inputs, depth, 9, 10).contiguous(memory_format=torch.channels_last_3d)
    weight = random_tensor(outputs, inputs, 3, 3, 3)
    found = winograd.convolve(x, weight)
    expected = conv3d(x.double(), weight.double(), padding=1)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("channels", "shape", "expected"),
    [
        ((64, 64), (96, 96, 96), True),
        ((32, 128), (48, 48, 48), True),
        ((16, 16), (192, 192, 192), False),
        ((8, 32), (192, 192, 192), False),
        ((320, 320), (6, 6, 6), False),
        ((64, 64), (3, 96, 96), False),
    ],
)
def test_it_is_for_many_channels_and_large_slices(
    channels: tuple[int, int], shape: tuple[int, int, int], expected: bool
) -> None:
    inputs, outputs = channels
    x, weight = torch.empty(1, inputs, *shape, device="meta"), torch.empty(outputs, inputs, 3, 3, 3, device="meta")
    assert winograd.pays(x, weight) is expected


@torch.inference_mode()
def test_a_network_of_large_tensors_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = LogOddsUNet(randomized(ResidualEncoderUNet(NetworkConfig((32, 64), (1, 1))))).eval()
    x = random_tensor(1, 8, 12, 64, 64)
    shapes, convolve = [], winograd.convolve

    def seen(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(weight.shape[:2]), tuple(x.shape[2:])))
        return convolve(x, weight)

    monkeypatch.setattr(winograd, "convolve", seen)
    found = for_cpu(network)(x)
    expected = network.double()(x.double())
    assert set(shapes) == {((32, 32), (12, 64, 64)), ((64, 64), (6, 32, 32)), ((32, 64), (12, 64, 64))}
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
