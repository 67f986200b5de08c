"""DICOM files as scanners and archives write them: small phantoms, a call each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

PIXEL = (0.9, 0.8)
"""Millimetres between rows and between columns."""
ALONG = [1, 0, 0, 0, 1, 0]
TURNED = [0.95533649, 0.29552021, 0, -0.28962948, 0.93629336, 0.19866933]


def phantom(slices: int = 6) -> np.ndarray:
    """Stored values (D, H, W), uint16, no two of them alike."""
    return np.arange(slices * 5 * 7, dtype=np.uint16).reshape(slices, 5, 7)


def positions(count: int, distance: float = 2.5, orientation: Sequence[float] = ALONG) -> np.ndarray:
    """Where slices lie that are stacked straight, (N, 3) in mm."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([-20.0, -30.0, 100.0]) + np.outer(np.arange(count) * distance, normal)


def write_series(
    folder: Path,
    values: np.ndarray,
    places: np.ndarray,
    orientation: Sequence[float] = ALONG,
    slopes: Sequence[float] | None = None,
    **tags: object,
) -> list[Path]:
    """Writes a slice a file, last slice first by name.

    Args:
        values: (D, H, W), integers of 16 bits.
        places: (D, 3), each slice's position.
        slopes: each slice's; 1 by default.
        tags: what all slices say beside or instead of what they say by default.

    Returns:
        the files, in the order of ``values``.
    """
    folder.mkdir(exist_ok=True)
    common = {"SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()} | tags
    paths = []
    for index, plane in enumerate(values):
        dataset = _image(plane, CTImageStorage)
        dataset.ImagePositionPatient = [round(float(v), 6) for v in places[index]]
        dataset.ImageOrientationPatient = list(orientation)
        dataset.PixelSpacing = list(PIXEL)
        dataset.RescaleSlope = 1 if slopes is None else slopes[index]
        dataset.RescaleIntercept = 0
        for keyword, value in common.items():
            setattr(dataset, keyword, value)
        paths.append(folder / f"{len(values) - index:03}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_frames(
    path: Path,
    values: np.ndarray,
    places: np.ndarray,
    orientations: Sequence[Sequence[float]] | None = None,
    slopes: Sequence[float] | None = None,
) -> Path:
    """Writes one file of many frames, each with its own position, orientation and rescaling."""
    dataset = _image(values, EnhancedCTImageStorage)
    dataset.NumberOfFrames = len(values)
    dataset.FrameOfReferenceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    turns = orientations or [ALONG] * len(values)
    measures = _with(PixelSpacing=list(PIXEL), SliceThickness=2.5)
    dataset.SharedFunctionalGroupsSequence = [_with(PixelMeasuresSequence=[measures])]
    dataset.PerFrameFunctionalGroupsSequence = [
        _with(
            PlanePositionSequence=[_with(ImagePositionPatient=[round(float(v), 6) for v in places[index]])],
            PlaneOrientationSequence=[_with(ImageOrientationPatient=list(turns[index]))],
            PixelValueTransformationSequence=[
                _with(RescaleSlope=1 if slopes is None else slopes[index], RescaleIntercept=0, RescaleType="HU")
            ],
        )
        for index in range(len(values))
    ]
    dataset.save_as(path, enforce_file_format=True)
    return path


def _image(values: np.ndarray, kind: str) -> Dataset:
    dataset = _with(
        SOPClassUID=kind,
        SOPInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(),
        Modality="CT",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=values.shape[-2],
        Columns=values.shape[-1],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=int(values.dtype.kind == "i"),
        PixelData=values.astype(values.dtype.newbyteorder("<")).tobytes(),
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _with(**tags: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset
