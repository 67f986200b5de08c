"""What holds for all tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before torch is imported, and for the processes that tests start: what is computed here is too small to gain from more
# threads, and the tests themselves run side by side.

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums depend on the number of threads, so it is the same whatever the machine and the order of the tests."""
    torch.set_num_threads(1)
