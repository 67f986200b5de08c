"""DICOM: the series of a folder, and the volume of a series or of a multi-frame file, read by pydicom and highdicom.

Whether slices are a volume is asked of :mod:`conversion.slice_grid`, since highdicom's own answer is a yes or a no.
Highdicom reads the frames of a multi-frame file. With a series it would take 40 ms a slice, and refuse real ones (no
frame of reference, orientations that differ in the last digit): there, each slice is as pydicom reads it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from conversion.errors import ConversionError
from conversion.file_types import MODALITY, is_dicom
from conversion.slice_grid import APART, Grid, Slices, even_grid

_PLACE_AND_SCALE = ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept")
_LISTED = [
    *("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "NumberOfFrames", "Rows"),
]


@dataclass(frozen=True)
class Series:
    """The files of one series, or one multi-frame file, which is a volume by itself."""

    uid: str
    number: int | None
    description: str
    modality: str
    files: tuple[Path, ...]
    slices: int

    def __str__(self) -> str:
        named = f"{self.description!r}" if self.description else "without a description"
        return f"{self.modality or 'no modality'} {named}, {self.slices} slices"

    @property
    def first(self) -> str:
        """Its first file, and the folder of it."""
        return "/".join(self.files[0].parts[-2:])


def read_dicom(path: Path, number: int | None = None, log: Callable[[str], None] = print) -> sitk.Image:
    """Reads a volume.

    Args:
        path: a folder with the slices of a series, in it or in folders in it; any one slice of a series; or a
            multi-frame file.
        number: which series of a folder, by the numbers that the refusal of several lists.
        log: takes a line about what was found and does no harm.

    Returns:
        float32 values after the modality's rescaling, each slice's own; the metadata name the modality
        (:data:`conversion.file_types.MODALITY`).

    Raises:
        ConversionError: not a volume, or a file that cannot be read: it is named.
    """
    if path.is_dir():
        series = _chosen(path, series_in(path), number)
    else:
        header = _header(path)
        uid = header.get("SeriesInstanceUID") or ""
        alone = _frames(header) > 1 or not uid or header.get("Modality") == "SEG"
        beside = [] if alone else [other for other in series_in(path.parent, deep=False) if path in other.files]
        series = beside[0] if beside else _series(uid, [(path, header)])
    with _quiet():
        if len(series.files) == 1 and series.slices > 1:
            return _multi_frame(series.files[0])
        return _stack(path, series, log)


def series_in(folder: Path, deep: bool = True) -> list[Series]:
    """The series of images in a folder, by their numbers.

    Args:
        deep: whether to look into the folders in it as well.

    Raises:
        ConversionError: there is none, or a file that is damaged.
    """
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    others: Counter[str] = Counter()
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()):
        if not path.is_file() or not is_dicom(path):
            continue
        header = _header(path)
        if header.get("Modality") == "SEG" or "Rows" not in header:
            others[header.get("Modality") or "no images"] += 1
            continue
        uid = header.get("SeriesInstanceUID") or ""
        found.setdefault(f"{uid} {path}" if _frames(header) > 1 else uid, []).append((path, header))
    if not found:
        only = f", only {' and '.join(others)}" if others else ""
        raise ConversionError(
            f"{folder}: no DICOM slices in it{only}; expected a folder with the slices of a series, or a file"
        )
    series = [_series(members[0][1].get("SeriesInstanceUID") or "", members) for members in found.values()]
    return sorted(series, key=lambda s: (s.number is None, s.number, str(s.files[0])))


def _series(uid: str, members: list[tuple[Path, Dataset]]) -> Series:
    header = members[0][1]
    slices = _frames(header) if len(members) == 1 else len(members)
    number = header.get("SeriesNumber")
    return Series(
        uid,
        int(number) if number not in (None, "") else None,
        str(header.get("SeriesDescription") or ""),
        str(header.get("Modality") or ""),
        tuple(path for path, _ in members),
        slices,
    )


def _chosen(folder: Path, series: list[Series], number: int | None) -> Series:
    numbers: list[int | None] = [s.number for s in series]
    counted = None in numbers or len(set(numbers)) < len(numbers)
    if counted:  # Their order in the list is all that tells them apart.
        numbers = [*range(1, len(series) + 1)]
    if number is None and len(series) == 1:
        return series[0]
    if number is not None and number in numbers:
        return series[numbers.index(number)]
    listed = "; ".join(f"{n} ({s}{f', first {s.first}' if counted else ''})" for n, s in zip(numbers, series))
    asked = "" if number is None else f", none of them {number}"
    raise ConversionError(f"{folder}: holds {len(series)} DICOM series{asked}; expected --series with one of: {listed}")


def _header(path: Path) -> FileDataset:
    with _quiet():
        try:
            header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_LISTED)
        except Exception as error:  # What a damaged file raises depends on where the damage is.
            raise _damaged(path, error) from error
    if not (header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")):
        raise _damaged(path, "it has no SOPClassUID")
    return header


def _read(path: Path) -> FileDataset:
    """A file with its pixels decoded, of one grey value each."""
    try:
        dataset = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # A file without a preamble: as it was found to be written.
            implicit, _ = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        if dataset.get("Modality") == "SEG":
            raise ConversionError(
                f"{path}: a DICOM SEG, whose frames are not the image's slices; expected an image, or as a mask a "
                "label map, for example what dcmqi's segimage2itkimage makes of it"
            )
        if "PixelData" not in dataset and "FloatPixelData" not in dataset and "DoubleFloatPixelData" not in dataset:
            raise _damaged(path, "it has no pixels")
        if dataset.get("SamplesPerPixel", 1) != 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            raise ConversionError(f"{path}: is in colour; expected one grey value a pixel")
        _ = dataset.pixel_array  # Decodes, and keeps the result.
    except ConversionError:
        raise
    except Exception as error:  # As above; decoders have errors of their own.
        raise _damaged(path, error) from error
    return dataset


def _damaged(path: Path, reason: object) -> ConversionError:
    return ConversionError(
        f"{path}: damaged or no image ({' '.join(str(reason).split())[:200]}); expected a whole DICOM file: copy it "
        "again, or take it out of the folder"
    )


def _stack(path: Path, series: Series, log: Callable[[str], None]) -> sitk.Image:
    slices: list[tuple[Path, Dataset]] = [(file, _read(file)) for file in series.files]
    shapes = Counter((int(dataset.Rows), int(dataset.Columns)) for _, dataset in slices)
    if len(shapes) > 1:
        found = ", ".join(f"{count} of {rows}×{columns}" for (rows, columns), count in shapes.items())
        raise ConversionError(f"{path}: its slices are of several sizes ({found}); expected one volume's")
    slices = _without_copies(path, slices, log)
    datasets = [dataset for _, dataset in slices]
    if len(datasets) == 1:
        dataset = datasets[0]
        dataset.setdefault("ImagePositionPatient", [0, 0, 0])
        dataset.setdefault("ImageOrientationPatient", [1, 0, 0, 0, 1, 0])
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        lacking = next((file for file, dataset in slices if np.size(dataset.get(keyword)) != count), None)
        if lacking is not None:
            raise ConversionError(
                f"{lacking}: does not say where it lies; expected {keyword}, {count} numbers, in each slice"
            )
    frames = Slices(
        [file.name for file, _ in slices],
        np.array([dataset.ImagePositionPatient for dataset in datasets], float),
        np.array([dataset.ImageOrientationPatient for dataset in datasets], float),
        _one_pixel_size(path, [dataset.PixelSpacing for dataset in datasets]),
        _thickness(datasets[0]),
    )
    grid = even_grid(path, frames)
    if grid.off > APART:
        log(f"{path.name}: slices lie up to {grid.off:.2g} mm from even places, which are taken")
    volume = np.empty((len(datasets), *datasets[0].pixel_array.shape), np.float32)
    for index, place in enumerate(grid.order):
        volume[index] = apply_modality_lut(datasets[place].pixel_array, datasets[place])
    return _image(volume, grid, series.modality)


def _without_copies(
    path: Path, slices: list[tuple[Path, Dataset]], log: Callable[[str], None]
) -> list[tuple[Path, Dataset]]:
    """The slices without those that are another one's copies, place and pixels alike."""
    kept: dict[str, list[tuple[Path, Dataset]]] = {}
    copies = 0
    for file, dataset in slices:
        told = [dataset.get(keyword) for keyword in _PLACE_AND_SCALE]
        same = kept.setdefault(str(told), [])
        if told[0] and any(np.array_equal(dataset.pixel_array, other.pixel_array) for _, other in same):
            copies += 1
        else:
            same.append((file, dataset))
    if copies:
        log(f"{path.name}: {copies} of {len(slices)} slices are copies of others and left out")
    return [item for same in kept.values() for item in same]


