"""Labelled volumes: what is read, and what is named, skipped and counted."""

from pathlib import Path

import numpy as np
import pytest

from inference.case import Box, CaseError
from training.dataset import load_volume, load_volumes


def test_objects_and_their_extents(folder: Path):
    volume = load_volume(folder / "MR_c_d_2.npz")
    with np.load(folder / "MR_c_d_2.npz") as arrays:
        where = np.argwhere(arrays["gts"] == 2)
    assert volume.objects[2] == Box(tuple(where.min(axis=0)), tuple(where.max(axis=0)))
    assert (volume.modality, volume.source) == ("MR", "MR_c_d")


def test_a_broken_file_is_named_skipped_and_counted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (folder / "CT_a_b_1.npz").read_bytes()
    (tmp_path / "CT_truncated.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "MR_without_gts.npz", imgs=np.ones((4, 4, 4), np.uint8))
    np.savez(tmp_path / "MR_other_shape.npz", imgs=np.ones((4, 4, 4), np.uint8), gts=np.ones((4, 4, 5), np.uint8))
    np.savez(tmp_path / "MR_empty.npz", imgs=np.ones((4, 4, 4), np.uint8), gts=np.zeros((4, 4, 4), np.uint8))
    assert len(load_volumes(tmp_path)) == 3
    printed = capsys.readouterr()
    for name in ("CT_truncated", "MR_without_gts", "MR_other_shape", "MR_empty"):
        assert sum(name in line for line in printed.err.splitlines()) == 1
    assert "4 broken files skipped" in printed.out


def test_a_folder_without_a_usable_case_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no usable case"):
        load_volumes(tmp_path)


def test_labels_must_be_integers(tmp_path: Path):
    np.savez(tmp_path / "a.npz", imgs=np.ones((4, 4, 4)), gts=np.ones((4, 4, 4)))
    with pytest.raises(CaseError, match="expected one shape, integer labels"):
        load_volume(tmp_path / "a.npz")
