"""``segfm3d view IMAGE``: an image of any format, with a mask and prompts over it, as a page."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import phantom, positions, write_series
from grids import place, rotation

from conversion.__main__ import view
from conversion.prompt_file import write_prompts
from conversion.volume import patient_ends, read_volume, write_mask
from evaluation.orientation import turned
from inference.case import Click, ObjectPrompts
from inference.geometry import Box


def content_of(page: Path) -> dict:
    return json.loads(re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])


@pytest.fixture
def continued(tmp_path: Path) -> list[str]:
    """The words for a page of an image and a mask of two objects, of which one has prompts beside the mask."""
    image = place()
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    labels = np.zeros(image.GetSize()[::-1], np.uint16)
    labels[1:3, 2:4, 1:3], labels[1:3, 2:4, 4:6] = 17, 1035
    write_mask(tmp_path / "mask.nrrd", labels, image)
    objects = (ObjectPrompts(1035, Box((1, 2, 4), (2, 3, 5)), (Click((1, 2, 4), True), Click((0, 0, 0), False))),)
    write_prompts(tmp_path / "mask.nrrd", image, "scan.nrrd", objects, "CT", "lung")
    return [str(tmp_path / name) for name in ("scan.nrrd", "mask.nrrd")] + ["-o", str(tmp_path / "page.html")]


def test_prompts_that_are_stored_beside_the_mask_are_shown(
    continued: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert view([*continued, "--click", "1035:4,8,6"], "view") == 0
    first, second = content_of(Path(continued[-1]))["objects"]
    assert (first["box"], first["clicks"], first["voxels"]["result"]) == (None, [], 8)
    assert (second["box"], second["voxels"]["result"]) == ([[1, 2, 4], [2, 3, 5]], 8)
    assert second["clicks"] == [[1, 2, 4, True], [0, 0, 0, False], [4, 8, 6, True]]
    said = capsys.readouterr().out
    assert "labels 17, 1035 are shown as 1 to 2" in said and "intensities -910 to 590" in said


def test_stored_prompts_of_another_image_do_not_hide_the_mask(
    continued: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sitk.WriteImage(place() + 1, continued[0])
    assert view(continued, "view") == 0
    assert all(item["box"] is None and not item["clicks"] for item in content_of(Path(continued[-1]))["objects"])
    said = capsys.readouterr().out
    assert "mask.prompts.json: holds the prompts of another image" in said and "the mask is shown without them" in said
    assert "-910 to 590" not in said, "nor is their window of this image"


@pytest.mark.parametrize("kind", ["NIfTI", "DICOM"])
@pytest.mark.parametrize("label", [7, 1035])
def test_an_image_with_a_mask(kind: str, label: int, tmp_path: Path) -> None:
    scan = tmp_path / "scan"
    if kind == "DICOM":
        write_series(scan, phantom(), positions(6))
    else:
        scan = tmp_path / "scan.nii.gz"
        sitk.WriteImage(place(direction=rotation()), str(scan))
    image = read_volume(scan)
    labels = np.zeros(image.GetSize()[::-1], np.uint16)
    labels[1:3, 2:4, 1:5] = label
    write_mask(tmp_path / "mask.nrrd", labels, image)
    page = tmp_path / "page.html"
    assert view([str(scan), "--click", "1,2,3", "-o", str(page), str(tmp_path / "mask.nrrd")], "view") == 0
    content = content_of(page)
    shown = np.frombuffer(gzip.decompress(base64.b64decode(content["layers"][0]["labels"])), np.uint8)
    # The click is of object 1, and 1035 comes after it.
    np.testing.assert_array_equal(shown.reshape(labels.shape), (labels > 0) * (label if label < 256 else 2))
    assert content["shape"] == list(labels.shape)
    assert content["spacing"] == pytest.approx(image.GetSpacing()[::-1])
    assert content["objects"][0]["clicks"] == [[1, 2, 3, True]]
    assert content["ends"] == [list(pair) for pair in patient_ends(image)]
    assert content["turned"] == [list(turned(axis, patient_ends(image))) for axis in range(3)]


@pytest.mark.parametrize("stored", [False, True])
def test_a_mask_of_another_image(stored: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sitk.WriteImage(place(), str(tmp_path / "scan.nrrd"))
    other = place(direction=rotation()) + 1
    if stored:
        objects = (ObjectPrompts(1, Box((1, 2, 4), (2, 3, 5))),)
        write_prompts(tmp_path / "mask.nrrd", other, "other.nrrd", objects)
    write_mask(tmp_path / "mask.nrrd", np.ones(other.GetSize()[::-1], np.uint8), other)
    assert view([*map(str, (tmp_path / "scan.nrrd", tmp_path / "mask.nrrd", "-o", tmp_path / "a.html"))], "view") == 2
    said = capsys.readouterr()
    assert "lies elsewhere than the image" in said.err and "shown without" not in said.out
    assert not (tmp_path / "a.html").exists()
