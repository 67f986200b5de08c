"""Runs killed at random moments; ``python -m tests.robustness.campaigns.kills`` kills far more."""

from __future__ import annotations

import sys

import pytest

from tests.robustness.campaigns import kills


def test_a_killed_run_leaves_older_or_whole_outputs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kills", "--kills", "5"])
    assert kills.main() == 0
    assert "none partial, none gone" in capsys.readouterr().out
