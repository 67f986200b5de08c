"""A data set made small enough to carry."""

from pathlib import Path

import numpy as np
import pytest

from training.dataset import load_volumes
from training.pack import in_turns, main


def test_a_pack_is_a_data_set(folder: Path, tmp_path: Path):
    assert main(["--data", str(folder), "--out", str(tmp_path), "--margin", "2"]) == 0
    packed = {volume.name: volume for volume in load_volumes(tmp_path)}
    for volume in load_volumes(folder):
        small = packed[volume.name]
        assert small.objects.keys() == volume.objects.keys()
        assert small.labels.numel() < volume.labels.numel()
        for label in volume.objects:
            assert (small.labels == label).sum() == (volume.labels == label).sum()


def test_the_limit_holds_and_sources_take_turns(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert [path.stem for path in in_turns(sorted(folder.glob("*.npz")))][:2] == ["CT_a_b_1", "MR_a_b_1"]
    sizes = sorted(path.stat().st_size for path in folder.glob("*.npz"))
    limit = (sum(sizes) * 0.8) / 1e6
    assert main(["--data", str(folder), "--out", str(tmp_path), "--margin", "100", "--megabytes", str(limit)]) == 0
    written = list(tmp_path.iterdir())
    assert 0 < len(written) < 3
    assert sum(path.stat().st_size for path in written) <= limit * 1e6


def test_a_broken_file_is_left_out(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture):
    data = tmp_path / "data"
    data.mkdir()
    (data / "CT_broken.npz").write_bytes(b"no zip")
    np.savez(data / "MR_empty.npz", imgs=np.ones((4, 4, 4), np.uint8), gts=np.zeros((4, 4, 4), np.uint8))
    (data / "MR_good.npz").write_bytes((folder / "CT_a_b_1.npz").read_bytes())
    assert main(["--data", str(data), "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["MR_good.npz"]
    errors = capsys.readouterr().err
    assert "CT_broken.npz" in errors and "MR_empty.npz: gts holds no object" in errors
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
