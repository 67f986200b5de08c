"""The residual-encoder U-Net (paper, section 2.1).

Module names follow the published nnInteractive checkpoints, so that a state dict of theirs, freed of its aliases
(see :mod:`inference.nninteractive`), loads strictly into this network and a state dict of ours loads into theirs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

IMAGE_AND_PROMPT_CHANNELS = 8
HEADS = 2

Kind = TypeVar("Kind", bound=nn.Module)


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a network.

    Args:
        features: channels of each encoder stage, from full resolution down.
        blocks: residual blocks of each encoder stage.

    Every stage but the first halves the resolution, so each axis of the input must be a multiple of :attr:`stride`.
    """

    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)

    def __post_init__(self) -> None:
        if len(self.features) != len(self.blocks) or len(self.features) < 2:
            raise ValueError(f"features {self.features} and blocks {self.blocks}: expected the same length, at least 2")
        if min(self.features + self.blocks) < 1:
            raise ValueError(f"features {self.features} and blocks {self.blocks}: expected positive numbers")

    @property
    def stride(self) -> int:
        """Voxels of the input that one voxel of the lowest stage covers along an axis."""
        return 2 ** (len(self.features) - 1)


FULL = NetworkConfig()
"""nnInteractive v1.0 and the paper: 102,355,818 parameters."""


class ChannelNorm(nn.GroupNorm):
    """Instance normalization with affine parameters, written as GroupNorm with one channel a group."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, eps=1e-5)


class ConvNorm(nn.Module):
    """3D convolution and normalization, then LeakyReLU if ``activate``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, activate: bool, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = ChannelNorm(outputs)
        self.activation = nn.LeakyReLU(inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """x + B(x), B being two convolutions with normalization (paper, section 2.1); the skip is pooled where strided."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 3, stride, activate=True)
        self.conv2 = ConvNorm(outputs, outputs, 3, 1, activate=False)
        self.skip = nn.Sequential()
        # The number in the name is the checkpoint's: the pooling, where there is one, is module 0.
        if stride > 1:
            self.skip.append(nn.AvgPool3d(stride, stride))
        if inputs != outputs:
            self.skip.append(ConvNorm(inputs, outputs, 1, 1, activate=False, bias=False))
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv2(self.conv1(x)).add_(self.skip(x)))


class Blocks(nn.Module):
    """A stage of the encoder: residual blocks, the first of which may change channels and resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, count: int) -> None:
        super().__init__()
        first = ResidualBlock(inputs, outputs, stride)
        self.blocks = nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Convs(nn.Module):
    """A single convolution with normalization and activation, under the name that checkpoints give it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(inputs, outputs, 3, 1, activate=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class Encoder(nn.Module):
    """(N, 8, D, H, W) -> one tensor a stage, from full resolution down."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        features = config.features
        self.stem = Convs(IMAGE_AND_PROMPT_CHANNELS, features[0])
        inputs = (features[0], *features[:-1])
        self.stages = nn.ModuleList(
            Blocks(inputs[stage], features[stage], 1 if stage == 0 else 2, config.blocks[stage])
            for stage in range(len(features))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """The encoder's tensors -> features (N, features[0], D, H, W).

    ``seg_layers`` are the heads of each stage; all but the last are deep supervision, kept for checkpoints and not run.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        upward = config.features[::-1]
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose3d(below, here, 2, 2) for below, here in itertools.pairwise(upward)
        )
        self.stages = nn.ModuleList(Convs(2 * here, here) for here in upward[1:])
        self.seg_layers = nn.ModuleList(nn.Conv3d(here, HEADS, 1) for here in upward[1:])

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips[-1]
        for upsample, stage, skip in zip(self.transpconvs, self.stages, skips[-2::-1]):
            x = stage(torch.cat((upsample(x), skip), dim=1))
        return x


class ResidualEncoderUNet(nn.Module):
    """Image and prompts (N, 8, D, H, W) -> the two heads' logits (N, 2, D, H, W).

    The paper's p is the sigmoid of head 1 − head 0. Each axis must be a multiple of ``config.stride``.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder.seg_layers[-1](self.decoder(self.encoder(x)))


class LogOddsUNet(nn.Module):
    """The network as inference runs it: both heads folded into one, (N, 8, D, H, W) -> log-odds (N, 1, D, H, W).

    Shares the parameters of ``network`` but for the folded head, which is head 1 − head 0.
    """

    def __init__(self, network: ResidualEncoderUNet) -> None:
        super().__init__()
        self.encoder = network.encoder
        self.decoder = network.decoder
        heads = module_of(nn.Conv3d, network.decoder.seg_layers[-1])
        self.head = nn.Conv3d(heads.in_channels, 1, 1, device=heads.weight.device, dtype=heads.weight.dtype)
        with torch.no_grad():
            self.head.weight.copy_(heads.weight[1:] - heads.weight[:1])
            bias_of(self.head).copy_(bias_of(heads)[1:] - bias_of(heads)[:1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))


def module_of(kind: type[Kind], module: nn.Module) -> Kind:
    """Returns a module of a container, of which PyTorch knows only that it is a module.

    Raises:
        TypeError: it is of another kind.
    """
    if not isinstance(module, kind):
        raise TypeError(f"{type(module).__name__}: expected {kind.__name__}")
    return module


def bias_of(layer: nn.Conv3d | nn.ConvTranspose3d) -> Tensor:
    """Returns a convolution's bias.

    Raises:
        ValueError: it has none.
    """
    if layer.bias is None:
        raise ValueError(f"{layer}: expected one with a bias")
    return layer.bias
