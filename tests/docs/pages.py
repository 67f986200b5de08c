"""The commands of README.md, docs/, CONTRIBUTING.md and the model card: what is run of them, and how.

Blocks without a language, and those of ``sh``, ``bash`` and ``python``, are commands; those of ``text`` are not. Every
command is run, in its place, unless :data:`NOT_RUN` says why it is not, so a new one is run too, or it must be listed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.rehearsal.__main__ import SMALL

ROOT = Path(__file__).resolve().parents[2]
README, CONTRIBUTING, CARD = ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights" / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, *DOCS, CONTRIBUTING, CARD]

HOW_TO, REFERENCE = ROOT / "docs" / "how-to", ROOT / "docs" / "reference"
TUTORIAL = ROOT / "docs" / "tutorial.md"
EXPERIMENTS, FORMATS, LOG = (REFERENCE / f"{name}.md" for name in ("experiments", "formats", "training-log"))
RELIABILITY = ROOT / "docs" / "explanation" / "reliability.md"
EVALUATE, NNINTERACTIVE, PAPER = (
    HOW_TO / f"{name}.md" for name in ("evaluate", "nninteractive", "reproduce-the-paper")
)
SEGMENT, SUBMIT, TRAIN, GPU, CLUSTER = (
    HOW_TO / f"{name}.md" for name in ("segment-images", "submit", "train", "train-on-a-gpu", "run-on-a-cluster")
)

IMAGE = "needs the image: tests/image/test_commands_of_pages.py runs it"
BUILD = "needs Docker: .ci/run builds the image, tests/image/test_build.py builds others, test_save.py saves"
TESTS = "runs the tests themselves"
APPTAINER = "needs Apptainer, and an archive that Docker makes"
REGISTRY = "installs from a registry, or asks one"
RECORD = "the record of half an hour on a GPU, from weights that are not kept"
SCRIPT = "needs Docker and the organizers' script, which is not ours to pass on"

NOT_RUN = {
    (README, "make build"): BUILD,
    (README, "make save"): BUILD,
    (CONTRIBUTING, "make"): "the tutorial's test runs make demo; the others run the tests themselves",
    (CARD, "python -m training"): RECORD,
    (LOG, "python -m training"): RECORD,
    (EVALUATE, "make evaluate CASES=cases IMAGE="): IMAGE,
    (EVALUATE, "segfm3d evaluate --cases cases --results RESULTS --image"): IMAGE,
    (EVALUATE, "git clone"): SCRIPT,
    (EVALUATE, "python3 -m venv"): SCRIPT,
    (EVALUATE, "mkdir teams"): SCRIPT,
    (EVALUATE, "docker tag"): SCRIPT,
    (EVALUATE, "venv/bin/python"): SCRIPT,
    (EVALUATE, "cd .."): SCRIPT,
    (EVALUATE, "python -m benchmarks.organizers_agreement"): SCRIPT,
    (EVALUATE, "python -m benchmarks.click_generation"): SCRIPT,
    (NNINTERACTIVE, "pip install"): REGISTRY,
    (NNINTERACTIVE, "nninteractive-server"): "a server, of a package that is not installed here",
    (NNINTERACTIVE, "make build WEIGHTS="): BUILD,
    (PAPER, "make build WEIGHTS="): BUILD,
    (PAPER, "make test-image"): TESTS,
    (PAPER, "make save"): BUILD,
    (CLUSTER, "gunzip"): APPTAINER,
    (CLUSTER, "apptainer"): APPTAINER,
    (SEGMENT, "segfm3d segment MR_T1_image.nii.gz"): "the image of a patient, to be got from its collection",
    (SUBMIT, "make build"): BUILD,
    (SUBMIT, "make test"): TESTS,
    (SUBMIT, "make save"): BUILD,
    (SUBMIT, "docker container run"): IMAGE,
    (SUBMIT, "make evaluate"): IMAGE,
    (SUBMIT, "python -m benchmarks.container_run"): IMAGE,
    (GPU, "timeout --foreground --preserve-status --kill-after 30 540"): "the test of Train runs the benchmark",
    (GPU, "cp $WORK/ablation"): "the same",
    (GPU, "make rehearse"): "makes an environment of 3 GB from the network, and takes ten minutes",
    (RELIABILITY, "pip"): REGISTRY,
    (RELIABILITY, "cyclonedx-py"): REGISTRY,
    (FORMATS, "segfm3d"): "forms of commands; Segment images has examples of each",
}
"""Commands that are not run here, by page and by what they begin with, and why. Their words are parsed all the same."""

SHORT = " --steps 1 --batch 1 --finer-batch 1 --workers 0"
DEVICE = "" if torch.cuda.is_available() else "--device cpu "
INSTEAD = {
    None: {
        " --minutes 60": SHORT,
        " --config paper": " --config paper --patch 16 --steps 1 --batch 1 --workers 0",
    },
    SUBMIT: {"benchmarks.container_run": "benchmarks.container_run --runs 1"},
    TRAIN: {
        " --out runs/stored": f" --out runs/stored --init weights/default.pt{SHORT}",
        "doctor --data DATA": "doctor --data DATA --weights weights/default.pt",
        "--nnodes 4 --nproc-per-node 8": "--nnodes 1 --nproc-per-node 2",
        "FIRST:29500": "localhost:0",
        "--init FOLDER": "--init weights/default.pt",
        " --only default": " --samples 1 --judging 1 --width 0.25 --only default",
    },
    GPU: {before: after.replace("--device cpu ", DEVICE) for before, after in SMALL.items()}
    | {
        "--minutes 25": "--steps 2",
        "--seconds 150": "--seconds 20",
        "/tmp/segfm3d": '"$PWD/work"',
        "43,43,43": "0.03,0.03,0.03",
    },
}
"""What is run instead of what is written, on all pages (None) and on one, to make it small."""

PROGRAMS = {
    "python": f'exec "{sys.executable}" "$@"',
    "segfm3d": 'exec python -m segfm3d "$@"',
    "torchrun": 'exec python -m torch.distributed.run "$@"',
    "segment": "exec python -c '\nimport sys, pathlib, numpy as np\n"
    'for path in pathlib.Path(sys.argv[2]).glob("*.npz"):\n    image = np.load(path, allow_pickle=True)["imgs"]\n'
    '    np.savez(pathlib.Path(sys.argv[4], path.name), segs=(image > image.mean()).astype(np.uint8))\n\' "$@"',
}
"""In ``.venv/bin`` of a page's folder; ``segment`` stands for a method of somebody else."""

