"""`make build WEIGHTS=…` up to Docker: a stand-in for the docker command writes down how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evaluation.check_weights import sha256_of
from inference import checkpoint
from inference.model import read_weights
from tests.inference.factories import write_weights
from tests.stand_in import write_stand_in

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "reproduce-the-paper.md"

DOCKER = """#!/bin/sh
case "$1" in
  build)
    shift; printf '%s\\n' "$@" > "$CALLED"
    [ ! -d build/weights ] || cp -r build/weights "$CALLED.weights" ;;
  image) [ "$2" = inspect ] && exit 1 || exit 0 ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what `make build` reads, with an environment that only points to this one."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements-dev.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("inference", "evaluation", "weights"):
        (tree / name).symlink_to(ROOT / name)
    programs = tree / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in {
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "docker-squash": "#!/bin/sh\n",
        "docker": DOCKER,
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tree / ".venv" / ".development").touch()
    return tree


def make(tree: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str] | None]:
    """Runs make; returns what it did, and the arguments of `docker build`, None if nothing was built."""
    called = tree.parent / "called"
    environment = os.environ | {"PATH": f"{tree / '.venv' / 'bin'}:{os.environ['PATH']}", "CALLED": str(called)}
    for name in ("WEIGHTS", "LICENCE", "STAND_IN", "IMAGE", "MAKEFLAGS"):
        environment.pop(name, None)
    line = ["make", "--no-print-directory", "build", "IMAGE=test", *arguments]
    done = subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    return done, called.read_text().splitlines() if called.exists() else None


def test_without_weights_the_embedded_ones_are_built(tree: Path) -> None:
    done, built = make(tree)
    assert done.returncode == 0, done.stderr
    assert built == ["--build-arg", built[1], "--tag", "test:layers", "."]
    assert built[1].startswith("VERSION=")
    assert not (tree / "build" / "weights").exists()


def test_weights_without_a_licence_build_nothing(tree: Path, tmp_path: Path) -> None:
    done, built = make(tree, f"WEIGHTS={write_weights(tmp_path / 'mine.pt')}")
    assert done.returncode != 0
    assert built is None
    assert "LICENCE=" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_weights_that_cannot_be_read_build_nothing(tree: Path, tmp_path: Path) -> None:
    whole = write_weights(tmp_path / "mine.pt")
    whole.write_bytes(whole.read_bytes()[:-100])
    done, built = make(tree, f"WEIGHTS={whole}", "LICENCE=MIT")
    assert done.returncode != 0
    assert built is None
    assert "truncated" in done.stderr.splitlines()[0]


@pytest.mark.slow
def test_a_folder_of_weights_is_built_as_a_file_of_ours(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    folder = write_stand_in(tmp_path / "their weights")
    done, built = make(tree, f"WEIGHTS={folder}", "LICENCE=CC-BY-NC-SA-4.0", "STAND_IN=1")
    assert done.returncode == 0, done.stderr
    staged = tmp_path / "called.weights"
    assert built[1].startswith("VERSION=")
    assert "WEIGHTS_FOLDER=build/weights" in built
    assert "--label=org.opencontainers.image.licenses=Apache-2.0 AND CC-BY-NC-SA-4.0" in built
    assert "--label=segfm3d.weights.source=their weights" in built
    assert f"--label=segfm3d.weights.sha256={sha256_of(staged / 'default.pt')}" in built
    assert not (tree / "build" / "weights").exists(), "400 MB are left behind"


@pytest.mark.image
@pytest.mark.slow
def test_the_page_on_the_paper_builds_and_tests(engine: None, tree: Path) -> None:
    """Its block with Docker itself: a small stand-in is built, squashed and held to its labels."""
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    build, test, save = (line for line in PAGE.read_text().splitlines() if line.startswith("make "))
    assert save == "make save NAME=team"  # tests/image/test_save.py runs it.
    (tree / ".venv" / "bin" / "docker").unlink()
    squash = f'#!/bin/sh\nexec "{Path(sys.executable).with_name("docker-squash")}" "$@"\n'
    (tree / ".venv" / "bin" / "docker-squash").write_text(squash)
    (tree / ".venv" / ".peers").touch()
    for name in ("inference", "weights"):  # Docker does not follow links.
        (tree / name).unlink()
        shutil.copytree(ROOT / name, tree / name)
    for name in ("Dockerfile", ".dockerignore", "requirements.txt", "LICENSE", "predict.sh", "sbom.cdx.json"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "tests").symlink_to(ROOT / "tests")
    (tree / "requirements-peers.txt").touch()
    os.utime(tree / "requirements-peers.txt", (0, 0))
    config, state = read_weights(write_stand_in(tree / "nnInteractive_v1.0"))
    (tree / "runs" / "paper").mkdir(parents=True)
    checkpoint.save(tree / "runs" / "paper" / "weights.pt", config, state, torch.float16)
    image = "segfm3d-test-build"
    tested = {"IMAGE": image, "STAND_IN": "1", "PYTEST_ADDOPTS": "-k 'labels or workspace or layer'"}
    try:
        for line in (build, test):
            done = subprocess.run(
                line.split(), cwd=tree, env=os.environ | tested, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert "passed" in done.stdout
    finally:
        for tag in ("latest", "layers"):
            subprocess.run(["docker", "rmi", f"{image}:{tag}"], capture_output=True, check=False)
