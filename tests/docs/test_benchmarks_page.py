"""The pages have each benchmark and each campaign, with its command."""

import re
from pathlib import Path

from benchmarks.__main__ import commands

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
RELIABILITY = ROOT / "docs" / "explanation" / "reliability.md"


def test_every_benchmark_has_a_row() -> None:
    listed = re.findall(r"^\| `python -m (benchmarks\.\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(commands().keys() - set(listed)) == []
    assert len(listed) == len(set(listed))


def test_every_campaign_has_a_row() -> None:
    row = r"^\|.*`python -m tests\.robustness\.campaigns\.(\w+)"
    listed = re.findall(row, RELIABILITY.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "tests/robustness/campaigns").glob("*.py"))
