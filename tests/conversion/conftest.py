"""Fixtures for tests of conversion: real files of every format, and grids in awkward places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from grids import place, rotation

RAW = Path(__file__).parents[2].parent / "shared" / "data" / "raw"

REAL = {
    "NIfTI": "mr_adc.nii.gz",
    "NRRD, flipped": "ultrasound_flipped.nrrd",
    "MHA": "ultrasound_spine_phantom.mha",
    "DICOM, oblique": "dicom_prostate_adc_oblique",
}


@pytest.fixture(scope="session")
def raw() -> Path:
    """The folder of real, unconverted files."""
    if not RAW.is_dir():
        pytest.skip("no real files in ../shared/data/raw")
    return RAW


@pytest.fixture(params=REAL, ids=str)
def real_file(request: pytest.FixtureRequest, raw: Path) -> Path:
    return raw / REAL[request.param]


@pytest.fixture(params=["oblique", "flipped", "permuted", "oblique and mirrored"])
def awkward(request: pytest.FixtureRequest) -> sitk.Image:
    """An image whose axes do not run as the patient's do."""
    directions = {
        "oblique": rotation(),
        "flipped": np.diag([-1.0, -1.0, 1.0]),
        "permuted": np.eye(3)[[2, 0, 1]],
        "oblique and mirrored": rotation() @ np.diag([1.0, -1.0, 1.0]),
    }
    return place(direction=directions[request.param])


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """An oblique image of CT numbers on disk."""
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(place(direction=rotation()), str(path))
    return path
