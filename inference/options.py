"""The options that every command with a network has. What imports this does not import torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "default.pt"


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """``--weights`` and ``--device``, with their variables."""
    variable = os.environ.get
    network = parser.add_argument_group("network")
    network.add_argument(
        "--weights",
        type=Path,
        default=Path(variable("SEGFM3D_WEIGHTS", str(DEFAULT_WEIGHTS))),
        help="our file or an nnInteractive folder",
    )
    network.add_argument(
        "--device",
        default=variable("SEGFM3D_DEVICE", "auto"),
        help="cpu, cuda, cuda:1, …, or auto: a GPU that works, else the CPU",
    )
