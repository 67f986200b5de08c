"""Fixtures for tests of inference."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.inference.factories import write_weights

# How long an example takes says nothing about it on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

VAL = Path(__file__).parents[2].parent / "shared" / "data" / "val"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of a tiny network."""
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(scope="session")
def real_cases() -> list[Path]:
    """Real labelled cases with boxes, smallest file first."""
    paths = sorted(VAL.glob("*.npz"), key=lambda path: path.stat().st_size)
    if not paths:
        pytest.skip("no real cases in ../shared/data/val")
    return paths
