"""``python -m training``: trains weights for the submission image."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, distributed

from inference import checkpoint
from inference.command import Parser, run
from inference.deadline import process_age
from inference.model import load_model
from inference.network import NetworkConfig
from training.config import CONFIGS, TrainingConfig
from training.dataset import Volume, find_cases
from training.device import process_rank, training_device
from training.lock import FolderInUseError
from training.loop import Outcome, Run, half_precision_pays, join_processes, train
from training.shapes.library import load_shapes
from training.state import ResumeError
from training.store import decoded_bytes, fits_in_memory, volumes_of
from training.stored import StoreError

DRY_RUN = {"volumes": 4, "steps": 2}
DRY_FINER_LOOK = 0.3
"""Share of a dry run's steps with a fine pass, which takes eight times as long: one of both steps of ``--seed 0``."""
DRY_NETWORK = NetworkConfig(features=(8, 16, 32), blocks=(1, 1, 1))
"""Of a dry run that begins with no weights."""


def parser(prog: str = "python -m training") -> argparse.ArgumentParser:
    """Returns the settings of a run."""
    cores = os.cpu_count() or 1
    parser = Parser(
        prog,
        "Trains weights on labelled cases (*.npz with imgs and gts). Goes on where it stopped. On several GPUs: "
        "torchrun --nproc-per-node N -m training, and the same options.",
        "--data DATA --init weights/default.pt --out runs/mine --minutes 25",
    )
    what = parser.add_argument_group("what is trained")
    what.add_argument("--config", choices=sorted(CONFIGS), default="default", help="training/config.py has its numbers")
    what.add_argument("--init", type=Path, help="weights to begin with: our file or an nnInteractive folder")
    what.add_argument("--patch", type=int, help="edge of the patch in voxels (default: the configuration's)")
    what.add_argument("--batch", type=int, help="samples a forward (default: the configuration's)")
    what.add_argument("--finer-batch", type=int, help="the same for the fine pass (default: the configuration's)")
    what.add_argument("--seed", type=int, default=0)
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, nargs="+", help="folders of *.npz with imgs and gts")
    data.add_argument(
        "--shapes", type=Path, nargs="+", default=[], help="folders of *.npz with gts only, for made images"
    )
    data.add_argument(
        "--exclude", nargs="+", default=[], metavar="SOURCE", help="names that begin so are left out, as MR_acdc"
    )
    data.add_argument(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="read the cases from compressed chunks there, made first if need be "
        "(default: from memory if half of what is free holds them decoded, else OUT/store)",
    )
    data.add_argument("--workers", type=int, default=min(max(cores - 1, 1), 16), help="processes that draw samples")
    time = parser.add_argument_group("how long, and how fast")
    length = time.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="steps of the optimizer (default: from the configuration's epochs)")
    length.add_argument(
        "--minutes",
        type=float,
        help="of the whole run, earlier commands included: learning rate and running average follow the clock",
    )
    time.add_argument("--learning-rate", type=float, help="peak learning rate (default: the configuration's)")
    time.add_argument(
        "--final-learning-rate",
        type=float,
        metavar="RATE",
        help="reached on a cosine at the end; equal to the peak for a constant one, so that the run can go on later",
    )
    time.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    time.add_argument("--no-mixed-precision", action="store_true", help="compute in float32 throughout")
    time.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="half of the memory for a third more time a step: stages are computed again for their gradients",
    )
    time.add_argument(
        "--compile", action="store_true", help="faster steps after a minute or two; on a CPU it wants a C++ compiler"
    )
    results = parser.add_argument_group("results")
    results.add_argument("--out", type=Path, required=True, help="folder for last.pt, weights.pt, log and curves")
    results.add_argument("--checkpoint-every", type=float, default=60, metavar="SECONDS")
    results.add_argument(
        "--pieces",
        type=Path,
        metavar="FOLDER",
        help="also leave the state there in files below 16 MB; python -m training.pieces joins them",
    )
    results.add_argument("--nninteractive", action="store_true", help="also write an nnInteractive folder")
    results.add_argument(
        "--dry-run", action="store_true", help="a small network, a few volumes, two steps: does everything once"
    )
    return parser


def main(arguments: list[str] | None = None, prog: str = "python -m training") -> int:
    """Trains; wrong use ends it with one line and exit code 2, SIGTERM and SIGINT with 143 and 130."""
    options = parser(prog).parse_args(arguments)
    return run(
        lambda: _train(options), ValueError, checkpoint.CheckpointError, ResumeError, FolderInUseError, StoreError
    )


