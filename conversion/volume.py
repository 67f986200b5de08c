"""Images of any format on disk, with their place in the patient: read, compare, write.

Arrays are (z, y, x), the order in which SimpleITK stores voxels; points in millimetres are (x, y, z) in ITK's patient
space, which is LPS: x grows to the patient's left, y to the back (posterior), z to the head (superior).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

MASK_FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Formats that keep voxels and geometry in one file."""

SAME_PLACE = 0.01
"""Two grids are the same if no corner is further apart than this part of a voxel: files round their headers."""

EVEN = 0.05
"""Slices of a DICOM series are evenly spaced if no gap differs from the usual one by more than this part of it."""

_SERIES, _MODALITY, _POSITION, _ORIENTATION = "0020|000e", "0008|0060", "0020|0032", "0020|0037"


class ConversionError(ValueError):
    """A file or an option that cannot be used; the message is one line: which, what is wrong, what is expected."""


def read_volume(path: Path) -> sitk.Image:
    """Reads a 3D image of one value a voxel.

    Args:
        path: a file of any format that SimpleITK knows, a folder with the slices of one DICOM series, or one slice of
            a series where the folder holds several.

    Raises:
        ConversionError: missing, unreadable, not 3D, several values a voxel, or without a usable geometry.
    """
    if not path.exists():
        raise ConversionError(f"{path}: no such file or folder; expected an image")
    image = _read_series(path) if _is_series(path) else _read_file(path)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]  # Many programs store a single volume as the first of a series.
    if image.GetDimension() != 3:
        size = "×".join(map(str, image.GetSize()))
        raise ConversionError(f"{path}: has {image.GetDimension()} axes ({size}); expected a single volume of three")
    if image.GetNumberOfComponentsPerPixel() != 1:
        count = image.GetNumberOfComponentsPerPixel()
        raise ConversionError(f"{path}: has {count} values a voxel (colour or vectors); expected one grey value")
    if "complex" in image.GetPixelIDTypeAsString():
        raise ConversionError(f"{path}: holds complex numbers; expected real ones, for example their magnitude")
    # SimpleITK itself refuses singular directions; what a format can still smuggle in are values that are no numbers.
    if not np.isfinite([*image.GetDirection(), *image.GetOrigin(), *image.GetSpacing()]).all():
        raise ConversionError(f"{path}: its spacing, origin or direction is not finite; expected a place in space")
    return image


def modality(path: Path) -> str | None:
    """The modality that a DICOM file or series says it has; None for other formats."""
    files = _dicom_files(path) if path.is_dir() else [path]
    return _tags(files[0]).get(_MODALITY) if files else None


def check_same_grid(path: Path, mask: sitk.Image, image: sitk.Image) -> None:
    """Checks that a mask's voxels are the image's.

    Args:
        path: the mask's file, for the message.

    Raises:
        ConversionError: they are others; it says in what.
    """
    if mask.GetSize() != image.GetSize():
        raise ConversionError(f"{path}: is {_size(mask)} voxels; expected the image's {_size(image)} (x×y×z)")
    apart = np.abs(corners(mask) - corners(image)).max() / min(image.GetSpacing())
    if not apart <= SAME_PLACE:
        raise ConversionError(
            f"{path}: lies elsewhere than the image (a corner is {apart:.2g} voxels off); expected the same origin, "
            "spacing and direction: resample it onto the image, or save it from the same program again"
        )


def corners(image: sitk.Image) -> NDArray[np.float64]:
    """The centres of the eight corner voxels in patient space, (8, 3) millimetres."""
    ends = [(0, n - 1) for n in image.GetSize()]
    return np.array([image.TransformIndexToPhysicalPoint((x, y, z)) for x in ends[0] for y in ends[1] for z in ends[2]])


def check_mask_name(path: Path) -> None:
    """Checks, before any work is done, that a mask can be written to ``path``.

    Raises:
        ConversionError: an unknown ending, or no such folder.
    """
    if not path.name.lower().endswith(MASK_FORMATS):
        raise ConversionError(f"{path}: unknown ending; expected one of {', '.join(MASK_FORMATS)}")
    if not path.parent.is_dir():
        raise ConversionError(f"{path.parent}: no such folder; expected one to write {path.name} to")


