"""`make save`: the archive that is submitted."""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.image

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def save(folder: Path, name: str, image: str) -> subprocess.CompletedProcess[str]:
    line = ["make", "--no-print-directory", "-f", MAKEFILE, "save", f"NAME={name}", f"IMAGE={image}"]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def small_image(engine: None) -> Iterator[str]:
    """The name of an image with nothing in it, in place of one whose compression takes minutes."""
    archive = io.BytesIO()
    tarfile.open(fileobj=archive, mode="w").close()
    name = "segfm3d-test-save"
    line = ["docker", "import", "-", f"{name}:latest"]
    subprocess.run(line, input=archive.getvalue(), check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "rmi", f"{name}:latest"], check=True, capture_output=True)


@pytest.fixture
def team(engine: None) -> Iterator[str]:
    """A team name whose tag is removed again."""
    name = "segfm3d-test-team-7"
    yield name
    subprocess.run(["docker", "rmi", f"{name}:latest"], check=False, capture_output=True)


def test_archive_holds_the_tag_that_the_evaluator_derives(tmp_path: Path, small_image: str, team: str) -> None:
    result = save(tmp_path, team, small_image)
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.iterdir()
    derived = archive.name.split(".")[0].lower().split("_")[0]
    with tarfile.open(archive, "r:gz") as layers:
        (manifest,) = json.load(layers.extractfile("manifest.json"))
    assert manifest["RepoTags"] == [f"{derived}:latest"]
    subprocess.run(["docker", "image", "inspect", f"{derived}:latest"], check=True, capture_output=True)


REFUSED = ["", "Team", "my_team", "team.v2", "-team", "team-", "a/b", "a b", "a'b", "a;b", "a:latest"]


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_a_name_that_the_evaluator_would_change(tmp_path: Path, small_image: str, name: str) -> None:
    result = save(tmp_path, name, small_image)
    assert result.returncode != 0
    assert "lower-case letters, digits and hyphens" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_image_leaves_no_archive(tmp_path: Path, team: str) -> None:
    result = save(tmp_path, team, "segfm3d-test-no-such-image")
    assert result.returncode != 0
    assert "make build" in result.stderr
    assert list(tmp_path.iterdir()) == []
