"""The image under the restrictions that a careful operator sets, and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.image.evaluator import Evaluator, LabelledCase, read_segmentation

pytestmark = pytest.mark.image

INSTALLED = """
import importlib.metadata, json
print(json.dumps(sorted({d.metadata["Name"].lower().replace("_", "-") + " " + d.version
                         for d in importlib.metadata.distributions()})))
"""


@pytest.fixture
def case(evaluator: Evaluator, two_balls: LabelledCase) -> LabelledCase:
    """A case that lies in the inputs, box alone."""
    keys = {"imgs": two_balls.image, "spacing": two_balls.spacing, "boxes": two_balls.boxes}
    np.savez_compressed(evaluator.inputs / two_balls.name, **keys)
    return two_balls


def check_output(
    evaluator: Evaluator, case: LabelledCase, process: subprocess.CompletedProcess[str], trained: bool
) -> None:
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stderr == ""
    labels = read_segmentation(evaluator.outputs / case.name)
    assert labels.shape == case.image.shape
    assert labels.any() or not trained
    assert [path.name for path in evaluator.outputs.iterdir()] == [case.name]


@pytest.mark.parametrize(
    "restrictions",
    [
        ["--cap-drop ALL"],
        ["--cap-drop ALL", "--security-opt no-new-privileges", "--read-only", "--user 1000:1000"],
        ["--read-only", "--user 1000", "--pids-limit 64"],
        ["--user 12345:54321", "--env HOME=/nowhere"],
    ],
    ids=" ".join,
)
def test_runs_under_restrictions(
    evaluator: Evaluator, case: LabelledCase, restrictions: list[str], trained: bool
) -> None:
    check_output(evaluator, case, evaluator.run(*restrictions), trained)


def test_the_network_answers_where_time_allows(evaluator: Evaluator, case: LabelledCase, trained: bool) -> None:
    """No fallback in its place, and no smaller patch, whatever the weights are."""
    process = evaluator.run("--env SEGFM3D_SECONDS_PER_CLASS=36000")
    check_output(evaluator, case, process, trained)
    assert len(process.stdout.splitlines()) == 2, process.stdout


def test_runs_as_a_cluster_runs_it(evaluator: Evaluator, case: LabelledCase, trained: bool, tmp_path: Path) -> None:
    """As Apptainer does: the user's own id, home mounted, root read-only, called from elsewhere than its folder.

    A package in that home that has the name of one of the image's must not be taken for it.
    """
    package = tmp_path / "home" / ".local" / "lib" / "python3.13" / "site-packages" / "numpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the numpy of the user')\n")
    home = [f"--volume {tmp_path / 'home'}:/home/someone:ro", "--env HOME=/home/someone", "--workdir /home/someone"]
    cluster = ["--read-only", "--cap-drop ALL", "--user 1234:1234", *home]
    check_output(evaluator, case, evaluator.run(*cluster, script="/workspace/predict.sh"), trained)
    trapped = evaluator.run(*cluster, "--env PYTHONNOUSERSITE=", script="/workspace/predict.sh")
    assert "the numpy of the user" in trapped.stderr, "the package is no trap, and the run above shows nothing"


def test_an_input_that_may_not_be_read_is_one_line(evaluator: Evaluator, case: LabelledCase) -> None:
    secret = evaluator.inputs / "0_secret.npz"
    secret.write_bytes((evaluator.inputs / case.name).read_bytes())
    secret.chmod(0)
    process = evaluator.run("--cap-drop ALL")
    assert process.returncode == 1
    assert "Permission denied" in process.stderr.splitlines()[0]
    assert len(process.stderr.splitlines()) == 2
    assert [path.name for path in evaluator.outputs.iterdir()] == [case.name]


def test_outputs_that_cannot_be_written_are_one_line_a_case(evaluator: Evaluator, case: LabelledCase) -> None:
    evaluator.outputs.chmod(0o555)
    process = evaluator.run("--user 1000")
    assert process.returncode == 1
    assert "cannot be written" in process.stderr
    assert "Traceback" not in process.stderr
    assert list(evaluator.outputs.iterdir()) == []


@pytest.fixture
def full_disk(image: str) -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    """A function that runs a shell command in a container where ``/workspace/outputs`` is a disk of 16 kB."""

    def run(command: str, *options: str) -> subprocess.CompletedProcess[str]:
        disk = ["--mount", "type=tmpfs,destination=/workspace/outputs,tmpfs-size=16384"]
        line = ["docker", "run", "--rm", "--network", "none", *disk, *options, f"{image}:latest", "/bin/bash", "-c"]
        return subprocess.run([*line, command], capture_output=True, text=True, check=False)

    yield run


def test_a_full_disk_keeps_the_older_output(
    evaluator: Evaluator, case: LabelledCase, full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    fill = f"echo older > outputs/{case.name}; head -c 100000 /dev/zero > outputs/filler 2>/dev/null;"
    look = f"cat outputs/{case.name}; ls -A outputs"
    process = full_disk(f"{fill} sh predict.sh > /dev/null; {look}", "-v", f"{evaluator.inputs}:/workspace/inputs:ro")
    assert process.stdout.splitlines() == ["older", "filler", case.name]
    assert "No space left on device" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_run_leaves_nothing_outside_its_outputs(evaluator: Evaluator, case: LabelledCase, image: str) -> None:
    name = f"{image}-test-changes"
    folders = [f"-v={folder}:/workspace/{folder.name}" for folder in (evaluator.inputs, evaluator.outputs)]
    line = ["docker", "run", "--name", name, "--network", "none", *folders, f"{image}:latest"]
    try:
        subprocess.run(line, check=True, capture_output=True)
        changes = subprocess.run(["docker", "diff", name], check=True, capture_output=True, text=True)
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)
    assert changes.stdout == ""
    assert [path.name for path in evaluator.outputs.iterdir()] == [case.name]


def test_the_bill_of_materials_lists_what_is_installed(inside: Callable[..., str]) -> None:
    bill = json.loads(inside("cat", "/workspace/sbom.cdx.json"))
    listed = sorted(f"{component['name'].lower()} {component['version']}" for component in bill["components"])
    assert json.loads(inside("python3", "-c", INSTALLED)) == listed


def test_sigterm_ends_the_container_with_what_is_there(evaluator: Evaluator, case: LabelledCase, image: str) -> None:
    """As `docker stop` does: the first process of a container gets the signal, and has a handler for it."""
    for index in range(200):
        (evaluator.inputs / f"{index:03}.npz").write_bytes((evaluator.inputs / case.name).read_bytes())
    name = f"{image}-test-stop"
    folders = " ".join(f"-v {folder}:/workspace/{folder.name}" for folder in (evaluator.inputs, evaluator.outputs))
    line = f'docker run --name {name} --network none {folders} {image}:latest /bin/bash -c "sh predict.sh"'
    process = subprocess.Popen(line, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed = [process.stdout.readline()]
        while "object(s)" not in printed[-1]:
            printed.append(process.stdout.readline())
            assert printed[-1], "it ended before its first case was done"
        subprocess.run(["docker", "stop", "--time", "60", name], check=True, capture_output=True)
        _, err = process.communicate()
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)
    assert process.returncode == 143
    assert "told to stop; " in err
    written = list(evaluator.outputs.iterdir())
    assert 1 <= len(written) < 201
    assert all(path.suffix == ".npz" for path in written)
    assert all(read_segmentation(Path(path)).shape == case.image.shape for path in written)