def write_mask(path: Path, labels: NDArray[np.unsignedinteger], like: sitk.Image) -> None:
    """Writes a label map where ``like`` lies, whole or not at all, compressed.

    Args:
        path: its ending chooses the format, see :data:`MASK_FORMATS`.
        labels: (D, H, W), as many voxels as ``like``.

    Raises:
        ConversionError: another shape, or a format that cannot hold the image's directions.
        OSError: the folder cannot be written.
    """
    check_mask_name(path)
    expected = like.GetSize()[::-1]
    if labels.shape != expected:
        raise ConversionError(
            f"{path}: the label map is {labels.shape}; expected {expected} (z, y, x), the image's shape"
        )
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(like)
    # SimpleITK takes the format from the name, so the unfinished file has the same name in a folder of its own.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        unfinished = Path(folder) / path.name
        try:
            with _quiet():
                sitk.WriteImage(mask, str(unfinished), useCompression=not path.name.lower().endswith(".nii"))
                written = sitk.ReadImage(str(unfinished))
        except RuntimeError as error:
            raise ConversionError(f"{path}: cannot be written ({_reason(error)})") from error
        try:
            check_same_grid(path, written, like)
        except ConversionError:
            raise ConversionError(
                f"{path}: this format cannot hold the image's directions (they are not at right angles); "
                "expected .nrrd or .mha"
            ) from None
        unfinished.chmod(0o644)
        unfinished.replace(path)


def _is_series(path: Path) -> bool:
    """Whether a path is a folder, or a slice of a DICOM series; a DICOM file of many frames is a volume by itself."""
    if path.is_dir():
        return True
    tags = _tags(path)
    return _SERIES in tags and tags.get("0028|0008", "1").strip() in ("", "1")


def _read_file(path: Path) -> sitk.Image:
    if _tags(path).get(_MODALITY) == "SEG":
        raise ConversionError(
            f"{path}: a DICOM SEG, whose frames are not the image's slices; expected a label map, for example what "
            "dcmqi's segimage2itkimage makes of it"
        )
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ConversionError(_unreadable(path, error)) from error


def _read_series(path: Path) -> sitk.Image:
    files = _dicom_files(path)
    slices = [_tags(Path(file)) for file in files]
    if all(_POSITION in tags and _ORIENTATION in tags for tags in slices):
        _check_evenly_spaced(path, slices)
    elif len(files) > 1:
        raise ConversionError(f"{path}: its slices do not say where they lie; expected ImagePositionPatient in each")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise ConversionError(_unreadable(path, error)) from error


def _dicom_files(path: Path) -> list[Path]:
    """The slices of a series in their order: that of the given slice, or the only one of the given folder."""
    folder = path if path.is_dir() else path.parent
    with _quiet():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if path.is_dir():
            if not series:
                raise ConversionError(f"{folder}: no DICOM slices in it; expected a folder of one series, or a file")
            if len(series) > 1:
                raise ConversionError(
                    f"{folder}: holds {len(series)} DICOM series; expected one: give any slice of the one you mean"
                )
            wanted = series[0]
        else:
            wanted = _tags(path)[_SERIES].strip("\0 ")
        return [Path(file) for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), wanted)]


def _check_evenly_spaced(path: Path, slices: list[dict[str, str]]) -> None:
    positions = np.array([[float(v) for v in tags[_POSITION].split("\\")] for tags in slices])
    rows = np.array([[float(v) for v in tags[_ORIENTATION].split("\\")] for tags in slices])
    if np.abs(rows - rows[0]).max() > 1e-3:
        raise ConversionError(f"{path}: its slices are not parallel (a localizer?); expected a stack of slices")
    normal = np.cross(rows[0, :3], rows[0, 3:])
    gaps = np.diff(np.sort(positions @ normal))
    if gaps.size == 0:
        return
    usual = float(np.median(gaps))
    if (gaps < EVEN * usual).any() or usual == 0:
        raise ConversionError(f"{path}: several slices lie in the same place (a 4D series?); expected a single volume")
    if np.abs(gaps - usual).max() > EVEN * usual:
        raise ConversionError(
            f"{path}: its slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart, so one may be missing; "
            "expected even gaps"
        )


def _tags(path: Path) -> dict[str, str]:
    """The metadata of a DICOM file; empty for what is none."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with _quiet():
            reader.ReadImageInformation()
    except RuntimeError:
        return {}  # Not DICOM: whether it is anything else is for the reader of files to say.
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}


@contextmanager
def _quiet() -> Iterator[None]:
    """ITK's warnings, which are many lines about nothing to be done, left out for a block."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _unreadable(path: Path, error: RuntimeError) -> str:
    reason = _reason(error)
    if "determinant" in reason or "orthonormal" in reason:
        return f"{path}: its direction matrix cannot be inverted ({reason}); expected three independent axes"
    return f"{path}: not readable as an image ({reason}); expected NIfTI, NRRD, MHA or DICOM"


def _reason(error: RuntimeError) -> str:
    """What ITK says, after the place in its source where it says so, in one line."""
    return re.sub(r"^.*(sitk::ERROR|ITK ERROR): (\w+\(0x[0-9a-f]+\): )?", "", " ".join(str(error).split()))[:200]


def _size(image: sitk.Image) -> str:
    return "×".join(map(str, image.GetSize()))
