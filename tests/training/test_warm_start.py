"""From an nnInteractive folder, through a step of the paper's configuration, back to one, with the real packages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference.checkpoint import ModelConfig
from inference.model import load_model
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.nninteractive import export
from inference.prompts import NNINTERACTIVE_STYLE
from training.__main__ import main
from training.config import PAPER
from training.dataset import Volume
from training.loop import Run, train


def load_in_their_package(folder: Path) -> torch.nn.Module:
    session = pytest.importorskip("nnInteractive.inference.inference_session", reason="nninteractive is not installed")
    made = session.nnInteractiveInferenceSession(device=torch.device("cpu"), use_torch_compile=False, verbose=False)
    made.initialize_from_trained_model_folder(str(folder))
    return made.network


def their_folder(folder: Path, network: NetworkConfig) -> Path:
    """A folder of random weights whose state dict comes from the package that nnInteractive is built on."""
    unet = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet", reason="dynamic-network-architectures is not installed"
    )
    stages = len(network.features)
    theirs = unet.ResidualEncoderUNet(
        8, stages, network.features, torch.nn.Conv3d, 3, [1] + [2] * (stages - 1), network.blocks, 2,
        [1] * (stages - 1), conv_bias=True, norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    config = ModelConfig(network, (192, 192, 192), NNINTERACTIVE_STYLE)
    export(folder, config, ResidualEncoderUNet(network).state_dict())
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=True)
    assert content["network_weights"].keys() == theirs.state_dict().keys()
    torch.save(content | {"network_weights": theirs.state_dict()}, path)
    return folder


def warm_start(tmp_path: Path, volumes: list[Volume], network: NetworkConfig, patch: int) -> None:
    source = their_folder(tmp_path / "published", network)
    loaded, model = load_model(source)
    config = replace(PAPER, model=replace(model, patch=(patch,) * 3), batch=1, accumulate=2)
    run = Run(tmp_path / "run", torch.device("cpu"), steps=1, mixed_precision=False, workers=0)
    trained = train(config, volumes, run, loaded.state_dict()).weights
    changed = [
        name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, loaded.state_dict()[name])
    ]
    assert len(changed) > len(loaded.state_dict()) / 2
    export(tmp_path / "back", config.model, trained.state_dict())
    theirs = load_in_their_package(tmp_path / "back").eval()
    x = torch.randn(1, 8, *config.model.patch, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), trained.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_small_folder_is_loaded_trained_and_written_back(tmp_path: Path, volumes: list[Volume]):
    warm_start(tmp_path, volumes, NetworkConfig((16, 32), (1, 2)), patch=16)


@pytest.mark.slow
def test_the_full_network_is_loaded_trained_and_written_back(tmp_path: Path, volumes: list[Volume]):
    warm_start(tmp_path, volumes, PAPER.model.network, patch=64)


def test_the_command_writes_a_folder_back(tmp_path: Path, folder: Path):
    source = their_folder(tmp_path / "published", NetworkConfig((8, 16), (1, 1)))
    arguments = ["--config", "paper", "--init", str(source), "--data", str(folder), "--out", str(tmp_path / "out")]
    assert (
        main([*arguments, "--patch", "8", "--steps", "1", "--workers", "0", "--device", "cpu", "--nninteractive"]) == 0
    )
    written = json.loads((tmp_path / "out" / "nninteractive" / "plans.json").read_text())
    assert written["configurations"]
    load_in_their_package(tmp_path / "out" / "nninteractive")
