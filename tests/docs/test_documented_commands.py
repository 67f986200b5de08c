"""The commands of the README, the tutorial and the page on the paper are run, in the order in which they stand there.

Every code block is run unless :data:`NOT_RUN` says why it is not, so a new block is run too, or it must be listed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from inference.checkpoint import read
from tests.stand_in import write_stand_in

ROOT = Path(__file__).resolve().parents[2]
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
PAPER = ROOT / "docs" / "how-to" / "reproduce-the-paper.md"

NOT_RUN = {
    (README, "make demo"): "makes an environment from the network; the tutorial's first block runs the same demo",
    (README, "make build"): "needs Docker; tests/image builds and runs the image",
    (TUTORIAL, "2. sh predict.sh: the box alone"): "what a command prints",
    (PAPER, "make build WEIGHTS="): "needs Docker; tests/image/test_build.py runs it",
}
"""Blocks that are not run, by page and by what their first line begins with, and why."""

INSTEAD = {
    "make demo": "python -m evaluation.demo --out demo",  # Without an environment from the network.
    ". .venv/bin/activate": "",  # The environment is the one that runs the tests.
    " --minutes 60": " --steps 1 --batch 1 --finer-batch 1 --workers 0",
    " --config paper": " --config paper --patch 16 --steps 1 --batch 1 --workers 0",
}
"""What is run instead of what is written."""

SHAPE = (24, 96, 96)
ORIGIN, SPACING = (-60.0, -40.0, -110.0), (1.2, 1.2, 3.0)
"""Of the image, x, y, z in mm: the README's boxes, in voxels and in millimetres, lie inside of it."""


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str

    @property
    def commands(self) -> str:
        """What is run of it, a script for bash."""
        if self.language == "python":
            return f"python - <<'END'\n{self.text}END\n"
        text = self.text
        for written, run in INSTEAD.items():
            text = text.replace(written, run)
        return text

    @property
    def is_listed(self) -> bool:
        return any(page == self.page and self.text.startswith(start) for page, start in NOT_RUN)


