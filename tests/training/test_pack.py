"""A data set made small enough to carry."""

from pathlib import Path

import numpy as np
import pytest

from inference.npz import read_array
from training.dataset import load_volumes
from training.pack import Item, in_turns, main


def packed(out: Path) -> dict[str, int]:
    """File, relative to the folder of parts -> bytes."""
    return {str(path.relative_to(out)): path.stat().st_size for path in out.rglob("*.npz")}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    labels = np.zeros((30, 30, 30), np.uint16)
    labels[10:20, 5:9, 12:30] = 300
    np.savez_compressed(folder / "tree_1.npz", gts=labels)
    return folder


def test_a_part_is_a_data_set(folder: Path, tmp_path: Path):
    assert main(["--data", str(folder), "--out", str(tmp_path), "--margin", "2"]) == 0
    small = {volume.name: volume for volume in load_volumes(tmp_path / "part1")}
    for volume in load_volumes(folder):
        assert small[volume.name].objects.keys() == volume.objects.keys()
        assert small[volume.name].labels.numel() < volume.labels.numel()
        for label in volume.objects:
            assert (small[volume.name].labels == label).sum() == (volume.labels == label).sum()


def test_grey_values_stay_those_of_the_whole_image(tmp_path: Path):
    image = np.full((9, 20, 20), 100, np.uint8)
    image[:, :8, :8] = np.arange(64, dtype=np.uint8).reshape(8, 8)
    labels = np.zeros(image.shape, np.uint8)
    labels[3:6, 2:6, 2:6] = 1
    np.savez(tmp_path / "CT_a_1.npz", imgs=image, gts=labels)
    assert main(["--data", str(tmp_path), "--margin", "1", "--out", str(tmp_path / "out")]) == 0
    (whole,), (part,) = load_volumes(tmp_path), load_volumes(tmp_path / "out" / "part1")
    assert part.shape == (5, 6, 6) and (part.image.scale, part.image.offset) == (whole.image.scale, whole.image.offset)
    assert part.likeness == whole.likeness


def test_label_maps_without_images_lie_apart(folder: Path, shapes: Path, tmp_path: Path):
    arguments = ["--data", str(folder), "--shapes", str(shapes), "--out", str(tmp_path), "--margin", "1"]
    assert main(arguments) == 0
    labels = read_array(tmp_path / "part1" / "shapes" / "tree_1.npz", "gts")
    assert labels.shape == (12, 6, 19) and labels.dtype == np.uint16 and np.count_nonzero(labels) == 10 * 4 * 18
    assert len(load_volumes(tmp_path / "part1")) == 3


def test_every_part_keeps_its_limit_and_the_first_holds_each_source(folder: Path, tmp_path: Path, capsys):
    arguments = ["--data", str(folder), "--margin", "100", "--out"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    sizes = {Path(name).name: size for name, size in packed(tmp_path / "whole").items()}
    first = sizes["CT_a_b_1.npz"] + sizes["MR_a_b_1.npz"]
    limits = f"{first / 1e6},{sizes['MR_c_d_2.npz'] / 1e6}"
    assert main([*arguments, str(tmp_path / "parts"), "--parts", limits]) == 0
    assert packed(tmp_path / "parts").keys() == {
        "part1/CT_a_b_1.npz",
        "part1/MR_a_b_1.npz",
        "part2/MR_c_d_2.npz",
    }
    assert main([*arguments, str(tmp_path / "small"), "--parts", str(first / 1e6)]) == 0
    assert packed(tmp_path / "small").keys() == {"part1/CT_a_b_1.npz", "part1/MR_a_b_1.npz"}
    assert "2 files packed, 1 found no room, 0 broken" in capsys.readouterr().out


def test_the_smallest_file_of_each_source_comes_first(tmp_path: Path):
    sizes = {"CT_a_1": 3, "CT_a_2": 1, "CT_a_3": 2, "MR_b_1": 5, "MR_b_2": 4}
    items = []
    for name, size in sizes.items():
        (tmp_path / f"{name}.npz").write_bytes(b"x" * size)
        items.append(Item(tmp_path / f"{name}.npz", f"{name}.npz", ("imgs", "gts")))
    assert [item.path.stem for item in in_turns(items)] == ["CT_a_2", "MR_b_2", "CT_a_1", "MR_b_1", "CT_a_3"]


def test_an_interrupted_run_ends_where_a_whole_one_does(folder: Path, tmp_path: Path):
    """What is packed is not packed again, but moves to the part where it belongs."""
    arguments = ["--data", str(folder), "--margin", "100", "--out", str(tmp_path)]
    assert main([*arguments, "--parts", "60,60"]) == 0
    whole = packed(tmp_path)
    (tmp_path / "part1" / "CT_a_b_1.npz").rename(tmp_path / "part2" / "CT_a_b_1.npz")
    (tmp_path / "part1" / "MR_a_b_1.npz").unlink()
    (tmp_path / "part1" / ".half.unfinished").write_bytes(b"half")
    before = (tmp_path / "part2" / "CT_a_b_1.npz").stat().st_ino
    assert main([*arguments, "--parts", "60,60"]) == 0
    assert packed(tmp_path) == whole
    assert (tmp_path / "part1" / "CT_a_b_1.npz").stat().st_ino == before
    assert not list(tmp_path.rglob("*.unfinished"))
    assert main([*arguments, "--parts", "0.000001"]) == 0
    assert packed(tmp_path) == {}


def test_a_broken_file_is_named_and_the_others_are_packed(tmp_path: Path, folder: Path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "CT_broken.npz").write_bytes(b"no zip")
    np.savez(data / "MR_empty.npz", imgs=np.ones((4, 4, 4), np.uint8), gts=np.zeros((4, 4, 4), np.uint8))
    np.savez(data / "MR_other.npz", imgs=np.ones((4, 4, 5), np.uint8), gts=np.ones((4, 4, 4), np.uint8))
    (data / "MR_good.npz").write_bytes((folder / "CT_a_b_1.npz").read_bytes())
    assert main(["--data", str(data), "--out", str(tmp_path / "out")]) == 1
    assert packed(tmp_path / "out").keys() == {"part1/MR_good.npz"}
    said = capsys.readouterr()
    assert "CT_broken.npz: not a readable" in said.err and "MR_empty.npz: gts holds no object" in said.err
    assert "MR_other.npz: imgs uint8 (4, 4, 5), gts uint8 (4, 4, 4); expected" in said.err
    assert "1 files packed, 0 found no room, 3 broken" in said.out


def test_wrong_use_is_one_line(tmp_path: Path, folder: Path, capsys):
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "none: no *.npz in it" in capsys.readouterr().err
    (tmp_path / "out" / "part1").mkdir(parents=True)
    (tmp_path / "out" / "part1" / "US_other.npz").write_bytes(b"another data set's")
    assert main(["--data", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "US_other.npz and 0 more are not of" in capsys.readouterr().err
    for limits in ("0", "many", "3,-1", "nan", "inf"):
        with pytest.raises(SystemExit, match="2"):
            main(["--data", str(folder), "--out", str(tmp_path / "out"), "--parts", limits])
