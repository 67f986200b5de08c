"""Any weights -> network: our file, or an nnInteractive folder. ``segfm3d weights`` converts the one to the other."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from inference import checkpoint
from inference.checkpoint import ModelConfig
from inference.network import ResidualEncoderUNet


def load_model(path: Path) -> tuple[ResidualEncoderUNet, ModelConfig]:
    """Reads weights: our file, or an nnInteractive folder.

    Returns:
        the network on the CPU, in evaluation mode, float32, and its configuration. Its kernels may have their channels
        last in memory, with which PyTorch's own normalization is less exact: what runs it as it is, and not by way of
        :func:`inference.cpu_forward.for_cpu`, brings it to ``torch.contiguous_format`` first.

    Raises:
        CheckpointError: missing, unreadable, unsafe or of another configuration.
    """
    config, state = read_weights(path)
    return checkpoint.build(config, state, path), config


def read_weights(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Reads our file, or an nnInteractive folder: the configuration, and the tensors as they are stored.

    Raises:
        CheckpointError: missing, unreadable or unsafe.
    """
    if not path.is_dir():
        return checkpoint.read(path)
    from inference.nninteractive import read_nninteractive  # Not for the embedded weights.

    return read_nninteractive(path)
