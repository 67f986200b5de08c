"""Checks before a run: what is missing is named with what to do, and the exit code says whether a run would fail."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inference.checkpoint import save
from inference.network import ResidualEncoderUNet
from training import doctor
from training.config import TrainingConfig
from training.dataset import load_volumes


@pytest.fixture
def weights(config: TrainingConfig, tmp_path: Path) -> Path:
    save(tmp_path / "weights.pt", config.model, ResidualEncoderUNet(config.model.network).state_dict())
    return tmp_path / "weights.pt"


def test_every_check_is_a_line_and_only_failures_count(capsys):
    def broken() -> str:
        print("what the checked code says")
        raise RuntimeError("out of\nmemory")

    def raising(error: Exception):
        def check() -> str:
            raise error

        return check

    checks = [
        ("good", lambda: "fine"),
        ("costly", raising(doctor.Note("slow; take less"))),
        ("bad", raising(doctor.Failure("no such thing; install it"))),
        ("worse", broken),
        ("last", lambda: "made all the same"),
    ]
    assert doctor.examine(iter(checks)) == ["bad", "worse"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "good"],
        ["note", "costly"],
        ["FAIL", "bad"],
        ["FAIL", "worse"],
        ["ok", "last"],
    ]
    assert lines[3].endswith("RuntimeError: out of memory")


def test_a_machine_where_training_runs(weights: Path, capsys):
    assert doctor.main(["--device", "cpu", "--weights", str(weights)]) == 0
    said = capsys.readouterr().out
    assert "FAIL" not in said and said.endswith("training would run here\n")
    assert "joined, went on to step 2" in said


def test_what_is_missing_is_named(weights: Path, tmp_path: Path, capsys):
    arguments = ["--device", "cpu", "--weights", str(weights), "--data", str(tmp_path / "none")]
    assert doctor.main(arguments) == 1
    said = capsys.readouterr().out
    assert "none: no *.npz in it; unpack the data there" in said
    assert "check(s) failed: data," in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there():
    with pytest.raises(doctor.Failure, match="cuda: no such device; torch is built"):
        doctor.device_found(torch.device("cuda"))


def test_a_package_that_the_trainer_wants(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "training.pieces", None)
    with pytest.raises(doctor.Failure, match=r"training\.pieces.*install it"):
        doctor.imports()


def test_masks_that_disagree_are_a_failure():
    mask = np.zeros((4, 4, 4), bool)
    mask[:2] = True
    assert doctor.compared([mask, mask], mask) == "Dice 1.000 with the truth, 1.0000 with the CPU's mask, in float32"
    with pytest.raises(doctor.Failure, match=r"0\.0000 with the CPU's mask.*expected 0.98"):
        doctor.compared([mask, ~mask], mask)


def test_a_device_that_turned_to_the_cpu_is_a_failure(folder: Path, weights: Path, monkeypatch):
    from inference import segmenter

    monkeypatch.setattr(segmenter, "load_segmenter", lambda path, device, load=segmenter.load_segmenter: load(path))
    with pytest.raises(doctor.Failure, match="failed on meta"):
        doctor.agreement(folder, weights, torch.device("meta"))


def test_synthetic_cases_have_an_object_larger_than_the_patch(tmp_path: Path):
    volumes = load_volumes(doctor.write_synthetic(tmp_path / "data", count=3))
    assert [volume.modality for volume in volumes] == ["CT", "CT", "MR"]
    for volume in volumes:
        assert max(b - a for a, b in zip(volume.objects[1].lower, volume.objects[1].upper)) >= 48


@pytest.mark.parametrize(("free", "workers"), [(2**26, 0), (2**30, 4)])
def test_little_shared_memory_means_few_workers(free: int, workers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(doctor.Note, match=f"--workers {workers}:"):
        doctor.shared_memory()