def _multi_frame(path: Path) -> sitk.Image:
    dataset = _read(path)
    count = _frames(dataset)
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        raise ConversionError(
            f"{path}: its {count} frames do not say where they lie (a film of one plane?); expected a volume, for "
            "example as NIfTI"
        )
    try:
        groups = [_groups(dataset, frame) for frame in dataset.PerFrameFunctionalGroupsSequence]
        frames = Slices(
            [f"frame {index}" for index in range(1, count + 1)],
            np.array([group["PlanePosition"].ImagePositionPatient for group in groups], float),
            np.array([group["PlaneOrientation"].ImageOrientationPatient for group in groups], float),
            _one_pixel_size(path, [group["PixelMeasures"].PixelSpacing for group in groups]),
            _thickness(groups[0]["PixelMeasures"]),
        )
        if frames.positions.shape[1:] != (3,) or frames.orientations.shape[1:] != (6,):
            raise ValueError("other numbers than three and six")
    except ConversionError:
        raise
    except (AttributeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise ConversionError(
            f"{path}: its frames do not all say where they lie ({error}); expected a position, an orientation and "
            "pixel spacing for each"
        ) from error
    if len(groups) != count:
        raise ConversionError(f"{path}: says where {len(groups)} frames lie; expected {count}, as many as it has")
    grid = even_grid(path, frames)
    if not dataset.get("FrameOfReferenceUID"):  # Some writers leave it out; highdicom wants one.
        dataset.FrameOfReferenceUID = generate_uid()
    import highdicom  # A second's work, for those few files only.

    try:
        volume = highdicom.Image.from_dataset(dataset, copy=False).get_volume(
            dtype=np.float32,
            apply_real_world_transform=False,
            apply_presentation_lut=False,
            atol=grid.spacing[2] / 2,
            perpendicular_tol=0.1,
        )
    except (ValueError, RuntimeError, AttributeError, TypeError, KeyError) as error:
        raise ConversionError(f"{path}: not a volume ({error}); expected the frames of one") from error
    # Highdicom stacks against the normal of rows and columns, ITK and all that is built on it along it.
    return _image(volume.array[::-1], grid, str(dataset.get("Modality") or ""))


def _groups(dataset: Dataset, frame: Dataset) -> dict[str, Dataset]:
    """A frame's own functional groups, or those that all frames share."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    names = ("PlanePosition", "PlaneOrientation", "PixelMeasures")
    return {name: (frame.get(f"{name}Sequence") or shared[0][f"{name}Sequence"].value)[0] for name in names}


def _thickness(dataset: Dataset) -> float | None:
    thickness = dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness")
    return None if thickness is None else abs(float(thickness))  # Nuclear medicine counts against the normal, too.


def _one_pixel_size(path: Path, found: list) -> tuple[float, float]:
    """Millimetres between rows and between columns."""
    sizes = np.array(found, float)
    if sizes.ndim != 2 or not np.allclose(sizes, sizes[0], rtol=1e-4) or not (sizes > 0).all():
        raise ConversionError(f"{path}: its slices do not have one size of pixels; expected one volume's")
    return float(sizes[0, 0]), float(sizes[0, 1])


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _image(volume: NDArray[np.float32], grid: Grid, modality: str) -> sitk.Image:
    image = sitk.GetImageFromArray(volume)
    image.SetOrigin(grid.origin.tolist())
    image.SetSpacing(grid.spacing)
    image.SetDirection(grid.direction.ravel().tolist())
    image.SetMetaData(MODALITY, modality)
    return image


@contextmanager
def _quiet() -> Generator[None]:
    """Pydicom's warnings about values that a standard does not allow and everyone writes, left out for a block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
