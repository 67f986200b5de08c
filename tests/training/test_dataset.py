"""Labelled volumes: what is read, and what is named, skipped and counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.case import CaseError
from inference.geometry import Box
from training.dataset import load_volume, load_volumes, merged
from training.shapes.library import load_shapes
from training.target import Target


def test_objects_and_their_extents(folder: Path):
    volume = load_volume(folder / "MR_c_d_2.npz")
    with np.load(folder / "MR_c_d_2.npz") as arrays:
        where = np.argwhere(arrays["gts"] == 2)
    assert volume.objects[2] == Box(tuple(where.min(axis=0)), tuple(where.max(axis=0)))
    assert (volume.modality, volume.source) == ("MR", "MR_c")


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
    assert printed.out.startswith("reading 7 volumes\n"), "before the first one is read"


def test_of_several_processes_the_first_alone_says_what_it_reads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "CT_a_b_1.npz").write_bytes((folder / "CT_a_b_1.npz").read_bytes())
    (tmp_path / "CT_broken.npz").write_bytes(b"no case")
    said = []
    for rank in ("0", "1"):  # As torchrun sets it.
        monkeypatch.setenv("RANK", rank)
        assert len(load_volumes(tmp_path)) == 1
        assert len(load_shapes(tmp_path)) == 1
        said.append(capsys.readouterr())
    assert said[0].out.startswith("reading 2 volumes\n") and said[0].err.count("CT_broken") == 2
    assert said[1] == ("", "")


def test_a_folder_without_a_usable_case_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no usable case"):
        load_volumes(tmp_path)


def test_labels_must_be_integers(tmp_path: Path):
    np.savez(tmp_path / "a.npz", imgs=np.ones((4, 4, 4)), gts=np.ones((4, 4, 4)))
    with pytest.raises(CaseError, match="expected one shape, integer labels"):
        load_volume(tmp_path / "a.npz")


@pytest.fixture
def row(tmp_path: Path):
    """Five cubes in a row, labelled 1 to 5."""
    labels = np.zeros((4, 4, 20), np.uint8)
    for label in range(1, 6):
        labels[1:3, 1:3, 4 * label - 3 : 4 * label - 1] = label
    np.savez(tmp_path / "MR_a_b_1.npz", imgs=labels, gts=labels)
    return load_volume(tmp_path / "MR_a_b_1.npz")


def test_merged_objects_are_an_object_and_those_nearest_to_it(row):
    seen = set()
    for seed in range(60):
        labels = merged(row, 2, np.random.default_rng(seed))
        target = Target.of(row, labels)
        where = torch.isin(row.labels, torch.tensor(labels)).nonzero()
        assert target.extent == Box(tuple(where.amin(dim=0).tolist()), tuple(where.amax(dim=0).tolist()))
        assert target.mask().sum() == len(where)
        seen.add(labels)
    assert seen == {(1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5)}


def test_a_single_object_has_nothing_to_be_merged_with(row):
    assert merged(replace(row, objects={3: row.objects[3]}), 3, np.random.default_rng(0)) == (3,)


def test_half_of_the_time_those_most_like_the_object_are_joined_first(tmp_path: Path):
    """Eight cubes in a row, bright and dark in turns: of one joined with a bright one, the nearest is two away."""
    labels = np.zeros((4, 4, 32), np.uint8)
    for label in range(1, 9):
        labels[1:3, 1:3, 4 * label - 3 : 4 * label - 1] = label
    image = np.where(labels % 2 == 1, 200, 50).astype(np.uint8)
    np.savez(tmp_path / "MR_a_b_1.npz", imgs=image, gts=labels)
    volume = load_volume(tmp_path / "MR_a_b_1.npz")
    joined = [merged(volume, 1, np.random.default_rng(seed)) for seed in range(200)]
    pairs = [labels for labels in joined if len(labels) == 2]
    assert set(pairs) == {(1, 2), (1, 3)}
    assert 0.25 < np.mean([3 in pair for pair in pairs]) < 0.75


@pytest.mark.parametrize(("largest", "dtype"), [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32)])
def test_labels_are_kept_in_the_fewest_bytes_that_hold_them(tmp_path: Path, largest: int, dtype: torch.dtype):
    labels = np.zeros((4, 4, 4), np.int32)
    labels[1:3, 1:3, 1:3], labels[3] = largest, -1
    np.savez(tmp_path / "a.npz", imgs=np.ones((4, 4, 4)), gts=labels)
    volume = load_volume(tmp_path / "a.npz")
    assert volume.labels.dtype == dtype
    assert volume.labels.unique().tolist() == [0, largest] and list(volume.objects) == [largest]
