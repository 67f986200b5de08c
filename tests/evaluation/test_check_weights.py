"""Weights are checked before an image is built with them: what is wrong is one line, and nothing is written then."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import check_weights
from evaluation.check_weights import STAND_IN, Checked, licence_of, main, neighbourhood, sha256_of, stage, tensor_file
from inference import checkpoint
from inference.case import read_case
from inference.geometry import Box
from inference.model import read_weights
from inference.network import ResidualEncoderUNet
from inference.npz import read_array
from inference.options import DEFAULT_WEIGHTS
from tests.inference.factories import TINY, Reduced, randomized, write_case, write_weights
from tests.inference.test_nninteractive import change_plans
from tests.stand_in import write_stand_in

BOX = Box((1, 1, 1), (14, 22, 22))


@pytest.fixture(autouse=True)
def small_case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the head MRI, which takes seconds: a bright block that fills its box."""
    if request.node.get_closest_marker("slow"):
        return
    truth = np.zeros((16, 24, 24), np.uint8)
    truth[BOX.slices] = 1
    path = write_case(tmp_path / "small.npz", 200 * truth, [BOX], gts=truth)
    monkeypatch.setattr(check_weights, "real_case", lambda: (read_case(path), read_array(path, "gts")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    return write_stand_in(tmp_path / "nnInteractive_v1.0")


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return tmp_path / "staged"


def biased(path: Path, value: float) -> Path:
    """Weights of which every voxel's log-odds are about ``value``."""
    state = randomized(ResidualEncoderUNet(TINY.network)).state_dict()
    last = max(name for name in state if "seg_layers" in name and name.endswith("weight"))
    state[last].zero_()
    state[last.replace("weight", "bias")].copy_(torch.tensor([0.0, value]))
    checkpoint.save(path, TINY, state)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """The one line that says why."""
    assert main([str(argument) for argument in arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_folder_is_staged_as_one_file_of_ours(folder: Path, staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--stage", str(staged), "--licence", "CC-BY-NC-SA-4.0", "--stand-in"]) == 0
    source = sha256_of(folder / "fold_0" / "checkpoint_final.pth")
    assert source in capsys.readouterr().out
    assert sorted(path.name for path in staged.iterdir()) == ["README.md", "default.pt", "labels.txt"]
    (config, state), (expected, tensors) = read_weights(staged / "default.pt"), read_weights(folder)
    assert config == expected
    assert state.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in state.items())
    assert (staged / "labels.txt").read_text().splitlines() == [
        "--label=org.opencontainers.image.licenses=Apache-2.0 AND CC-BY-NC-SA-4.0",
        "--label=segfm3d.weights.source=nnInteractive_v1.0",
        f"--label=segfm3d.weights.source.sha256={source}",
        "--label=segfm3d.weights.licence=CC-BY-NC-SA-4.0",
        f"--label=segfm3d.weights.check={STAND_IN}",
        f"--label=segfm3d.weights.sha256={sha256_of(staged / 'default.pt')}",
    ]
    card = (staged / "README.md").read_text()
    assert all(words in card for words in ("nnInteractive_v1.0", "CC-BY-NC-SA-4.0", source, "not the weights that"))


def test_a_file_of_ours_is_staged_as_it_is(tmp_path: Path, staged: Path) -> None:
    weights = biased(tmp_path / "mine.pt", 3.0)
    assert main([str(weights), "--stage", str(staged), "--licence", "MIT OR LicenseRef-mine"]) == 0
    assert (staged / "default.pt").read_bytes() == weights.read_bytes()
    labels = (staged / "labels.txt").read_text()
    assert "licenses=Apache-2.0 AND (MIT OR LicenseRef-mine)\n" in labels
    assert "segfm3d.weights.check=DSC " in labels


def test_the_embedded_weights_bring_their_licence_and_their_card(staged: Path) -> None:
    licence = licence_of(DEFAULT_WEIGHTS, None)
    assert licence == "CC-BY-NC-SA-4.0"
    stage(DEFAULT_WEIGHTS, Checked("default.pt", sha256_of(DEFAULT_WEIGHTS), 1, TINY, "nothing"), licence, staged)
    assert (staged / "README.md").read_bytes() == DEFAULT_WEIGHTS.with_name("README.md").read_bytes()
    assert (staged / "default.pt").read_bytes() == DEFAULT_WEIGHTS.read_bytes()


@pytest.mark.parametrize("licence", ["", "CC BY-NC-SA 4.0", "CC-BY-4.0; rm", "MIT AND"])
def test_a_licence_must_be_named(
    tmp_path: Path, staged: Path, licence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_weights(tmp_path / "mine.pt")
    line = refused(capsys, weights, "--stage", staged, "--licence", licence, code=2)
    assert "CC-BY-NC-SA-4.0" in line
    assert not staged.exists()


def test_a_check_alone_needs_no_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(biased(tmp_path / "mine.pt", 3.0))]) == 0
    assert "DSC " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_a_missing_file_is_named(folder: Path, staged: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / name).unlink()
    assert name in refused(capsys, folder, "--stage", staged, "--licence", "MIT")
    assert not staged.exists()


def test_nothing_at_all_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(capsys, tmp_path / "nothing.pt")
    assert "no such file" in refused(capsys, tmp_path / "nothing.pt", "--stage", tmp_path / "s", "--licence", "MIT")
    refused(capsys, tmp_path / "nothing.pt", "--stage", tmp_path / "s", code=2)


def test_another_architecture_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_plans(folder, kernel_sizes=[[1, 3, 3]] * 3)
    assert "does not describe a known architecture" in refused(capsys, folder)


def test_a_truncated_checkpoint_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tensor_file(folder)
    path.write_bytes(path.read_bytes()[:-100])
    assert "may be truncated" in refused(capsys, folder)


def test_a_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "it ran"
    torch.save({"network_weights": {}, "bomb": Reduced(os.system, (f"touch '{marker}'",))}, tensor_file(folder))
    assert "refused (it asks for posix.system)" in refused(capsys, folder)
    assert not marker.exists()


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds NaN or infinity" in refused(capsys, biased(tmp_path / "mine.pt", float("nan")))


def test_a_network_that_overflows_is_refused_even_as_a_stand_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = randomized(ResidualEncoderUNet(TINY.network)).state_dict()
    last = max(name for name in state if "seg_layers" in name and name.endswith("weight"))
    state[last][1].fill_(3e38)
    checkpoint.save(tmp_path / "mine.pt", TINY, state)
    line = refused(capsys, tmp_path / "mine.pt", "--stand-in")
    assert "does not answer on small.npz" in line and "not finite" in line


@pytest.mark.parametrize("value", [-3.0, 3.0], ids=["nothing", "everything"])
def test_the_mask_is_judged_unless_the_weights_stand_in(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = biased(tmp_path / "mine.pt", value)
    small = Box((7, 10, 10), (8, 12, 12))
    path = write_case(tmp_path / "one.npz", np.full((16, 24, 24), 9, np.uint8), [small], gts=np.ones((16, 24, 24)))
    monkeypatch.setattr(check_weights, "real_case", lambda: (read_case(path), read_array(path, "gts")))
    line = refused(capsys, weights)
    assert ("an empty mask" if value < 0 else "lies far from the brain's box") in line
    assert "--stand-in" in line
    assert main([str(weights), "--stand-in"]) == 0


def test_the_neighbourhood_of_a_box_has_the_papers_margin() -> None:
    assert neighbourhood(Box((0, 12, 30), (5, 23, 41)), (60, 60, 40)) == Box((0, 10, 28), (6, 25, 39))


@pytest.mark.slow
def test_the_embedded_weights_find_the_brain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DEFAULT_WEIGHTS)]) == 0
    printed = capsys.readouterr().out
    dsc = float(printed.partition("DSC ")[2].split()[0])
    assert dsc > 0.9, printed
