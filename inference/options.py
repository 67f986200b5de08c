"""The options that every command with a network has, and all of ``python -m inference``. Nothing here imports torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from inference.command import Parser, above_zero

DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "default.pt"


FOR_AN_IMAGE = "for a single image there is segfm3d segment IMAGE"
"""What is said where an image is given in place of cases."""


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


def predict_options(arguments: list[str] | None, prog: str = "python -m inference") -> argparse.Namespace:
    """The settings of a run over a folder: an option wins over its variable, a variable over the default."""
    variable = os.environ.get
    parser = Parser(
        prog,
        "Segments every case (*.npz) of a folder: reads imgs, boxes, clicks and prev_pred, writes segs. Each option "
        "can also be given as a variable: --inputs as SEGFM3D_INPUTS, and so on.",
        "--inputs cases --outputs results",
    )
    folders = parser.add_argument_group("folders")
    folders.add_argument(
        "--inputs",
        type=Path,
        metavar="FOLDER",
        default=Path(variable("SEGFM3D_INPUTS", "/workspace/inputs")),
        help="of cases",
    )
    folders.add_argument(
        "--outputs",
        type=Path,
        metavar="FOLDER",
        default=Path(variable("SEGFM3D_OUTPUTS", "/workspace/outputs")),
        help="for the label maps",
    )
    add_network_options(parser)
    time = parser.add_argument_group("time limit")
    time.add_argument(
        "--seconds-per-class",
        type=above_zero,
        metavar="SECONDS",
        default=variable("SEGFM3D_SECONDS_PER_CLASS", "90"),
        help="the evaluator's limit for an object, summed over the runs of a case",
    )
    time.add_argument(
        "--runs-per-case",
        type=above_zero,
        metavar="N",
        default=variable("SEGFM3D_RUNS_PER_CASE", "6"),
        help="runs that share this limit",
    )
    chosen, more = parser.parse_known_args(arguments)
    if more:
        parser.error(f"{' '.join(more)}: not understood; {FOR_AN_IMAGE}")
    return chosen
