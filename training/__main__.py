"""``python -m training``: trains weights for the submission image."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from inference import checkpoint
from training.config import CONFIGS
from training.dataset import load_volumes
from training.loop import train


def main(arguments: list[str] | None = None) -> int:
    """Trains weights on a folder of labelled cases (imgs, gts, spacing)."""
    parser = argparse.ArgumentParser(prog="python -m training", description=main.__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="default", help="what to train (default: default)")
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log; resumed if it has any")
    parser.add_argument("--steps", type=int, help="steps of the optimizer (default: the configuration's)")
    parser.add_argument("--patch", type=int, help="edge of the patch in voxels (default: the configuration's)")
    parser.add_argument("--init", type=Path, help="weights to begin with: our file or an nnInteractive folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-mixed-precision", action="store_true", help="compute in float32 throughout")
    parser.add_argument("--checkpoint-every", type=float, default=120, metavar="SECONDS")
    options = parser.parse_args(arguments)
    config = CONFIGS[options.config]
    if options.steps is not None:
        config = replace(config, steps=options.steps)
    if options.patch is not None:
        config = replace(config, model=replace(config.model, patch=(options.patch,) * 3))
    try:
        initial = checkpoint.load(options.init)[0].state_dict() if options.init else None
        volumes = load_volumes(options.data)
    except (OSError, checkpoint.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    train(
        config,
        volumes,
        options.out,
        initial=initial,
        seed=options.seed,
        device=torch.device(options.device),
        mixed_precision=not options.no_mixed_precision,
        checkpoint_every=options.checkpoint_every,
    )
    print(f"{options.out / 'weights.pt'}: done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
