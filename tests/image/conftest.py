"""Fixtures for tests of the image; they skip where there is no engine, or no image yet."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.check_weights import STAND_IN
from evaluation.simulated_user import box_from_mask
from tests.image.evaluator import Evaluator, LabelledCase


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine that answers."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    answer = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """The image's name without its tag: the variable IMAGE, as for make."""
    name = os.environ.get("IMAGE", "segfm3d")
    found = subprocess.run(["docker", "image", "inspect", f"{name}:latest"], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"no image {name}:latest; make build makes it")
    return name


@pytest.fixture(scope="session")
def labels(image: str) -> dict[str, str]:
    """What the image says of itself; of its weights only if they are others than the embedded ones."""
    line = ["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", f"{image}:latest"]
    return json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="session")
def trained(labels: dict[str, str]) -> bool:
    """Whether a mask may be expected of the weights: not of a stand-in, which `make build STAND_IN=1` took unjudged."""
    return labels.get("segfm3d.weights.check") != STAND_IN


@pytest.fixture
def evaluator(image: str, tmp_path: Path) -> Evaluator:
    return Evaluator(image, tmp_path)


@pytest.fixture(scope="session")
def inside(image: str) -> Callable[..., str]:
    """A function that runs a command in a fresh container without network, and returns what it printed."""

    def run(*command: str) -> str:
        line = ["docker", "run", "--rm", "--network", "none", f"{image}:latest", *command]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    return run


@pytest.fixture(scope="session")
def two_balls() -> LabelledCase:
    """A small generated case: two bright balls in noise, with boxes."""
    shape, spacing = (20, 40, 48), np.array([2.5, 1.0, 1.0])
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    truth = np.zeros(shape, np.uint8)
    for label, centre in enumerate([(9, 14, 14), (11, 26, 34)], start=1):
        truth[np.linalg.norm((grid - centre) * spacing, axis=-1) <= 9] = label
    intensities = rng.normal(60, 15, shape) + np.array([0, 90, 130])[truth]
    boxes = np.array([box_from_mask(truth == label, rng) for label in (1, 2)], dtype=object)
    return LabelledCase("two_balls.npz", np.clip(intensities, 0, 255).astype(np.uint8), spacing, truth, boxes)
