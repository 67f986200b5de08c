"""The page of the benchmarks has each of them, with its command."""

import re
from pathlib import Path

from benchmarks.__main__ import commands

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "benchmarks.md"


def test_every_benchmark_has_a_row() -> None:
    listed = re.findall(r"^\| `python -m (benchmarks\.\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(commands().keys() - set(listed)) == []
    assert len(listed) == len(set(listed))
