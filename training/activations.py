"""Activation checkpointing: a stage keeps its input only, and is computed again when its gradients are.

What a forward keeps for its gradients falls to a fifth, to which the largest stage's tensors come while they are needed
again, and each stage's forward is computed twice. The gradients
are the same. Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).
"""

from __future__ import annotations

from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inference.network import Decoder, ResidualEncoderUNet

# Nothing in the network is random.
_again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def checkpoint_stages(network: ResidualEncoderUNet) -> None:
    """Makes a network keep what goes into its stages only; a forward without gradients is as before."""
    encoder, decoder = network.encoder, network.decoder
    for stage in (encoder.stem, *encoder.stages):
        stage.forward = partial(_again, stage.forward)
    decoder.forward = MethodType(_decode, decoder)


def _decode(decoder: Decoder, skips: list[Tensor]) -> Tensor:
    """As the decoder's own forward: a stage begins with what comes from below, so that the joined one is not kept."""
    x = skips[-1]
    for upsample, stage, skip in zip(decoder.transpconvs, decoder.stages, skips[-2::-1]):
        x = _again(_stage, upsample, stage, x, skip)
    return x


def _stage(upsample: nn.Module, stage: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    return stage(torch.cat((upsample(x), skip), dim=1))
