"""A run's state in pieces: written while it trains, joined, verified, gone on from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference.model import load_model
from training import pieces
from training.config import TrainingConfig
from training.dataset import Volume
from training.log import read_log
from training.loop import Run, begin, train

MEGABYTES = 0.05


@pytest.fixture
def written(volumes: list[Volume], config: TrainingConfig, run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "pieces"
    train(config, volumes, replace(run, pieces=folder, piece_megabytes=MEGABYTES))
    return folder


def test_joined_pieces_are_the_run_in_half_precision(written: Path, run: Run, tmp_path: Path, config: TrainingConfig):
    (step,) = written.iterdir()
    files = sorted(path.name for path in step.iterdir())
    assert step.name == "step-00000004"
    assert files[:2] == ["SHA256SUMS", "log.csv"] and len(files) > 4
    assert all(path.stat().st_size <= MEGABYTES * 1e6 for path in step.glob("state.*"))
    joined = tmp_path / "joined"
    assert pieces.join(written, joined) == 4
    before = torch.load(run.out / "last.pt", weights_only=True)
    after = torch.load(joined / "last.pt", weights_only=True)
    assert before.keys() == after.keys()
    for name, tensor in before["network"].items():
        assert after["network"][name].dtype == torch.float32
        torch.testing.assert_close(after["network"][name], tensor, rtol=1e-3, atol=1e-6)
    for old, new in zip(before["optimizers"], after["optimizers"], strict=True):
        assert old["param_groups"] == new["param_groups"]
        for key, values in old["state"].items():
            for name, value in values.items():
                torch.testing.assert_close(new["state"][key][name], value, rtol=1e-2, atol=1e-30)
    assert load_model(joined / "weights.pt")[1] == config.model
    assert read_log(joined / "log.csv") == read_log(run.out / "log.csv")


def test_a_run_goes_on_from_joined_pieces(
    written: Path, volumes: list[Volume], config: TrainingConfig, run: Run, tmp_path: Path
):
    pieces.join(written, tmp_path / "joined")
    assert train(config, volumes, replace(run, out=tmp_path / "joined", steps=6)).step == 6
    assert [row["step"] for row in read_log(tmp_path / "joined" / "log.csv")] == [1, 2, 3, 4, 5, 6]


def test_the_newer_pieces_replace_the_older(written: Path, volumes: list[Volume], config: TrainingConfig, run: Run):
    train(config, volumes, replace(run, steps=5, pieces=written, piece_megabytes=MEGABYTES))
    assert [path.name for path in written.iterdir()] == ["step-00000005"]


def test_a_process_killed_while_it_writes_leaves_the_older_pieces(
    written: Path, config: TrainingConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    state = replace(begin(config, run, None), step=9)
    monkeypatch.setattr(pieces, "_sha256", killed)
    with pytest.raises(KeyboardInterrupt):
        pieces.write(state, config.model, run.out / "log.csv", written, MEGABYTES)
    monkeypatch.undo()
    assert [path.name for path in written.iterdir()] == ["step-00000004"]
    assert pieces.join(written, tmp_path / "joined") == 4


@pytest.mark.parametrize("damage", ["a byte", "a missing piece", "no checksums"])
def test_damage_is_named_and_nothing_is_written(
    written: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture
):
    (step,) = written.iterdir()
    piece = step / "state.01"
    if damage == "a byte":
        content = bytearray(piece.read_bytes())
        content[len(content) // 2] ^= 1
        piece.write_bytes(content)
        expected = f"error: {piece}: its checksum is not that of SHA256SUMS; copy it again\n"
    elif damage == "a missing piece":
        piece.unlink()
        expected = f"error: {piece}: it is missing; copy it again\n"
    else:
        (step / "SHA256SUMS").unlink()
        expected = f"error: {step}: no SHA256SUMS in it; expected a folder that --pieces wrote\n"
    assert pieces.main([str(written), "--out", str(tmp_path / "joined")]) == 2
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "joined").exists()


def test_the_older_pieces_are_taken_where_the_newer_are_damaged(
    written: Path,
    volumes: list[Volume],
    config: TrainingConfig,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    newer = tmp_path / "newer"
    train(config, volumes, replace(run, steps=5, pieces=newer, piece_megabytes=MEGABYTES))
    (newer / "step-00000005").rename(written / "step-00000005")
    (written / "step-00000005" / "state.00").unlink()
    assert pieces.main([str(written), "--out", str(tmp_path / "joined")]) == 0
    captured = capsys.readouterr()
    assert "state.00: it is missing" in captured.err and "an older one is taken" in captured.err
    assert "step 4" in captured.out


def test_pieces_of_nothing_are_refused(config: TrainingConfig, run: Run, tmp_path: Path):
    with pytest.raises(ValueError, match="more than 0"):
        pieces.write(begin(config, run, None), config.model, tmp_path / "log.csv", tmp_path, 0)
