"""Fixtures for tests of what goes wrong around a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.geometry import Box
from tests.inference.factories import volume, write_case, write_weights
from tests.robustness.process import Process

SHAPE = (10, 20, 24)
BOX = Box((2, 4, 5), (6, 12, 15))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of a tiny network."""
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture
def process(tmp_path: Path, weights: Path) -> Process:
    """The command, and two good cases for it, "1.npz" and "2.npz"."""
    process = Process(tmp_path / "inputs", tmp_path / "outputs", weights)
    for name in ("1", "2"):
        write_case(process.inputs / f"{name}.npz", volume(SHAPE), [BOX])
    return process


@pytest.fixture(scope="session")
def ellipsoid() -> np.ndarray:
    """What is written for the good cases where no network can be had, uint8."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    centre, radius = np.add(BOX.lower, BOX.upper) / 2, np.array(BOX.size) / 2
    return (np.square((grid - centre) / radius).sum(axis=-1) <= 1).astype(np.uint8)