def _train(options: argparse.Namespace) -> int:
    device = training_device(options.device)
    initial, network = _weights(options.init)
    config = _config(options, network)
    volumes = _volumes(options, device)
    shapes = [label_map for folder in options.shapes for label_map in load_shapes(folder)]
    outcome = train(config, volumes, _run(options, config, volumes, device), initial, shapes)
    if process_rank() == 0:
        _report(options, config, outcome)
    return 0 if outcome.signal is None else 128 + outcome.signal


def _volumes(options: argparse.Namespace, device: torch.device) -> Sequence[Volume]:
    """Returns the cases, in memory or on disk as the first process decides, which also builds the store."""
    at_most = DRY_RUN["volumes"] if options.dry_run else None
    first = join_processes(device) == 0
    store = options.store
    if store is None:
        paths = find_cases(options.data, options.exclude, at_most)
        on_disk = [first and not fits_in_memory(paths, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))]
        if distributed.is_initialized():
            distributed.broadcast_object_list(on_disk, device=device)
        if on_disk[0]:
            store = options.out / "store"
            if first:
                size = decoded_bytes(paths) / 1e9
                print(f"{size:.1f} GB decoded are too much for memory: stored in {store}; --store names another folder")
    return volumes_of(options.data, options.exclude, at_most, store, builds=first)


def _run(options: argparse.Namespace, config: TrainingConfig, volumes: Sequence[Volume], device: torch.device) -> Run:
    steps = None if options.minutes else options.steps or _steps(config, volumes)
    return Run(
        out=options.out,
        device=device,
        steps=DRY_RUN["steps"] if options.dry_run else steps,
        minutes=None if options.dry_run else options.minutes,
        seed=options.seed,
        mixed_precision=not options.no_mixed_precision and half_precision_pays(device),
        compile=options.compile,
        checkpoint_activations=options.checkpoint_activations,
        workers=options.workers,
        checkpoint_every=options.checkpoint_every,
        pieces=options.pieces,
        elapsed=process_age(),
    )


def _report(options: argparse.Namespace, config: TrainingConfig, outcome: Outcome) -> None:
    print(f"{options.out / 'weights.pt'}: {outcome.step} steps; curves in {options.out / 'curves.png'}")
    if options.dry_run and outcome.signal is None:
        print("the dry run is through: all parts work here; its weights are of no use, so train into another folder")
    if outcome.signal is not None:
        print(f"stopped at step {outcome.step}; the same command resumes")
    elif options.nninteractive:
        from inference.nninteractive import export

        export(options.out / "nninteractive", config.model, outcome.weights.state_dict())


def _weights(path: Path | None) -> tuple[dict[str, Tensor] | None, NetworkConfig | None]:
    if path is None:
        return None, None
    network, model = load_model(path)
    return network.state_dict(), model.network


def _config(options: argparse.Namespace, network: NetworkConfig | None) -> TrainingConfig:
    """Returns the configuration with what the options change; weights to begin with bring their network."""
    config = CONFIGS[options.config]
    if options.learning_rate:
        rates = {"learning_rate": options.learning_rate}
        if config.final_learning_rate == config.learning_rate:  # A constant one stays constant.
            rates["final_learning_rate"] = options.learning_rate
        config = replace(config, **rates)
    if options.final_learning_rate:
        config = replace(config, final_learning_rate=options.final_learning_rate)
    batch = {"batch": options.batch or config.batch, "finer_batch": options.finer_batch or config.finer_batch}
    if options.dry_run:  # With weights to begin with, the network is not small, and a click is a forward.
        finer_look = min(config.sampling.finer_look, DRY_FINER_LOOK)
        few = replace(config.sampling, clicks=(0.5, 0.5), finer_look=finer_look)
        config = replace(config, batch=1, finer_batch=1, accumulate=1, sampling=few)
    else:
        config = replace(config, **batch)
    network = network or (DRY_NETWORK if options.dry_run else config.model.network)
    # Three voxels in the lowest stage: with two, oneDNN's bfloat16 gradients are not always finite.
    edge = options.patch or (3 * network.stride if options.dry_run else None)
    if edge is not None and (edge < 2 * network.stride or edge % network.stride):
        raise ValueError(f"--patch {edge}: expected a multiple of {network.stride}, at least {2 * network.stride}")
    patch = config.model.patch if edge is None else (edge, edge, edge)
    return replace(config, model=replace(config.model, network=network, patch=patch))


def _steps(config: TrainingConfig, volumes: Sequence[Volume]) -> int:
    return config.steps(len(volumes), int(os.environ.get("WORLD_SIZE", 1)))


if __name__ == "__main__":
    sys.exit(main())
