"""nnInteractive's folders: read, converted, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.peer import peer_network
from conversion.weights import main as weights_command
from inference.checkpoint import CheckpointError, ModelConfig
from inference.model import load_model
from inference.network import FULL, NetworkConfig
from inference.nninteractive import ARCHITECTURE
from inference.prompts import NNINTERACTIVE_STYLE
from tests.inference.factories import Reduced, randomized

SMALL = NetworkConfig((8, 12, 16), (1, 2, 3))


def refusal(path: Path) -> str:
    """The message with which weights are refused: one line that names them."""
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


def peer(config: NetworkConfig) -> nn.Module:
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    return randomized(peer_network(config))


def plans(config: NetworkConfig, patch: tuple[int, int, int]) -> dict[str, Any]:
    """``plans.json`` with the keys of a published one; the configuration that is used inherits from another."""
    stages = len(config.features)
    arguments = {
        "n_stages": stages,
        "features_per_stage": list(config.features),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_blocks_per_stage": list(config.blocks),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": ARCHITECTURE,
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    base = {"patch_size": [32, 32, 32], "batch_size": 2, "spacing": [1.0, 1.0, 1.0], "architecture": architecture}
    used = {"inherits_from": "3d_fullres", "batch_size": 24, "patch_size": list(patch)}
    return {"dataset_name": "Dataset001_Test", "configurations": {"3d_fullres": base, "3d_fullres_bs24": used}}


def beside_the_weights() -> dict[str, Any]:
    """What nnU-Net's trainer saves with the weights, the numbers of its log being numpy's."""
    return {
        "grad_scaler_state": {"scale": 65536.0, "_growth_tracker": 2},
        "logging": {
            "mean_fg_dice": [np.float64(0.5)],
            "dice_per_class_or_region": [[np.float32(0.5), np.float64(0.4)]],
            "train_losses": [np.float32(-0.25)],
            "lrs": [0.01],
            "epoch_end_timestamps": [1.7e9],
        },
        "_best_ema": np.float64(0.625),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres_bs24", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnInteractiveTrainer_stub",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def write_folder(
    folder: Path,
    state: dict[str, Tensor],
    config: NetworkConfig = SMALL,
    patch: tuple[int, int, int] = (16, 16, 16),
    fold: str = "fold_0",
) -> Path:
    (folder / fold).mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans(config, patch)))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "image"}, "labels": {"background": 0}}))
    torch.save({"network_weights": state} | beside_the_weights(), folder / fold / "checkpoint_final.pth")
    return folder


def change_plans(folder: Path, **arguments: Any) -> None:
    content = json.loads((folder / "plans.json").read_text())
    content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= arguments
    (folder / "plans.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return peer(SMALL)


class TestPublishedFolder:
    @pytest.mark.parametrize("fold", ["fold_0", "fold_all"])
    @torch.inference_mode()
    def test_it_gives_the_same_logits(self, tmp_path: Path, network: nn.Module, fold: str) -> None:
        folder = write_folder(tmp_path / "model", network.state_dict(), patch=(24, 16, 8), fold=fold)
        ours, model = load_model(folder)
        assert model == ModelConfig(SMALL, (24, 16, 8), NNINTERACTIVE_STYLE)
        x = torch.randn(1, 8, 24, 16, 8, generator=torch.Generator().manual_seed(1))
        theirs = network(x)
        assert float((ours(x) - theirs).abs().max() / theirs.abs().max()) < 1e-4

    def test_our_weights_go_back_into_the_peer(self, tmp_path: Path, network: nn.Module) -> None:
        state = network.state_dict()
        ours, _ = load_model(write_folder(tmp_path / "model", state))
        assert len(ours.state_dict()) < len(state)
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, state[name])

    def test_a_compiled_networks_prefix_is_dropped(self, tmp_path: Path, network: nn.Module) -> None:
        state = {f"_orig_mod.{name}": tensor for name, tensor in network.state_dict().items()}
        ours, _ = load_model(write_folder(tmp_path / "model", state))
        assert torch.equal(ours.encoder.stem.convs[0].conv.weight, network.encoder.stem.convs[0].conv.weight)

    @pytest.mark.parametrize(
        "alias",
        [
            "decoder.encoder.stages.1.blocks.0.conv1.conv.weight",
            "encoder.stages.1.blocks.0.conv1.all_modules.0.weight",
            "decoder.encoder.stages.1.blocks.0.conv1.all_modules.1.bias",
            "decoder.stages.0.convs.0.all_modules.0.bias",
        ],
    )
    def test_an_alias_that_disagrees_is_refused(self, tmp_path: Path, network: nn.Module, alias: str) -> None:
        state = network.state_dict()
        assert alias in state
        state[alias] = state[alias].clone()
        state[alias].view(-1)[0] += 1
        folder = write_folder(tmp_path / "model", state)
        with pytest.raises(CheckpointError, match=f"{alias} and .* differ"):
            load_model(folder)

    def test_an_alias_of_nothing_is_refused(self, tmp_path: Path, network: nn.Module) -> None:
        state = network.state_dict()
        del state["encoder.stem.convs.0.conv.weight"]
        with pytest.raises(CheckpointError, match=r"repeats encoder\.stem\.convs\.0\.conv\.weight, which is missing"):
            load_model(write_folder(tmp_path / "model", state))

    def test_a_tensor_of_another_network_is_refused(self, tmp_path: Path, network: nn.Module) -> None:
        state = network.state_dict() | {"encoder.stages.9.weight": torch.zeros(1)}
        with pytest.raises(CheckpointError, match="1 unexpected"):
            load_model(write_folder(tmp_path / "model", state))

    def test_a_malicious_checkpoint_is_not_run(self, tmp_path: Path, network: nn.Module) -> None:
        folder, marker = write_folder(tmp_path / "model", network.state_dict()), tmp_path / "it ran"
        content = {"network_weights": network.state_dict(), "bomb": Reduced(os.system, (f"touch '{marker}'",))}
        torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
        assert "it asks for posix.system" in refusal(folder)
        assert not marker.exists()

    def test_it_converts_to_our_format(
        self, tmp_path: Path, network: nn.Module, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_folder(tmp_path / "model", network.state_dict())
        assert weights_command(["convert", str(folder), str(tmp_path / "out.pt")]) == 0
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert f"{parameters:,} parameters" in capsys.readouterr().out
        converted, model = load_model(tmp_path / "out.pt")
        original, expected = load_model(folder)
        assert model == expected
        assert all(torch.equal(tensor, converted.state_dict()[name]) for name, tensor in original.state_dict().items())

    def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert weights_command(["convert", str(tmp_path / "nothing"), str(tmp_path / "out.pt")]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
    def test_a_missing_file_is_named(self, tmp_path: Path, network: nn.Module, name: str) -> None:
        folder = write_folder(tmp_path / "model", network.state_dict())
        (folder / name).unlink()
        assert name in refusal(folder)

    def test_broken_json_is_named(self, tmp_path: Path, network: nn.Module) -> None:
        folder = write_folder(tmp_path / "model", network.state_dict())
        (folder / "plans.json").write_text("{")
        assert "plans.json: not readable as JSON" in refusal(folder)

    @pytest.mark.parametrize(
        "arguments",
        [{"kernel_sizes": [[1, 3, 3]] * 3}, {"strides": [[1, 1, 1]] * 3}, {"conv_bias": False}, {"n_stages": None}],
        ids=str,
    )
    def test_another_architecture_is_refused(self, tmp_path: Path, network: nn.Module, arguments: dict) -> None:
        folder = write_folder(tmp_path / "model", network.state_dict())
        change_plans(folder, **arguments)
        said = refusal(folder)
        assert "plans.json does not describe a known architecture" in said and "Error(" not in said

    def test_configurations_that_inherit_in_a_circle_are_refused(self, tmp_path: Path, network: nn.Module) -> None:
        folder = write_folder(tmp_path / "model", network.state_dict())
        content = json.loads((folder / "plans.json").read_text())
        content["configurations"]["3d_fullres"]["inherits_from"] = "3d_fullres_bs24"
        (folder / "plans.json").write_text(json.dumps(content))
        assert "plans.json" in refusal(folder)

    @pytest.mark.slow
    def test_the_full_configuration_holds_956_keys_for_264_tensors(self, tmp_path: Path) -> None:
        state = peer(FULL).state_dict()
        assert len(state) == 956
        ours, model = load_model(write_folder(tmp_path / "model", state, FULL, (192, 192, 192)))
        assert model == ModelConfig(FULL, (192, 192, 192), NNINTERACTIVE_STYLE)
        kept = ours.state_dict()
        assert len(kept) == 264
        assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items())
