"""The network's forward on a CPU: the arithmetic of :class:`inference.network.LogOddsUNet`, arranged for memory.

What is done otherwise, and why it is faster:

- Channels lie last in memory, as oneDNN's convolutions take them and give them: nothing is reordered in between. oneDNN
  is called by name, since ``conv3d`` gives small volumes to a slower implementation.
- Large convolutions are made with half of the multiplications (:mod:`inference.winograd`).
- A convolution's bias is left out: the normalization behind it subtracts it again.
- Normalization, residual and LeakyReLU are done in place, piece by piece while the piece is in the cache. Each fresh
  tensor of full resolution costs as much for its page faults as for the arithmetic on it.
- An average pooling and the projection behind it are one convolution whose kernel is the pooling's.
- A transposed convolution with stride and kernel 2 is a matrix product, written beside the skip where ``cat`` would
  copy it to.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_

from inference import winograd
from inference.network import Blocks, ConvNorm, Convs, LogOddsUNet, ResidualBlock, bias_of, module_of

PIECE = 2**17
"""Numbers (512 KiB of float32) of a tensor that are taken at a time: with the skip's they fit into a core's cache."""


def for_cpu(network: LogOddsUNet) -> nn.Module:
    """A module that computes what ``network`` computes, faster on a CPU, for inference only.

    Args:
        network: on the CPU, float32, in evaluation mode. Not changed; its parameters are copied where their order in
            memory is another one here, and shared where not.

    Returns:
        (N, 8, D, H, W) float32 -> log-odds (N, 1, D, H, W). The network itself, its kernels in the plain order, where
        PyTorch was built without oneDNN.
    """
    if torch.backends.mkldnn.is_available():
        return CpuUNet(network).eval()
    return network.to(memory_format=torch.contiguous_format)  # ty: ignore[no-matching-overload]  # No stub has it.


class CpuUNet(nn.Module):
    """(N, 8, D, H, W) -> log-odds (N, 1, D, H, W), one sample after another."""

    def __init__(self, network: LogOddsUNet) -> None:
        super().__init__()
        self.stem = _Convolution(_convolution_of(network.encoder.stem))
        self.stages = nn.ModuleList(_blocks(module_of(Blocks, stage)) for stage in network.encoder.stages)
        self.upsamplings = nn.ModuleList(
            _UpsampleBeside(module_of(nn.ConvTranspose3d, layer)) for layer in network.decoder.transpconvs
        )
        self.decoder = nn.ModuleList(_Convolution(_convolution_of(stage)) for stage in network.decoder.stages)
        self.head = network.head

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._sample(sample) for sample in x.split(1)])

    def _sample(self, x: Tensor) -> Tensor:
        x = self.stem.activated(x.contiguous(memory_format=torch.channels_last_3d))
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for upsample, convolution in zip(self.upsamplings, self.decoder):
            x = module_of(_Convolution, convolution).activated(upsample(x, skips.pop()))
        log_odds = torch.mv(_rows(x), self.head.weight.flatten()).add_(bias_of(self.head))
        return log_odds.view(1, 1, *x.shape[2:])


class _Convolution(nn.Module):
    """A 3D convolution and normalization of one sample whose channels lie last, (1, C, D, H, W)."""

    def __init__(self, source: ConvNorm, pooled: int = 1) -> None:
        """``pooled``: the kernel and stride of an average pooling in front of a 1×1×1 convolution."""
        super().__init__()
        weight = source.conv.weight.detach()
        if pooled > 1:
            weight = (weight / pooled**3).repeat(1, 1, pooled, pooled, pooled)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last_3d), requires_grad=False)
        self.stride = tuple(stride * pooled for stride in source.conv.stride)
        self.padding = tuple(size // 2 for size in source.conv.kernel_size)
        self.norm = source.norm

    def forward(self, x: Tensor) -> Tensor:
        x = self._convolve(x)
        for _ in self._normalize(x):
            pass
        return x

    def activated(self, x: Tensor) -> Tensor:
        """The same, then LeakyReLU."""
        x = self._convolve(x)
        for _, piece in self._normalize(x):
            leaky_relu_(piece)
        return x

    def added(self, x: Tensor, skip: Tensor) -> Tensor:
        """The same, then the sum with ``skip``, then LeakyReLU."""
        x = self._convolve(x)
        skip = _rows(skip)
        for where, piece in self._normalize(x):
            leaky_relu_(piece.add_(skip[where]))
        return x

    def _convolve(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1, 1) and self.padding == (1, 1, 1) and winograd.pays(x, self.weight):
            return winograd.convolve(x, self.weight)
        return torch.mkldnn_convolution(x, self.weight, None, self.padding, self.stride, (1, 1, 1), 1)

    def _normalize(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Normalizes in place; yields each piece, with where it lies in :func:`_rows`, while it is in the cache."""
        rows = _rows(x)
        step = max(PIECE // rows.shape[1], 1)
        # In pieces and around the mean: PyTorch's own statistics of such tensors add millions of numbers one by one.
        mean = rows.mean(0)
        squares = torch.stack([(piece - mean).square_().sum(0) for piece in rows.split(step)]).sum(0)
        scale = self.norm.weight * torch.rsqrt(squares / len(rows) + self.norm.eps)
        shift = self.norm.bias - mean * scale
        for start in range(0, len(rows), step):
            where = slice(start, start + step)
            piece = rows[where]
            torch.addcmul(shift, piece, scale, out=piece)
            yield where, piece


class _ResidualBlock(nn.Module):
    def __init__(self, source: ResidualBlock) -> None:
        super().__init__()
        self.conv1 = _Convolution(source.conv1)
        self.conv2 = _Convolution(source.conv2)
        self.skip = _skip(list(source.skip))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(x).contiguous(memory_format=torch.channels_last_3d)
        return self.conv2.added(self.conv1.activated(x), skip)


def _skip(modules: list[nn.Module]) -> nn.Module:
    """Nothing, a pooling, a projection, or both: then one convolution does both."""
    projection = modules[-1] if modules else None
    if not isinstance(projection, ConvNorm):
        return nn.Sequential(*modules)
    size = module_of(nn.AvgPool3d, modules[0]).kernel_size if len(modules) > 1 else 1
    return _Convolution(projection, size if isinstance(size, int) else size[0])


def _blocks(source: Blocks) -> nn.Module:
    return nn.Sequential(*(_ResidualBlock(module_of(ResidualBlock, block)) for block in source.blocks))


def _convolution_of(source: nn.Module) -> ConvNorm:
    return module_of(ConvNorm, module_of(Convs, source).convs[0])


class _UpsampleBeside(nn.Module):
    """x (1, C, D, H, W) and skip (1, S, 2D, 2H, 2W) -> the upsampled x beside the skip (1, 2S, 2D, 2H, 2W)."""

    def __init__(self, source: nn.ConvTranspose3d) -> None:
        super().__init__()
        # (C, S, 2, 2, 2) -> (C, 8S): a row of x times it are the eight voxels that x's voxel becomes.
        self.weight = nn.Parameter(source.weight.detach().permute(0, 2, 3, 4, 1).flatten(1), requires_grad=False)
        self.bias = nn.Parameter(bias_of(source).detach().repeat(8), requires_grad=False)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        depth, height, width = x.shape[2:]
        channels = skip.shape[1]
        both = torch.empty(1, 2 * channels, *skip.shape[2:], memory_format=torch.channels_last_3d)
        both[:, channels:] = skip
        octets = torch.addmm(self.bias, _rows(x), self.weight).view(depth, height, width, 2, 2, 2, channels)
        target = _rows(both).view(depth, 2, height, 2, width, 2, 2 * channels)[..., :channels]
        target.copy_(octets.permute(0, 3, 1, 4, 2, 5, 6))
        return both


def _rows(x: Tensor) -> Tensor:
    """(1, C, D, H, W) with the channels last in memory -> a view of it as (D·H·W, C)."""
    return x.permute(0, 2, 3, 4, 1).view(-1, x.shape[1])
