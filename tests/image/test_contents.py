"""What the image holds and says of itself."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.image

ROOT = Path(__file__).parents[2]

UNWANTED = {
    "compilers": "( -name cc -o -name gcc* -o -name g++* -o -name clang* -o -name nvcc -o -name ptxas -o -name protoc )"
    " -path */bin/*",
    "linkers": "( -name ld -o -name ld.bfd -o -name ld.gold -o -name lld ) -path */bin/*",
    "headers": "-type f ( -name *.h -o -name *.hpp -o -name *.cuh )",
    "static archives": "-type f -name *.a",
    "test suites": "-type d ( -name tests -o -name test )",
    "installers": "( -name pip -o -name pip3* -o -name ensurepip -o -name pip.conf )",
    "kernel compilers": "-type d -name triton -path */site-packages/triton",
    "start hooks": "-type f -name *.pth -path */site-packages/*",
}

DESCRIBE_TORCH = """
import torch
print(torch.version.cuda, torch.__version__, torch._C._cuda_getArchFlags())
"""

IMPORT_EVERYTHING = """
import importlib, pkgutil, inference
for module in pkgutil.iter_modules(inference.__path__, "inference."):
    importlib.import_module(module.name)
    print(module.name)
"""


@pytest.fixture(scope="module")
def configuration(image: str) -> dict[str, Any]:
    line = ["docker", "image", "inspect", f"{image}:latest"]
    return json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)[0]


def search(inside: Callable[..., str], criteria: str) -> list[str]:
    """Return what `find` finds in the whole image."""
    return inside("find", "/", "-xdev", *criteria.split()).splitlines()


@pytest.mark.parametrize("kind", UNWANTED)
def test_holds_no_dead_weight(inside: Callable[..., str], kind: str) -> None:
    assert search(inside, UNWANTED[kind]) == []


def test_the_search_for_dead_weight_can_find_something(inside: Callable[..., str]) -> None:
    assert search(inside, "-type f -name predict.sh -path */workspace/*") == ["/workspace/predict.sh"]


def test_every_module_imports_offline(inside: Callable[..., str]) -> None:
    imported = set(inside("python3", "-c", IMPORT_EVERYTHING).split())
    assert {f"inference.{path.stem}" for path in (ROOT / "inference").glob("[!_]*.py")} <= imported


def test_torch_fits_the_evaluation_server(inside: Callable[..., str]) -> None:
    cuda, version, *architectures = inside("python3", "-c", DESCRIBE_TORCH).split()
    assert cuda.startswith("12.")
    assert not version.startswith("2.9.")
    assert "sm_75" in architectures


def test_holds_this_working_tree(inside: Callable[..., str], labels: dict[str, str]) -> None:
    """The rest of these tests say nothing about a stale image. Other weights are those that its label names."""
    paths = [ROOT / "predict.sh", ROOT / "weights" / "default.pt", *(ROOT / "inference").rglob("*.py")]
    expected = {f"./{path.relative_to(ROOT)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    expected["./weights/default.pt"] = labels.get("segfm3d.weights.sha256", expected["./weights/default.pt"])
    sums = inside("find", ".", "-type", "f", "!", "-name", "*.pyc", "-exec", "sha256sum", "{}", "+")
    held = {path: digest for digest, path in (line.split() for line in sums.splitlines())}
    assert held.keys() - expected.keys() <= {"./LICENSE", "./sbom.cdx.json", "./weights/README.md"}
    assert {path: held.get(path) for path in expected} == expected, "the image is stale: make build"


def test_workspace_is_readable_by_anyone(inside: Callable[..., str]) -> None:
    assert inside("find", "/workspace", "!", "-perm", "-o=r") == ""
    assert inside("find", "/workspace", "-type", "d", "!", "-perm", "-o=x") == ""


def test_the_evaluators_command_runs_as_given(configuration: dict[str, Any]) -> None:
    assert not configuration["Config"].get("Entrypoint")
    assert configuration["Config"]["WorkingDir"] == "/workspace"


def test_is_one_layer(configuration: dict[str, Any]) -> None:
    assert len(configuration["RootFS"]["Layers"]) == 1


def test_labels(labels: dict[str, str]) -> None:
    prefix = "org.opencontainers.image."
    assert labels[prefix + "title"] == "SEGFM3D"
    assert f'version = "{labels[prefix + "version"]}"' in (ROOT / "pyproject.toml").read_text().splitlines()
    licence = labels.get("segfm3d.weights.licence", "CC-BY-NC-SA-4.0")
    assert labels[prefix + "licenses"].removeprefix("Apache-2.0 AND ").strip("()") == licence


def test_other_weights_are_named_in_labels_and_card(inside: Callable[..., str], labels: dict[str, str]) -> None:
    said = {name.removeprefix("segfm3d.weights."): value for name, value in labels.items() if ".weights." in name}
    card = inside("cat", "weights/README.md")
    if not said:
        assert card == (ROOT / "weights" / "README.md").read_text()
        return
    assert said.keys() == {"source", "source.sha256", "licence", "check", "sha256"}
    assert all(said[name] in card for name in ("source", "source.sha256", "licence", "check"))


def test_says_nothing_of_where_it_was_built(image: str, configuration: dict[str, Any]) -> None:
    line = ["docker", "history", "--no-trunc", "--format", "{{json .}}", f"{image}:latest"]
    history = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    told = history + json.dumps(configuration)
    for trace in ("://", "PIP_", "_proxy", "_PROXY"):
        assert trace not in told
