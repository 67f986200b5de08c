"""Runs killed at random moments; ``python -m tests.robustness.campaigns.kills`` kills far more."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.robustness.process import ROOT


def test_a_killed_run_leaves_older_or_whole_outputs() -> None:
    line = [sys.executable, "-m", "tests.robustness.campaigns.kills", "--kills", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "none partial, none gone" in run.stdout
