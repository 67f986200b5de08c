"""What the benchmarks measure as a run without its forward does run, and leaves out the forward alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.process import REPOSITORY, WITHOUT_FORWARD, run
from benchmarks.volumes import ellipsoids
from inference.geometry import Box, label_extents
from tests.inference.factories import read_output, volume, write_case, write_weights

SHAPE = (12, 16, 20)
BOX = Box((3, 4, 5), (9, 10, 12))


def test_the_answer_is_the_box_whatever_the_weights(tmp_path: Path) -> None:
    inputs, outputs = tmp_path / "inputs", tmp_path / "outputs"
    inputs.mkdir()
    write_case(inputs / "a.npz", volume(SHAPE), [BOX])
    weights = write_weights(tmp_path / "weights.pt")
    command = ["sh", REPOSITORY / "predict.sh", "--inputs", inputs, "--outputs", outputs, "--weights", weights]
    # On a busy machine the default limit would leave only the fallback.
    cost = run([*command, "--seconds-per-class", "1e6"], variables={"PYTHON": sys.executable, **WITHOUT_FORWARD})
    expected = np.zeros(SHAPE, np.uint8)
    expected[BOX.slices] = 1
    np.testing.assert_array_equal(read_output(outputs / "a.npz"), expected)
    assert cost.peak > 2**24, "bytes, and not the kernel's kilobytes"


def test_every_ellipsoid_is_in_the_volume() -> None:
    assert list(label_extents(ellipsoids((40, 60, 60), 5))) == [1, 2, 3, 4, 5]
