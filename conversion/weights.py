"""What ``segfm3d weights`` does: what a file of weights is, to and from nnInteractive's layout, and the temperature."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inference.command import Parser, choose, run
from inference.options import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

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
        parser.error("--temperature: expected a number above 0")
    from inference import checkpoint
    from inference.model import read_weights

    def write() -> None:
        config, state = read_weights(options.source)
        checkpoint.build(config, state, options.source)
        if options.temperature is not None:
            config = replace(config, temperature=options.temperature)
        checkpoint.save(options.out, config, state, checkpoint.widest(state))
        _say(options.out, config, state)

    return run(write, checkpoint.CheckpointError)


def export(arguments: list[str], prog: str) -> int:
    """Writes a folder that nnInteractive loads."""
    parser = Parser(prog, export.__doc__, "models/segfm3d", "models/mine --weights runs/mine/weights.pt --licence MIT")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder to write")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="what it is written from")
    parser.add_argument("--licence", help="the weights' licence, which clients show (default: that of our own weights)")
    options = parser.parse_args(arguments)
    from inference.checkpoint import CheckpointError
    from inference.model import load_model
    from inference.nninteractive import WEIGHTS_LICENCE
    from inference.nninteractive import export as write_folder

    folder: Path = options.folder

    def write() -> None:
        if folder.exists() and any(folder.iterdir()):
            raise CheckpointError(f"{folder}: is not empty; expected a new folder, so that no model is overwritten")
        network, config = load_model(options.weights)
        state = network.state_dict()
        write_folder(folder, config, state, options.licence or WEIGHTS_LICENCE)
        _say(folder, config, state)

    return run(write, CheckpointError)


def _say(target: Path, config: ModelConfig, state: dict[str, Tensor]) -> None:
    parameters = sum(tensor.numel() for tensor in state.values())
    print(
        f"{target}: {len(state)} tensors, {parameters:,} parameters, patch {config.patch}, "
        f"temperature {config.temperature:g}"
    )
