"""What ``segfm3d weights`` does: what a file of weights is, to and from nnInteractive's layout, and the temperature."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from inference.command import Parser, choose, run
from inference.options import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from inference.checkpoint import ModelConfig


def main(arguments: list[str], prog: str = "segfm3d weights") -> int:
    """Runs one of the commands about weights."""
    commands = {
        "info": ("say what weights are: network, patch, prompts, temperature", info),
        "convert": ("write an nnInteractive folder, or a file of ours, as a file of ours", convert),
        "export": ("write a folder that nnInteractive loads", export),
    }
    return choose(prog, "Weights: ours and nnInteractive's.", commands, arguments)


def info(arguments: list[str], prog: str) -> int:
    """Says what weights are."""
    parser = Parser(prog, info.__doc__, "weights/default.pt")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="our file, or an nnInteractive folder")
    options = parser.parse_args(arguments)
    from inference.checkpoint import CheckpointError
    from inference.model import load_model

    def say() -> None:
        network, model = load_model(options.weights)
        count = sum(parameter.numel() for parameter in network.parameters())
        print("\n".join(f"{name:17} {value}" for name, value in described(model, count).items()))

    return run(say, CheckpointError)


def described(model: ModelConfig, parameters: int) -> dict[str, object]:
    """All that is stored beside the tensors, and how many numbers these hold: name -> value."""
    lines: dict[str, object] = {"parameters": f"{parameters:,}"}
    for name, value in model.to_dict().items():
        lines |= value if isinstance(value, dict) else {name: value}
    return lines


def convert(arguments: list[str], prog: str) -> int:
    """Writes an nnInteractive folder, or a file of ours, as a file of ours."""
    parser = Parser(
        prog,
        convert.__doc__,
        "nnInteractive_v1.0 weights/nninteractive.pt",
        "weights/default.pt OUT.pt --temperature 2.73",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="plans.json, dataset.json, fold_0 or fold_all/checkpoint_final.pth in a folder; or a file of ours",
    )
    parser.add_argument("out", type=Path, metavar="OUT.pt", help="the file to write")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="what the log-odds are divided by (default: the source's, else 1)",
    )
    options = parser.parse_args(arguments)
    if options.temperature is not None and not 0 < options.temperature < math.inf:
        parser.error("--temperature: expected a number above 0, and SOURCE OUT.pt")
    from inference.model import convert as convert_weights

    return convert_weights(options.source, options.out, options.temperature)


def export(arguments: list[str], prog: str) -> int:
    """Writes a folder that nnInteractive loads."""
    parser = Parser(prog, export.__doc__, "models/segfm3d", "models/mine --weights runs/mine/weights.pt --licence MIT")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder to write")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="what it is written from")
    parser.add_argument("--licence", help="the weights' licence, which clients show (default: that of our own weights)")
    options = parser.parse_args(arguments)
    from inference.model import export_folder

    return export_folder(options.weights, options.folder, options.licence)
