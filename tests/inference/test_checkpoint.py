"""Weights on disk: our format, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conversion.weights import main as weights_command
from inference import checkpoint
from inference.checkpoint import CheckpointError, ModelConfig
from inference.model import load_model, read_weights
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.prompts import NNINTERACTIVE_STYLE
from tests.inference.factories import TINY, Reduced, randomized, write_weights

SMALL = NetworkConfig((8, 12, 16), (1, 2, 3))


def refusal(path: Path) -> str:
    """The message with which weights are refused: one line that names them."""
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


class TestOurFormat:
    def test_it_comes_back_bit_by_bit(self, tmp_path: Path) -> None:
        model = ModelConfig(SMALL, (16, 24, 32), NNINTERACTIVE_STYLE, isotropic_zoom=False)
        state = randomized(ResidualEncoderUNet(SMALL)).state_dict()
        checkpoint.save(tmp_path / "a.pt", model, state)
        network, read = load_model(tmp_path / "a.pt")
        assert read == model
        assert network.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())

    def test_it_is_ready_for_inference(self, weights: Path) -> None:
        network, _ = load_model(weights)
        assert not network.training
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in network.parameters())

    def test_half_precision_on_disk_is_single_in_memory(self, tmp_path: Path) -> None:
        state = randomized(ResidualEncoderUNet(TINY.network)).state_dict()
        checkpoint.save(tmp_path / "half.pt", TINY, state, torch.float16)
        network, _ = load_model(tmp_path / "half.pt")
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, state[name].half().float())
        assert (tmp_path / "half.pt").stat().st_size < write_weights(tmp_path / "single.pt").stat().st_size

    def test_temperature_and_finer_look_come_back_and_files_from_before_them_have_none(self, tmp_path: Path) -> None:
        config = replace(TINY, temperature=1.75, finer=2)
        path = write_weights(tmp_path / "a.pt", config)
        assert load_model(path)[1] == config
        content = torch.load(path)
        del content["config"]["temperature"], content["config"]["finer"]
        torch.save(content, path)
        assert load_model(path)[1] == TINY

    def test_the_zoom_is_stored_under_the_name_that_files_have_had_from_the_start(self, tmp_path: Path) -> None:
        stored = torch.load(write_weights(tmp_path / "a.pt", replace(TINY, isotropic_zoom=False)))["config"]
        assert stored["keep_proportions"] is False and "isotropic_zoom" not in stored

    def test_the_command_sets_the_temperature_and_nothing_else(self, tmp_path: Path) -> None:
        state = randomized(ResidualEncoderUNet(TINY.network)).state_dict()
        source, target = tmp_path / "half.pt", tmp_path / "out.pt"
        checkpoint.save(source, TINY, state, torch.float16)
        assert weights_command(["convert", str(source), str(target), "--temperature", "2.5"]) == 0
        config, stored = read_weights(target)
        assert config == replace(TINY, temperature=2.5)
        assert all(torch.equal(tensor, state[name].half()) for name, tensor in stored.items())
        assert weights_command(["convert", str(target), str(target), "--temperature", "1"]) == 0
        assert read_weights(target)[0] == TINY

    @pytest.mark.parametrize("temperature", ["0", "-1", "inf", "nan"])
    def test_a_temperature_that_cannot_be_divided_by_is_refused(self, weights: Path, temperature: str) -> None:
        with pytest.raises(SystemExit):
            weights_command(["convert", str(weights), str(weights), "--temperature", temperature])
        with pytest.raises(ValueError, match="above 0"):
            replace(TINY, temperature=float(temperature))

    def test_an_older_file_stands_if_writing_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_weights(tmp_path / "a.pt")
        before = path.read_bytes()

        def save(_: object, unfinished: Path) -> None:
            unfinished.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="No space"):
            write_weights(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("patch", [(16, 16), (16, 16, 15), (0, 16, 16)], ids=str)
    def test_a_patch_that_the_network_cannot_halve_is_refused(self, patch: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="multiples of 2"):
            replace(TINY, patch=patch)

    def test_no_such_file(self, tmp_path: Path) -> None:
        assert "no such file" in refusal(tmp_path / "a.pt")

    @pytest.mark.parametrize("share", [0, 0.3, 0.9])
    def test_a_truncated_file(self, tmp_path: Path, weights: Path, share: float) -> None:
        content = weights.read_bytes()
        (tmp_path / "a.pt").write_bytes(content[: int(len(content) * share)])
        refusal(tmp_path / "a.pt")

    @pytest.mark.parametrize("content", [[1, 2], {"state": {}}, {"format": "another"}], ids=str)
    def test_another_format(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "a.pt")
        assert checkpoint.FORMAT in refusal(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        "change",
        [
            {"patch": [15, 16, 16]},
            {"patch": None},
            {"network": {"features": [8], "blocks": [1]}},
            {"network": None},
            {"temperature": 0},
            {"finer": 0},
            {"finer": None},
            {"style": {"radius": 4, "colour": "red"}},
        ],
        ids=str,
    )
    def test_an_unusable_configuration(self, tmp_path: Path, weights: Path, change: dict) -> None:
        content = torch.load(weights)
        content["config"] |= change
        torch.save(content, tmp_path / "a.pt")
        assert "configuration" in refusal(tmp_path / "a.pt")

    @pytest.mark.parametrize("name", ["decoder.seg_layers.0.bias", "encoder.stem.convs.0.conv.weight"])
    def test_tensors_that_do_not_fit(self, tmp_path: Path, weights: Path, name: str) -> None:
        content = torch.load(weights)
        tensor = content["state"].pop(name)
        torch.save(content, tmp_path / "missing.pt")
        assert f"1 missing, first ['{name}']" in refusal(tmp_path / "missing.pt")
        content["state"] |= {name: tensor, "one.more": tensor}
        torch.save(content, tmp_path / "more.pt")
        assert "1 unexpected, first ['one.more']" in refusal(tmp_path / "more.pt")
        content["state"].pop("one.more")
        content["state"][name] = tensor[:1]
        torch.save(content, tmp_path / "shape.pt")
        assert f"{name} is torch.float32" in refusal(tmp_path / "shape.pt")
        content["state"][name] = tensor.long()
        torch.save(content, tmp_path / "integers.pt")
        assert f"{name} is torch.int64" in refusal(tmp_path / "integers.pt")

    def test_a_malicious_pickle_is_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "it ran"
        torch.save({"format": checkpoint.FORMAT, "bomb": Reduced(os.system, (f"touch '{marker}'",))}, tmp_path / "a.pt")
        assert "it asks for posix.system" in refusal(tmp_path / "a.pt")
        assert not marker.exists()
        torch.load(tmp_path / "a.pt", weights_only=False)
        assert marker.exists(), "the bomb is a dud, and the test above shows nothing"
