"""Any weights -> network: our file, or an nnInteractive folder.

``python -m inference.model FOLDER OUT.pt`` converts such a folder to our file, ``--to-nninteractive FOLDER`` writes
one, and ``FILE OUT.pt --temperature T`` copies our own weights with another temperature.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from inference import checkpoint
from inference.checkpoint import CheckpointError, ModelConfig
from inference.command import Parser, run
from inference.network import ResidualEncoderUNet
from inference.options import DEFAULT_WEIGHTS


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


def main(arguments: list[str] | None = None, prog: str = "python -m inference.model") -> int:
    """Converts an nnInteractive folder to one file of ours, or weights to a folder that nnInteractive loads; sets the
    temperature of weights."""
    parser = Parser(prog, main.__doc__)
    parser.usage = (
        "%(prog)s SOURCE OUT.pt [--temperature T]\n"
        "       %(prog)s --to-nninteractive FOLDER [--weights FILE] [--licence NAME]"
    )
    parser.add_argument(
        "source",
        type=Path,
        nargs="?",
        help="plans.json, dataset.json, fold_0 or fold_all/checkpoint_final.pth in a folder; or a file of ours",
    )
    parser.add_argument("out", type=Path, nargs="?", help="the file to write, for example weights/nninteractive.pt")
    parser.add_argument(
        "--temperature", type=float, help="what the log-odds are divided by (default: the source's, else 1)"
    )
    parser.add_argument("--to-nninteractive", type=Path, metavar="FOLDER", help="a new folder to write")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="what it is written from")
    parser.add_argument("--licence", help="the weights' licence, which clients show (default: that of our own weights)")
    options = parser.parse_args(arguments)
    writing_file = options.source is not None and options.out is not None
    if writing_file == (options.to_nninteractive is not None):
        parser.error("expected SOURCE OUT.pt, or --to-nninteractive FOLDER")
    if options.temperature is not None and not (writing_file and 0 < options.temperature < math.inf):
        parser.error("--temperature: expected a number above 0, and SOURCE OUT.pt")
    if writing_file:
        return convert(options.source, options.out, options.temperature)
    return export_folder(options.weights, options.to_nninteractive, options.licence)


def convert(source: Path, target: Path, temperature: float | None) -> int:
    """Writes weights as our file, and says what they are; returns the exit code."""
    return _written(target, lambda: _copy(source, target, temperature))


def export_folder(weights: Path, folder: Path, licence: str | None) -> int:
    """Writes weights as a folder that nnInteractive loads, and says what they are; returns the exit code."""
    return _written(folder, lambda: _export(weights, folder, licence))


def _written(target: Path, write: Callable[[], tuple[ModelConfig, dict[str, Tensor]]]) -> int:
    def action() -> None:
        config, state = write()
        parameters = sum(tensor.numel() for tensor in state.values())
        print(
            f"{target}: {len(state)} tensors, {parameters:,} parameters, patch {config.patch}, "
            f"temperature {config.temperature:g}"
        )

    return run(action, CheckpointError)


def _copy(source: Path, target: Path, temperature: float | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Writes weights as our file, in the widest precision in which any of them is stored."""
    config, state = read_weights(source)
    checkpoint.build(config, state, source)
    if temperature is not None:
        config = replace(config, temperature=temperature)
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    checkpoint.save(target, config, state, dtype)
    return config, state


def _export(weights: Path, folder: Path, licence: str | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    from inference.nninteractive import WEIGHTS_LICENCE, export

    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: is not empty; expected a new folder, so that no other model is overwritten")
    network, config = load_model(weights)
    state = network.state_dict()
    export(folder, config, state, licence or WEIGHTS_LICENCE)
    return config, state


if __name__ == "__main__":
    sys.exit(main())