def blocks(page: Path) -> list[Block]:
    """A page's code blocks, in their order."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, *found) for found in re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def files_named(commands: str) -> list[str]:
    """What commands are told to write."""
    return re.findall(r"(?:-o|--preview) (\S+)", commands)


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a block as a reader would, in a folder that has the repository's rooms."""
    programs = folder / "programs"
    if not programs.exists():
        programs.mkdir()
        (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (programs / "python").chmod(0o755)
        (programs / "segfm3d").write_text('#!/bin/sh\nexec python -m segfm3d "$@"\n')
        (programs / "segfm3d").chmod(0o755)
        for name in ("inference", "evaluation", "conversion", "training", "segfm3d.py", "weights", "predict.sh"):
            (folder / name).symlink_to(ROOT / name)
    settings = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "SEGFM3D_SECONDS_PER_CLASS": "3600"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEGFM3D_", "PYTHON"))}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.commands],
        cwd=folder,
        env=kept | settings,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def run_page(page: Path, folder: Path) -> str:
    """Runs a page's blocks, each of which must end with 0 and write what it names; returns all that they print."""
    printed = []
    for block in blocks(page):
        if block.is_listed:
            continue
        done = run(block, folder)
        assert done.returncode == 0, f"{block.commands}\n{done.stdout}\n{done.stderr}"
        assert [name for name in files_named(block.commands) if not (folder / name).is_file()] == [], block.commands
        printed.append(done.stdout)
    return "\n".join(printed)


def test_what_is_listed_stands_on_the_pages() -> None:
    found = {key for key in NOT_RUN if any(block.text.startswith(key[1]) for block in blocks(key[0]))}
    assert found == set(NOT_RUN)
    text = "".join(block.text for page in (README, TUTORIAL, PAPER) for block in blocks(page))
    assert [written for written in INSTEAD if written not in text] == []


@pytest.mark.parametrize("page", [README, TUTORIAL, PAPER], ids=lambda page: page.name)
def test_blocks_are_commands(page: Path) -> None:
    for block in blocks(page):
        if not block.is_listed:
            checked = subprocess.run(["bash", "-n", "-c", block.commands], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr
            words = {line.split()[0] for line in block.commands.splitlines() if line.strip()}
            assert block.language == "python" or words <= {"python", "segfm3d"}, f"run or list:\n{block.text}"


@pytest.mark.slow
def test_the_readme(tmp_path: Path) -> None:
    _write_readme_files(tmp_path)
    printed = run_page(README, tmp_path)
    assert "mine, with boxes" in printed and "segfm3d, with boxes" in printed
    clicked = nibabel.load(tmp_path / "better.nii.gz").dataobj[44, 58, 15]  # --click bg:15,58,44
    assert clicked == 0
    assert (tmp_path / "runs" / "evaluation" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    printed = run_page(TUTORIAL, tmp_path)
    said = {"2. sh predict.sh: the box alone", "3. sh predict.sh: the box and one click", "ellipsoid, with boxes"}
    assert [line for line in said if line not in printed] == []
    # The page says that the click lies where the first mask is wrong, and that the second is better.
    first, second, truth = (
        np.asarray(nibabel.load(tmp_path / name).dataobj).T > 0
        for name in ("mask.nii.gz", "better.nii.gz", "brain.nii.gz")
    )
    clicks = re.findall(r"--click bg:(\d+),(\d+),(\d+)", TUTORIAL.read_text(encoding="utf-8"))
    assert len(clicks) == 1
    place = tuple(map(int, clicks[0]))
    assert first[place] and not truth[place] and not second[place]
    assert _dice(second, truth) > _dice(first, truth)


@pytest.mark.slow
def test_the_page_on_the_paper(tmp_path: Path) -> None:
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    _write_papers_files(tmp_path)
    printed = run_page(PAPER, tmp_path)
    assert all(found in printed for found in ("start, with boxes", "trained, with boxes", "trained, without boxes"))
    page = (tmp_path / "runs" / "tables" / "report.html").read_text(encoding="utf-8")
    assert "the paper" in page and "trained" in page
    # What make build would be given.
    assert read(tmp_path / "runs" / "paper" / "weights.pt")[0].patch == (16, 16, 16)
    assert read(tmp_path / "runs" / "paper" / "nninteractive")[0].patch == (16, 16, 16)


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def _write_readme_files(folder: Path) -> None:
    """What the README's commands name: an ellipsoid as ``scan.nii.gz`` and as a DICOM series, truth and cases."""
    z, y, x = np.ogrid[tuple(map(slice, SHAPE))]
    inside = ((z - 15) / 5) ** 2 + ((y - 45) / 14) ** 2 + ((x - 60) / 19) ** 2 < 1
    random = np.random.default_rng(0)
    values = np.where(inside, 120, -80) + random.normal(0, 20, SHAPE)
    image = sitk.GetImageFromArray(values.astype(np.int16))
    truth = sitk.GetImageFromArray(inside.astype(np.uint8))
    for item in (image, truth):
        item.SetOrigin(ORIGIN)
        item.SetSpacing(SPACING)
    sitk.WriteImage(image, str(folder / "scan.nii.gz"))
    sitk.WriteImage(truth, str(folder / "truth.nii.gz"))
    _write_series(folder / "dicom_folder", image)
    made = "segfm3d case make scan.nii.gz --mask truth.nii.gz --modality CT -o case.npz\n"
    done = run(Block(README, "", made), folder)
    assert done.returncode == 0, done.stderr
    (folder / "DATA").mkdir()
    for number in range(2):
        shutil.copy(folder / "case.npz", folder / "DATA" / f"CT_made_{number}.npz")


def _write_papers_files(folder: Path) -> None:
    """Stand-ins for what the page on the paper says to get: weights in nnInteractive's layout, and made cases."""
    write_stand_in(folder / "nnInteractive_v1.0")
    _write_readme_files(folder)
    (folder / "DATA").rename(folder / "3D_train_npz_random_10percent_16G")
    for name in ("3D_val_npz", "3D_val_gt"):
        (folder / name).mkdir()
    with np.load(folder / "case.npz", allow_pickle=True) as made:
        case = dict(made)
    truth = case.pop("gts")
    for name, left_out in {"CT_with_box.npz": (), "MR_without.npz": ("boxes",)}.items():
        np.savez(folder / "3D_val_npz" / name, **{key: case[key] for key in case if key not in left_out})
        np.savez(folder / "3D_val_gt" / name, gts=truth)


def _write_series(folder: Path, image: sitk.Image) -> None:
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    common = {"0008|0060": "CT", "0020|000d": "1.2.3.4", "0020|000e": "1.2.3.4.5", "0020|0052": "1.2.3.4.6"}
    for index in range(image.GetDepth()):
        plane = image[:, :, index]
        position = "\\".join(str(value) for value in image.TransformIndexToPhysicalPoint((0, 0, index)))
        tags = {"0020|0032": position, "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(index + 1)}
        tags |= {"0008|0018": f"1.2.3.4.5.{index + 1}"}
        for key, value in (common | tags).items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{index:03}.dcm"))
        writer.Execute(plane)
