"""``python -m training``: trains weights for the submission image."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from inference import checkpoint
from inference.case import CaseError
from inference.network import NetworkConfig
from inference.nninteractive_export import export
from training.config import CONFIGS, TrainingConfig
from training.dataset import Volume, load_volumes
from training.lock import FolderInUseError
from training.loop import ResumeError, Run, half_precision_pays, train
from training.pieces import split
from training.validation import load_cases


def parser() -> argparse.ArgumentParser:
    """The settings of a run."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Trains weights on a folder of labelled cases (*.npz with imgs and gts). Goes on where it stopped.",
        epilog="Several GPUs: torchrun --nproc-per-node N -m training …",
    )
    parser.add_argument("--config", choices=sorted(CONFIGS), default="default", help="what to train")
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, weights, log and curves")
    parser.add_argument("--init", type=Path, help="weights to begin with: our file or an nnInteractive folder")
    parser.add_argument("--validation", type=Path, help="folder of *.npz with imgs, gts and boxes, never trained on")
    parser.add_argument("--validate-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--steps", type=int, help="steps of the optimizer (default: from the configuration's epochs)")
    parser.add_argument("--patch", type=int, help="edge of the patch in voxels (default: the configuration's)")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate (default: the configuration's)")
    parser.add_argument(
        "--final-learning-rate",
        type=float,
        metavar="RATE",
        help="reached on a cosine at the last step; equal to the peak for a constant one, which --steps can lengthen",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--workers", type=int, default=min(max(cores - 1, 1), 12), help="processes that draw samples")
    parser.add_argument("--no-mixed-precision", action="store_true", help="compute in float32 throughout")
    parser.add_argument(
        "--compile", action="store_true", help="faster steps after a minute or two; on a CPU it wants a C++ compiler"
    )
    parser.add_argument("--checkpoint-every", type=float, default=120, metavar="SECONDS")
    parser.add_argument(
        "--pieces", type=float, metavar="MB", help="also write the weights in pieces of at most so many MB"
    )
    parser.add_argument("--nninteractive", action="store_true", help="also write an nnInteractive folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="8 volumes, 6 steps, a small patch: does everything once, in a minute"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Trains; errors of use end it with one line and exit code 1."""
    options = parser().parse_args(arguments)
    try:
        initial, network = _weights(options.init)
        config = _config(options, network)
        volumes = load_volumes(options.data, at_most=8 if options.dry_run else None)
        validation = tuple(load_cases(options.validation)) if options.validation else ()
    except (OSError, ValueError, CaseError, checkpoint.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    device = _device(options.device)
    run = Run(
        out=options.out,
        steps=6 if options.dry_run else options.steps or _steps(config, volumes),
        device=device,
        seed=options.seed,
        mixed_precision=not options.no_mixed_precision and half_precision_pays(device),
        compile=options.compile,
        workers=options.workers,
        checkpoint_every=options.checkpoint_every,
        validation=validation[:2] if options.dry_run else validation,
        validate_every=options.validate_every,
    )
    try:
        weights = train(config, volumes, run, initial)
    except (ResumeError, FolderInUseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{options.out / 'weights.pt'}: {run.steps} steps; curves in {options.out / 'curves.png'}")
        if options.nninteractive:
            export(options.out / "nninteractive", config.model, weights.state_dict())
        if options.pieces:
            for piece in split(options.out / "weights.pt", options.pieces):
                print(piece)
    return 0


def _weights(path: Path | None) -> tuple[dict[str, Tensor] | None, NetworkConfig | None]:
    if path is None:
        return None, None
    network, model = checkpoint.load(path)
    return network.state_dict(), model.network


def _config(options: argparse.Namespace, network: NetworkConfig | None) -> TrainingConfig:
    """The configuration with what the options change; weights to begin with bring their network."""
    config = CONFIGS[options.config]
    if options.learning_rate:
        rates = {"learning_rate": options.learning_rate}
        if config.final_learning_rate == config.learning_rate:  # A constant one stays constant.
            rates["final_learning_rate"] = options.learning_rate
        config = replace(config, **rates)
    if options.final_learning_rate:
        config = replace(config, final_learning_rate=options.final_learning_rate)
    network = network or config.model.network
    # Three voxels in the lowest stage: with two, oneDNN's bfloat16 gradients are not always finite.
    edge = options.patch or (3 * network.stride if options.dry_run else None)
    patch = config.model.patch if edge is None else (edge, edge, edge)
    return replace(config, model=replace(config.model, network=network, patch=patch))


def _steps(config: TrainingConfig, volumes: list[Volume]) -> int:
    return config.steps(len(volumes), int(os.environ.get("WORLD_SIZE", 1)))


def _device(name: str | None) -> torch.device:
    if name is None:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    sys.exit(main())
