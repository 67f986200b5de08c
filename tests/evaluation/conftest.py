"""Fixtures of the evaluation's tests."""

from pathlib import Path

import pytest
from blocks import write_case


@pytest.fixture
def case_path(tmp_path: Path) -> Path:
    return write_case(tmp_path / "CT_blocks.npz")
