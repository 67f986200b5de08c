"""predict.sh outside the image, with a stand-in for the interpreter."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL = shutil.which("dash") or "sh"


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """An interpreter that prints where it runs and how it was called, and exits with 3."""
    path = tmp_path / "interpreter with a space"
    path.write_text('#!/bin/sh\npwd -P\nprintf "%s\\n" "$@"\nexit 3\n')
    path.chmod(0o755)
    return path


def test_runs_inference_from_its_own_folder(interpreter: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [SHELL, ROOT / "predict.sh", "--inputs", "a folder"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(interpreter), "CDPATH": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.splitlines() == [str(ROOT.resolve()), "-m", "inference", "--inputs", "a folder"]
    assert result.stderr == ""
    assert result.returncode == 3


def test_finds_itself_without_a_folder_in_its_name(interpreter: Path) -> None:
    command, environment = [SHELL, "predict.sh"], {"PYTHON": str(interpreter)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == [str(ROOT.resolve()), "-m", "inference"]
