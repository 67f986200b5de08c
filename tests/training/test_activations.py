"""Activation checkpointing: the same gradients, and less kept for them."""

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from inference.network import NetworkConfig, ResidualEncoderUNet
from training.activations import checkpoint_stages

NETWORK = NetworkConfig(features=(8, 16, 24), blocks=(1, 2, 2))


def gradients(network: ResidualEncoderUNet, channels: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """The parameters' gradients, and the bytes that the forward kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = (network(channels)[:, 1] - network(channels)[:, 0]).sigmoid().square().mean()
    total = sum(kept.values())
    loss.backward()
    return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}, total


@pytest.mark.parametrize("half", [False, True])
def test_gradients_are_the_same_and_less_is_kept(half: bool):
    torch.manual_seed(0)
    plain = ResidualEncoderUNet(NETWORK)
    checkpointed = copy.deepcopy(plain)
    checkpoint_stages(checkpointed)
    channels = torch.randn(1, 8, 16, 16, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected, much = gradients(plain, channels)
        found, little = gradients(checkpointed, channels)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]), name
    assert little < 0.5 * much


def test_names_of_the_weights_stay_and_a_forward_without_gradients_too():
    torch.manual_seed(0)
    plain = ResidualEncoderUNet(NETWORK)
    checkpointed = copy.deepcopy(plain)
    checkpoint_stages(checkpointed)
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    channels = torch.randn(2, 8, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(plain(channels), checkpointed(channels))
