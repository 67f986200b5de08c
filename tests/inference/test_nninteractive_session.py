"""Weights in others' hands: the folder that is written is one that the nninteractive package loads and runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.peer import peer_network
from conversion.weights import main as weights_command
from inference import checkpoint
from inference.case import read_case
from inference.checkpoint import ModelConfig
from inference.model import load_model
from inference.network import FULL, NetworkConfig, ResidualEncoderUNet
from inference.nninteractive import WEIGHTS_LICENCE, export, with_aliases
from inference.nninteractive_session import capability, session_patch
from inference.prompts import (
    BOX,
    BOX_NEGATIVE,
    CLICK,
    CLICK_NEGATIVE,
    IMAGE,
    NNINTERACTIVE_STYLE,
    PAPER_STYLE,
    PREVIOUS,
    PromptStyle,
    click_ball,
)
from tests.inference.factories import TINY, randomized, write_weights

DEFAULT = Path(__file__).parents[2] / "weights" / "default.pt"
SMALL = ModelConfig(NetworkConfig((8, 12, 16), (1, 2, 3)), (16, 24, 32), PAPER_STYLE)


@pytest.fixture
def package() -> Any:
    """The inference session of the nninteractive package."""
    return pytest.importorskip(
        "nnInteractive.inference.inference_session", reason="nninteractive is not installed"
    ).nnInteractiveInferenceSession


def opened(package: Any, folder: Path) -> Any:
    session = package(device=torch.device("cpu"), torch_n_threads=1, do_autozoom=False)
    session.initialize_from_trained_model_folder(str(folder))
    return session


def exported(folder: Path, config: ModelConfig) -> ResidualEncoderUNet:
    network = randomized(ResidualEncoderUNet(config.network))
    export(folder, config, network.state_dict())
    return network


class Recorder:
    """Keeps what a network is given."""

    def __init__(self, network: nn.Module) -> None:
        self.inputs: list[torch.Tensor] = []
        network.register_forward_pre_hook(lambda _, arguments: self.inputs.append(arguments[0].float().clone()))


@pytest.mark.parametrize("network", [FULL, SMALL.network], ids=["full", "small"])
def test_every_name_of_the_published_architecture_is_there_and_no_other(network: NetworkConfig) -> None:
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    with torch.device("meta"):
        ours = ResidualEncoderUNet(network).state_dict()
        theirs = peer_network(network).state_dict()
    named = with_aliases(ours)
    assert named.keys() == theirs.keys()
    assert all(named[name].shape == tensor.shape for name, tensor in theirs.items())
    if network == FULL:
        assert (len(named), len(ours)) == (956, 264)


@pytest.mark.parametrize("style", [PAPER_STYLE, NNINTERACTIVE_STYLE], ids=["paper", "nnInteractive"])
def test_the_package_computes_what_we_compute(package: Any, style: PromptStyle, tmp_path: Path) -> None:
    config = replace(SMALL, style=style)
    network = exported(tmp_path, config)
    x = torch.randn(2, 8, *config.patch, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (opened(package, tmp_path).network.eval()(x) - network(x)).abs().max()
    assert difference < 1e-4


def test_the_package_computes_what_we_compute_with_our_weights(package: Any, tmp_path: Path) -> None:
    if not DEFAULT.is_file():
        pytest.skip("no weights/default.pt")
    arguments = ["export", str(tmp_path / "model"), "--weights", str(DEFAULT)]
    assert weights_command(arguments) == 0
    network, config = load_model(DEFAULT)
    # In the order of the package's tensors: with channels last, PyTorch's plain normalization loses two digits.
    network.to(memory_format=torch.contiguous_format)
    x = torch.randn(1, 8, *config.patch, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs, ours = opened(package, tmp_path / "model").network.eval()(x), network(x)
    assert (theirs - ours).abs().max() < 2e-6 * ours.abs().max()
    assert ours.std() > 0.1


def test_a_session_predicts_on_a_real_volume(package: Any, real_cases: list[Path], tmp_path: Path) -> None:
    """A 3D box, a point inside and a point outside, each followed by a prediction of our network.

    What the session gives the network is what it was told, in the channels that the network knows them by; what it
    writes is what our own network says of the same input.
    """
    config = replace(SMALL, network=NetworkConfig((4, 8), (1, 1)), patch=(80, 80, 80))
    network = exported(tmp_path, config)
    case = next(case for case in map(read_case, real_cases) if max(case.objects[0].box.size) <= 40)
    box = case.objects[0].box
    session = opened(package, tmp_path)
    seen = Recorder(session.network)
    session.set_image(case.image[None].astype(np.float32))
    buffer = np.zeros(case.image.shape, np.uint8)
    session.set_target_buffer(buffer)
    inside = tuple((lower + upper) // 2 for lower, upper in zip(box.lower, box.upper))
    middle = tuple(round((lower + upper + 1) / 2) for lower, upper in zip(box.lower, box.upper))
    steps = [
        (middle, lambda: session.add_bbox_interaction([[a, b + 1] for a, b in zip(box.lower, box.upper)], True)),
        (inside, lambda: session.add_point_interaction(inside, True)),
        (box.upper, lambda: session.add_point_interaction(box.upper, False)),
    ]
    channels = []
    for centre, step in steps:
        before = len(seen.inputs)
        region = [slice(*ends) for ends in step()]
        assert len(seen.inputs) == before + 1
        channels.append(seen.inputs[-1][0])
        with torch.no_grad():
            ours = network(seen.inputs[-1])[0].argmax(0).numpy()
        # A session centres its patch on the interaction and leaves out what lies outside the image.
        starts = [c - p // 2 for c, p in zip(centre, config.patch)]
        part = tuple(slice(where.start - start, where.stop - start) for where, start in zip(region, starts))
        np.testing.assert_array_equal(buffer[tuple(region)], ours[part])
        assert buffer.any()
    first, second, third = channels
    assert first[BOX].sum() == np.prod(box.size) and not first[[PREVIOUS, CLICK, CLICK_NEGATIVE]].any()
    assert second[CLICK].max() == 1 and not second[CLICK_NEGATIVE].any()
    assert third[CLICK_NEGATIVE].max() == 1 and third[CLICK].max() == 1
    assert second[PREVIOUS].sum() > 0 and set(second[PREVIOUS].unique().tolist()) <= {0.0, 1.0}
    assert first[IMAGE].std() > 0.1 and not first[6:].any()


def test_what_a_session_is_told(package: Any, tmp_path: Path) -> None:
    exported(tmp_path, SMALL)
    session = opened(package, tmp_path)
    assert session.supported_interactions == {
        "points": True,
        "bbox2d": True,
        "bbox3d": True,
        "scribble": False,
        "lasso": False,
    }
    # Counted from the previous mask on; the image comes before it.
    assert session.channel_mapping["prev_seg"] == PREVIOUS - 1
    assert session.channel_mapping["bbox3d"] == (BOX - 1, BOX_NEGATIVE - 1)
    assert session.channel_mapping["points"] == (CLICK - 1, CLICK_NEGATIVE - 1)
    assert session.num_interaction_channels == 7
    assert session.interaction_decay == 1.0
    assert session.license == WEIGHTS_LICENCE


@pytest.mark.parametrize(("style", "radius"), [(PAPER_STYLE, 6), (NNINTERACTIVE_STYLE, 4)], ids=["paper", "theirs"])
def test_a_session_draws_points_of_the_weight_that_was_trained_with(
    package: Any, style: PromptStyle, radius: int, tmp_path: Path
) -> None:
    """Its points always fall off: in place of a binary ball, it is told a larger one that adds up to as much."""
    exported(tmp_path, replace(SMALL, style=style))
    session = opened(package, tmp_path)
    assert session.point_interaction.point_radius == radius
    drawn = session.point_interaction.place_point((10, 10, 10), torch.zeros(21, 21, 21))
    assert drawn.sum() == pytest.approx(float(click_ball(style.radius, style.falloff).sum()), rel=0.15)


@pytest.mark.parametrize("falloff", [False, True])
@pytest.mark.parametrize("proportions", [False, True])
def test_what_differs_is_said(falloff: bool, proportions: bool) -> None:
    config = replace(SMALL, style=replace(PAPER_STYLE, falloff=falloff), isotropic_zoom=proportions)
    said = " ".join(capability(config)["differences"])
    assert ("binary balls" in said) is not falloff
    assert ("a zoom for each axis" in said) is not proportions


def test_a_session_has_room_for_its_margins(package: Any, tmp_path: Path) -> None:
    """It covers an object that is larger than the patch, which it cannot with patches of 48 voxels."""
    exported(tmp_path, SMALL)
    session = package(device=torch.device("cpu"), torch_n_threads=1)
    session.initialize_from_trained_model_folder(str(tmp_path))
    session.network = _Inside().eval()
    session.set_image(np.random.default_rng(0).normal(size=(1, 20, 120, 120)).astype(np.float32))
    buffer = np.zeros((20, 120, 120), np.uint8)
    session.set_target_buffer(buffer)
    session.add_bbox_interaction([[5, 15], [10, 110], [10, 110]], True)
    assert buffer[6:14, 12:108, 12:108].all()
    assert session.configuration_manager.patch_size == [80, 80, 80]


class _Inside(nn.Module):
    """Instead of a network: the object is what lies in the box, or in the previous mask."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = torch.maximum(x[:, BOX], x[:, PREVIOUS]) > 0.5
        return torch.stack((~inside, inside), dim=1).float()


