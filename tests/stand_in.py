"""``python -m tests.stand_in FOLDER [--full]``: a folder in nnInteractive v1.0's layout, with random weights.

The network is that of the package which nnInteractive takes it from, so that the checkpoint has its names and aliases.
It stands in for the published folder where that cannot be had. ``--full`` is the published network: 102 M parameters,
956 keys for 264 tensors, patches of 192³; without it a network of the same kind that a test can afford.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.peer import peer_network
from inference.geometry import Voxel
from inference.network import FULL, NetworkConfig
from tests.inference.factories import randomized
from tests.inference.test_nninteractive import write_folder

SMALL = NetworkConfig(features=(8, 12, 16), blocks=(1, 2, 3))


def write_stand_in(folder: Path, network: NetworkConfig = SMALL, patch: Voxel = (16, 16, 16)) -> Path:
    """Writes ``plans.json``, ``dataset.json`` and ``fold_0/checkpoint_final.pth``; returns the folder.

    Raises:
        ImportError: dynamic-network-architectures is not installed.
        FileExistsError: the folder is there already.
    """
    return write_folder(folder, randomized(peer_network(network)).state_dict(), network, patch)


def main(arguments: list[str] | None = None) -> int:
    """Writes a folder in nnInteractive's layout with random weights."""
    parser = argparse.ArgumentParser(prog="python -m tests.stand_in", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--full", action="store_true", help="the published network's size (400 MB)")
    options = parser.parse_args(arguments)
    write_stand_in(options.folder, *((FULL, (192, 192, 192)) if options.full else ()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
