"""The published network, from the package that nnInteractive takes it from: what ours is compared with."""

from __future__ import annotations

from torch import nn

from inference.network import NetworkConfig


def peer_network(config: NetworkConfig) -> nn.Module:
    """The published architecture of the same shape, from the package that nnInteractive takes it from.

    It has the heads of deep supervision, as published checkpoints do, and does not run them.
    """
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet as Peer

    stages = len(config.features)
    return Peer(
        input_channels=8,
        n_stages=stages,
        features_per_stage=config.features,
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_blocks_per_stage=config.blocks,
        num_classes=2,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