@pytest.mark.parametrize(("patch", "enough"), [((192, 192, 192), True), ((96, 96, 96), True), ((48, 96, 96), False)])
def test_a_larger_patch_is_said(patch: tuple[int, int, int], enough: bool) -> None:
    config = replace(SMALL, patch=patch)
    assert ("needs a patch" not in " ".join(capability(config)["differences"])) is enough
    assert session_patch(config) == (patch if enough else (80, 96, 96))


def test_our_own_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    """What the published layout has no word for, too: style, proportions, temperature, finer look."""
    config = replace(SMALL, isotropic_zoom=False, temperature=1.5, finer=2)
    network = exported(tmp_path, config)
    back, read = load_model(tmp_path)
    assert read == config
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in back.state_dict().items())


class TestCommand:
    def test_the_licence_is_the_one_that_is_named(self, tmp_path: Path) -> None:
        weights = write_weights(tmp_path / "tiny.pt")
        arguments = ["export", str(tmp_path / "model"), "--weights", str(weights), "--licence", "CC0-1.0"]
        assert weights_command(arguments) == 0
        assert (tmp_path / "model" / "LICENSE").read_text() == "CC0-1.0\n"
        assert load_model(tmp_path / "model")[1] == TINY

    def test_no_other_model_is_overwritten(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        weights = write_weights(tmp_path / "tiny.pt")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "plans.json").write_text("{}")
        arguments = ["export", str(tmp_path / "model"), "--weights", str(weights)]
        assert weights_command(arguments) == 2
        error = capsys.readouterr().err
        assert "is not empty" in error and error.count("\n") == 1
        assert (tmp_path / "model" / "plans.json").read_text() == "{}"

    def test_no_such_weights(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["export", str(tmp_path / "model"), "--weights", str(tmp_path / "none.pt")]
        assert weights_command(arguments) == 2
        assert "no such file" in capsys.readouterr().err
        assert not (tmp_path / "model").exists()

    @pytest.mark.parametrize(
        "own",
        [
            {},
            {"patch": [16, 16, 16], "style": {"radius": 4, "shape": "cube"}, "keep_proportions": True},
            {"patch": [17, 16, 16], "style": {}, "keep_proportions": True},
        ],
    )
    def test_an_unusable_note_of_ours_is_refused(self, own: dict, tmp_path: Path) -> None:
        exported(tmp_path, SMALL)
        info = json.loads((tmp_path / "inference_info.json").read_text())
        (tmp_path / "inference_info.json").write_text(json.dumps(info | {"segfm3d": own}))
        with pytest.raises(checkpoint.CheckpointError, match="'segfm3d' is not usable"):
            load_model(tmp_path)
