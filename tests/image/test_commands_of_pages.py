"""The pages' commands that need the image, run with it, in their order: tests/docs/pages.py lists them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.page_files import a_case_and_its_result, cases_to_evaluate
from tests.docs.pages import EVALUATE, IMAGE, SUBMIT, blocks, prepare, run, smaller, why_not

pytestmark = [pytest.mark.image, pytest.mark.slow]


@pytest.fixture
def team(image: str) -> Iterator[None]:
    """The image under the pages' name for it, unless somebody has one of that name; its tag is removed again."""
    name = "team:latest"
    if subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0:
        pytest.skip(f"an image {name} is there already")
    subprocess.run(["docker", "tag", f"{image}:latest", name], check=True)
    yield
    subprocess.run(["docker", "rmi", name], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("page", "write_files"),
    [(EVALUATE, cases_to_evaluate), (SUBMIT, a_case_and_its_result)],
    ids=["evaluate", "submit"],
)
def test_the_commands_with_the_image(
    page: Path, write_files: Callable[[Path], None], image: str, team: None, tmp_path: Path
) -> None:
    if image != "segfm3d":
        pytest.skip(f"the pages are about segfm3d, not {image}")
    prepare(tmp_path)
    write_files(tmp_path)
    shutil.rmtree(tmp_path / "outputs")
    (tmp_path / "outputs").mkdir(mode=0o777)
    lines = [smaller(page, line) for block in blocks(page) for line in block.lines if why_not(block, line) == IMAGE]
    assert lines
    for line in lines:
        done = run(line if shutil.which("nvidia-smi") else line.replace('--gpus "device=0" ', ""), tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs" / "evaluation" / "image" / "metrics.csv").is_file()
    if page == SUBMIT:
        assert (tmp_path / "outputs" / "CT_case.npz").is_file()
