"""What ``make demo`` says while it installs, with a stand-in for Python that installs nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
# -m venv FOLDER makes a Python there, which is this one.
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
echo "$@" >> calls.txt
"""


def test_it_installs_without_a_word_but_one_line_that_says_so(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements-dev.txt", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    line = ["make", "--no-print-directory", "demo", "PYTHON=./python"]
    first, second = (subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stdout.startswith("Installs into .venv: ") and first.stdout.count("\n") == 1
    assert first.stderr == second.stdout == second.stderr == ""
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    installs = [call for call in calls if " install " in call]
    assert len(installs) == 2 and all(" --quiet " in call for call in installs)
    assert calls[-2:] == ["-m evaluation.demo --out demo"] * 2
