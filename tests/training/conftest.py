"""Small labelled volumes on disk, and a configuration that trains in seconds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.checkpoint import ModelConfig
from inference.network import NetworkConfig
from inference.prompts import PAPER_STYLE
from training import loop
from training.config import DEFAULT, TrainingConfig
from training.dataset import Volume, load_volumes
from training.loop import Run

DATA = Path(os.environ.get("SEGFM3D_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def config() -> TrainingConfig:
    model = ModelConfig(NetworkConfig((8, 16), (1, 1)), (16, 16, 16), PAPER_STYLE, isotropic_zoom=False, finer=2)
    # Clicks are made one after the other, a forward each: two show what five do.
    sampling = replace(DEFAULT.sampling, clicks=(0.4, 0.3, 0.3), modalities=(("CT", 1.0), ("MR", 1.0)))
    return replace(DEFAULT, model=model, sampling=sampling, batch=2, accumulate=1, warmup=2)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three volumes of noise with bright balls in them."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name, shape in (("CT_a_b_1", (20, 24, 28)), ("MR_a_b_1", (9, 40, 30)), ("MR_c_d_2", (24, 24, 24))):
        image = random.integers(0, 100, shape)
        truth = np.zeros(shape, np.uint8)
        grid = np.indices(shape)
        for label, share in ((1, 0.3), (2, 0.7)):
            centre = np.array([n * share for n in shape]).reshape(3, 1, 1, 1)
            truth[np.square(grid - centre).sum(axis=0) <= 16] = label
        image[truth > 0] += 100
        np.savez_compressed(folder / f"{name}.npz", imgs=image.astype(np.uint8), gts=truth, spacing=np.ones(3))
    return folder


@pytest.fixture(scope="session")
def volumes(folder: Path) -> list[Volume]:
    return load_volumes(folder)


@pytest.fixture(autouse=True)
def no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's picture takes longer than its steps here; tests that look at it ask for the fixture ``curves``."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr(loop, "draw_curves", lambda log, picture: None)


@pytest.fixture
def curves() -> None:
    """Runs draw their curves."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", torch.device("cpu"), steps=4, mixed_precision=False, workers=0)


@pytest.fixture(scope="session")
def real_volume() -> Path:
    path = DATA / "train" / "CT_ibsi_sts_CT_STS_001_CT.npz"
    if not path.exists():
        pytest.skip("the shared data set is not here")
    return path
