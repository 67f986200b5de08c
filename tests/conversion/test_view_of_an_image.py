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
from conversion.volume import patient_ends, read_volume, write_mask


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
    content = json.loads(re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])
    shown = np.frombuffer(gzip.decompress(base64.b64decode(content["layers"][0]["labels"])), np.uint8)
    np.testing.assert_array_equal(shown.reshape(labels.shape), (labels > 0) * (label if label < 256 else 1))
    assert content["shape"] == list(labels.shape)
    assert content["spacing"] == pytest.approx(image.GetSpacing()[::-1])
    assert content["objects"][0]["clicks"] == [[1, 2, 3, True]]
    assert content["ends"] == [list(pair) for pair in patient_ends(image)]


def test_a_mask_of_another_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sitk.WriteImage(place(), str(tmp_path / "scan.nrrd"))
    other = place(direction=rotation())
    write_mask(tmp_path / "mask.nrrd", np.ones(other.GetSize()[::-1], np.uint8), other)
    assert view([*map(str, (tmp_path / "scan.nrrd", tmp_path / "mask.nrrd", "-o", tmp_path / "a.html"))], "view") == 2
    assert "lies elsewhere than the image" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()
