"""Any case file is segmented, or refused in one line; ``python -m tests.robustness.campaigns.cases`` tries far more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from inference.geometry import Voxel
from tests.robustness.generated import REAL, Generated, Runs, cases, image_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("generated"))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(generated=cases())
def test_any_case(runs: Runs, generated: Generated) -> None:
    runs.check(generated)


@pytest.mark.parametrize("fill", ["whole range", "not finite", "tiny", "one voxel"])
@pytest.mark.parametrize("dtype", REAL)
def test_any_image(runs: Runs, dtype: str, fill: str) -> None:
    runs.check(Generated({"imgs": image_of((3, 9, 7), np.dtype(dtype), fill, 0)}, usable=True, objects=1))


@pytest.mark.parametrize("shape", [(300, 1, 1), (1, 300, 1), (1, 1, 300), (1, 300, 300), (300, 300, 1)], ids=str)
def test_any_proportions(runs: Runs, shape: Voxel) -> None:
    clicks = np.array([{"fg": [[0, 0, 0], [n - 1 for n in shape]], "bg": []}])
    runs.check(Generated({"imgs": np.ones(shape, np.uint8), "clicks": clicks}, usable=True, objects=1))