LINKED = (
    *("inference", "evaluation", "conversion", "training", "benchmarks", "segfm3d.py", "predict.sh"),
    *("Makefile", "pyproject.toml", "requirements-dev.txt", "constraints.txt"),
)


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Args:
        page: where it stands.
        language: what follows the fence.
        text: its lines, without the indentation of a list.
    """

    page: Path
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its lines that are commands or parts of them; one that ends with a backslash goes on in the next."""
        lines = re.sub(r"\\\n *", "", self.text).splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]

    @property
    def run(self) -> list[str]:
        """The lines that are run."""
        if self.language == "text":
            return []
        return self.lines if self.language == "python" else [line for line in self.lines if not why_not(self, line)]

    @property
    def script(self) -> str:
        """What is run of it, for bash."""
        text = smaller(self.page, "\n".join(self.run))
        return f"python - <<'END'\n{text}\nEND\n" if self.language == "python" and text else text


def smaller(page: Path, text: str) -> str:
    """Commands of a page with what :data:`INSTEAD` puts in place of their parts."""
    for written, instead in (INSTEAD.get(page, {}) | INSTEAD[None]).items():
        text = text.replace(written, instead)
    return text


def why_not(block: Block, line: str) -> str | None:
    """Why a line of a block is not run, None if it is."""
    return next((why for (page, start), why in NOT_RUN.items() if page == block.page and line.startswith(start)), None)


def blocks(page: Path) -> list[Block]:
    """A page's code blocks, in their order."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^( *)```([^\n]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, language, textwrap.dedent(content)) for _, language, content in found]


def prepare(folder: Path) -> None:
    """Makes a folder as a reader has it after ``make demo``: the repository's rooms, and an environment."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, line in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").touch()
    (programs.parent / ".development").touch()  # Newer than the requirements, so that make has nothing to install.
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "weights").mkdir()
    (folder / "weights" / "default.pt").write_bytes((ROOT / "weights" / "default.pt").read_bytes())  # Pages replace it.


def run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as a reader would, in a folder that is prepared."""
    settings = {
        "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SEGFM3D_SECONDS_PER_CLASS": "3600",
        "OUT": str(folder / "RETURNED"),  # What the lent machine of Train on a GPU gives back.
        "SLURM_ARRAY_TASK_ID": "1",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEGFM3D_", "PYTHON", "MAKE"))}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=kept | settings | variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def run_page(page: Path, folder: Path) -> str:
    """Runs a page's blocks, each of which must end with 0 and write what it names; returns all that they print."""
    printed = []
    for block in blocks(page):
        if not block.script:
            continue
        done = run(block.script, folder)
        assert done.returncode == 0, f"{block.script}\n{done.stdout}\n{done.stderr}"
        named = re.findall(r"(?:\s-o|--preview) (\S+)", block.script)
        assert [name for name in named if not (folder / name).is_file()] == [], block.script
        printed.append(done.stdout)
    return "\n".join(printed)
