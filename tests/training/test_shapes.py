"""Procedural objects and those of the library: what each kind promises."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, label

from training.shapes import KINDS, LEAST, MOST, procedural
from training.shapes.library import from_library, load_shapes
from training.shapes.solids import scatter

EDGE = (32, 32, 32)
SEEDS = range(6)

THIN = {"tangle": 3.5, "shell": 3.0, "sheet": 3.0, "plate": 3.0}
"""The deepest voxel's distance to the border: surfaces have up to 4 voxels, tubes of a net a radius of 2 at most."""


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_an_object_that_is_not_the_patch(kind: str):
    for seed in SEEDS:
        scene = procedural(EDGE, np.random.default_rng(seed), kind)
        assert scene.truth.shape == scene.labels.shape == EDGE
        assert scene.truth.dtype == torch.bool and scene.labels.dtype == torch.uint8
        assert LEAST <= int(scene.truth.sum()) <= MOST * scene.truth.numel()
        assert bool((scene.labels[scene.truth] > 0).all()), "the object is one of the structures"


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_s_state_decides_all(kind: str):
    first, again, other = (procedural(EDGE, np.random.default_rng(seed), kind) for seed in (3, 3, 4))
    assert torch.equal(first.labels, again.labels) and torch.equal(first.truth, again.truth)
    assert not torch.equal(first.truth, other.truth)


@pytest.mark.parametrize("kind", THIN)
def test_thin_kinds_are_thin(kind: str):
    deepest = [
        distance_transform_edt(np.pad(procedural(EDGE, np.random.default_rng(seed), kind).truth.numpy(), 1)).max()
        for seed in SEEDS
    ]
    assert max(deepest) <= THIN[kind]


def test_a_tree_has_branches_of_a_voxel():
    deepest = [
        distance_transform_edt(KINDS["tree"](EDGE, np.random.default_rng(s)).truth.numpy()).max() for s in range(12)
    ]
    assert min(deepest) <= 1.5


def test_what_is_scattered_has_many_pieces():
    """Drawn are 8 at least; those that would touch others or leave the patch are left out."""
    counts = [label(scatter(EDGE, np.random.default_rng(seed)).truth.numpy())[1] for seed in range(20)]
    assert np.median(counts) >= 8 and np.mean(np.array(counts) >= 5) >= 0.9


def test_a_shell_encloses_what_it_does_not_hold():
    """Some shells are complete: their inside cannot be reached from outside."""
    enclosed = []
    for seed in range(20):
        outside, parts = label(~np.pad(KINDS["shell"](EDGE, np.random.default_rng(seed)).truth.numpy(), 1))
        enclosed.append(parts > 1 and (outside > 1).sum() > 100)
    assert 3 <= sum(enclosed) <= 19


def test_other_structures_that_look_like_the_object_are_no_part_of_it():
    alike = [procedural(EDGE, np.random.default_rng(seed), "tree") for seed in range(20)]
    assert any(bool((scene.labels[~scene.truth] == 1).any()) for scene in alike)
    assert any(bool((scene.labels > 1).any()) for scene in alike)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Balls in rows: one label map of twelve labels, one binary."""
    grid = np.indices((40, 40, 40)) % 13 - 6
    balls = np.square(grid).sum(axis=0) <= 16
    numbers = np.indices((40, 40, 40)) // 13
    np.savez(
        tmp_path / "rows_1.npz", gts=(balls * (1 + numbers[1] + 4 * numbers[2])).astype(np.uint8), spacing=np.ones(3)
    )
    np.savez(tmp_path / "binary_1.npz", gts=balls.astype(np.uint8), spacing=np.ones(3))
    return tmp_path


def test_objects_of_the_library_are_one_label_or_several(shapes: Path):
    maps = load_shapes(shapes)
    assert [len(each.objects) for each in maps] == [1, len(np.unique(np.load(shapes / "rows_1.npz")["gts"])) - 1]
    scenes = [from_library(maps, (24, 24, 24), np.random.default_rng(seed)) for seed in range(40)]
    scenes = [scene for scene in scenes if scene is not None]
    assert len(scenes) > 30
    assert all(8 <= int(scene.truth.sum()) <= 0.6 * scene.truth.numel() for scene in scenes)
    assert all(bool((scene.labels[scene.truth] > 0).all()) for scene in scenes)
    pieces = [label(scene.truth.numpy())[1] for scene in scenes]
    assert 1 in pieces and max(pieces) > 3
    again = from_library(maps, (24, 24, 24), np.random.default_rng(0))
    assert torch.equal(again.truth, scenes[0].truth)


def test_a_broken_label_map_is_named_and_skipped(shapes: Path, capsys: pytest.CaptureFixture):
    (shapes / "torn.npz").write_bytes((shapes / "rows_1.npz").read_bytes()[:200])
    np.savez(shapes / "flat.npz", gts=np.ones((4, 4), np.uint8))
    np.savez(shapes / "empty.npz", gts=np.zeros((4, 4, 4), np.uint8))
    assert len(load_shapes(shapes)) == 2
    printed = capsys.readouterr()
    for name in ("torn", "flat", "empty"):
        assert sum(name in line for line in printed.err.splitlines()) == 1
    assert "3 broken files skipped" in printed.out


def test_a_folder_without_a_usable_label_map_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no usable label map"):
        load_shapes(tmp_path)
