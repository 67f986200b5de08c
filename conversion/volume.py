"""Images of any format on disk, with their place in the patient: read, compare, write.

Arrays are (z, y, x), the order in which SimpleITK stores voxels; points in millimetres are (x, y, z) in ITK's patient
space, which is LPS: x grows to the patient's left, y to the back (posterior), z to the head (superior).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from conversion.errors import ConversionError, described_axes
from conversion.file_types import MODALITY, NO_ORIENTATION, OTHER_AFFINE, is_dicom, is_nifti
from evaluation.orientation import Ends, axis_ends

MASK_FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Formats that keep voxels and geometry in one file."""

_READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}
"""ITK finds them by a name's end in small letters only."""

SAME_PLACE = 0.005
"""Two grids are the same if no corner is further apart than this part of a voxel: files round their headers."""

NEARLY = 0.05
"""Up to this part of a voxel a mask is taken to be the image's as well, and it is said."""


def read_volume(path: Path, series: int | None = None, log: Callable[[str], None] = print) -> sitk.Image:
    """Reads a 3D image of one value a voxel.

    Args:
        path: a file of any format that SimpleITK knows, or DICOM as :func:`conversion.dicom.read_dicom` takes it.
        series: which DICOM series of a folder of several.
        log: takes a line about what was found and does no harm.

    Raises:
        ConversionError: missing, unreadable, not 3D, several values a voxel, or without a usable geometry.
    """
    if not path.exists():
        raise ConversionError(f"{path}: no such file or folder; expected an image")
    check_is_no_case(path)
    unknown = False
    # Each reader when it is needed: all of them take seconds to be imported.
    if path.is_dir() or is_dicom(path):
        from conversion.dicom import read_dicom

        image = read_dicom(path, series, log)
    elif series is not None:
        raise ConversionError(f"{path}: not DICOM; expected --series with a folder of several series only")
    elif is_nifti(path):
        from conversion.nifti import read_nifti

        image = read_nifti(path, log)
    else:
        image = _read_file(path)
        unknown = _lacks_orientation(image)  # Before an axis is taken off, and the metadata with it.
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]  # Many programs store a single volume as the first of a series.
    if unknown:
        image.SetMetaData(NO_ORIENTATION, "the format or the header does not say it")
    if image.GetDimension() != 3:
        raise ConversionError(f"{path}: has {described_axes(image.GetSize())}; expected a single volume of three axes")
    if image.GetNumberOfComponentsPerPixel() != 1:
        count = image.GetNumberOfComponentsPerPixel()
        raise ConversionError(f"{path}: has {count} values a voxel (colour or vectors); expected one grey value")
    if "complex" in image.GetPixelIDTypeAsString():
        raise ConversionError(f"{path}: holds complex numbers; expected real ones, for example their magnitude")
    # SimpleITK itself refuses singular directions; what a format can still smuggle in are values that are no numbers.
    if not np.isfinite([*image.GetDirection(), *image.GetOrigin(), *image.GetSpacing()]).all():
        raise ConversionError(f"{path}: its spacing, origin or direction is not finite; expected a place in space")
    return image


def check_is_no_case(path: Path) -> None:
    """Checks that a file is not one of the challenge's, which other commands take.

    Raises:
        ConversionError: it is; it says which commands.
    """
    if path.suffix.lower() == ".npz" and path.is_file():
        raise ConversionError(
            f"{path}: is a case file, not an image; segfm3d predict --inputs FOLDER --outputs FOLDER segments a folder "
            f"of them, segfm3d view {path} shows it"
        )


def modality(image: sitk.Image) -> str | None:
    """The modality that DICOM says an image has; None for other formats."""
    return (image.GetMetaData(MODALITY) or None) if image.HasMetaDataKey(MODALITY) else None


def patient_ends(image: sitk.Image) -> tuple[Ends, Ends, Ends] | None:
    """What the ends of the array's axes z, y, x point to in the patient; None where the file does not say it."""
    if image.HasMetaDataKey(NO_ORIENTATION):
        return None
    return axis_ends(np.array(image.GetDirection()).reshape(3, 3))


def _lacks_orientation(image: sitk.Image) -> bool:
    """Whether a file says nothing of the patient: NRRD of no anatomical space, and pictures such as TIFF."""
    said = {key: image.GetMetaData(key) for key in ("NRRD_space", "ITK_InputFilterName") if image.HasMetaDataKey(key)}
    reader = said.get("ITK_InputFilterName")
    if reader == "NrrdImageIO":
        return not re.match(r"(left|right)-(anterior|posterior)-(superior|inferior)", said.get("NRRD_space", ""))
    return reader not in ("MetaImageIO", "MINCImageIO")


def check_same_grid(path: Path, mask: sitk.Image, image: sitk.Image, log: Callable[[str], None] = print) -> None:
    """Checks that a mask's voxels are the image's.

    Args:
        path: the mask's file, for the message.
        log: takes a line about a difference that is small enough to be let pass.

    Raises:
        ConversionError: they are others; it says in what.
    """
    if mask.GetSize() != image.GetSize():
        raise ConversionError(f"{path}: is {_size(mask)} voxels; expected the image's {_size(image)} (z×y×x)")
    ends = corners(mask)
    apart = np.abs(ends - corners(image)).max() / min(image.GetSpacing())
    if apart <= SAME_PLACE:
        return
    if apart <= NEARLY:
        log(f"{path.name}: lies {apart:.2g} voxels off the image, which is taken for rounding")
    elif _lies_as_others_read(ends, image):
        log(f"{path.name}: lies where ITK has the image (3D Slicer, ITK-SNAP), which is where it is taken to lie")
    else:
        raise ConversionError(
            f"{path}: lies elsewhere than the image (a corner is {apart:.2g} voxels off); expected the same origin, "
            "spacing and direction: resample it onto the image, or save it from the same program again"
        )


def _lies_as_others_read(ends: NDArray[np.float64], image: sitk.Image) -> bool:
    if not image.HasMetaDataKey(OTHER_AFFINE):
        return False
    affine = np.array(image.GetMetaData(OTHER_AFFINE).split(), float).reshape(4, 4)
    x, y, z = image.GetSize()
    voxels = np.array([(i, j, k, 1) for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
    return bool(np.abs((voxels @ affine.T)[:, :3] - ends).max() <= NEARLY * min(image.GetSpacing()))


def corners(image: sitk.Image) -> NDArray[np.float64]:
    """The centres of the eight corner voxels in patient space, (8, 3) millimetres."""
    ends = [(0, n - 1) for n in image.GetSize()]
    return np.array([image.TransformIndexToPhysicalPoint((x, y, z)) for x in ends[0] for y in ends[1] for z in ends[2]])


def check_mask_name(path: Path, *inputs: Path) -> None:
    """Checks, before any work is done, that a mask may be written to ``path``.

    Args:
        inputs: files and folders that must not be written over.

    Raises:
        ConversionError: an unknown ending, a folder, or one of the inputs.
    """
    if not path.name.lower().endswith(MASK_FORMATS):
        raise ConversionError(f"{path}: unknown ending; expected one of {', '.join(MASK_FORMATS)}")
    if path.is_dir():
        raise ConversionError(f"{path}: is a folder; expected the name of a file to write")
    if path.exists() and any(path.samefile(other) for other in inputs if other.exists()):
        raise ConversionError(f"{path}: is the image itself, which the mask would replace; expected another name")


def check_mask_can_be_written(path: Path, like: sitk.Image) -> None:
    """Checks it by writing an empty mask beside it, which is removed again; a folder that is not there is made.

    Raises:
        ConversionError: the folder cannot be written, or the format cannot hold the image's directions.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
            write_mask(Path(folder) / path.name, np.zeros(like.GetSize()[::-1], np.uint8), like)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be written ({error.strerror}); expected another folder") from error
    except ConversionError as error:
        raise ConversionError(str(error).replace(f"{folder}/", f"{path.parent}/")) from error


def write_mask(path: Path, labels: NDArray[np.unsignedinteger], like: sitk.Image) -> None:
    """Writes a label map where ``like`` lies, whole or not at all, compressed.

    Args:
        path: its ending chooses the format, see :data:`MASK_FORMATS`; a folder that is not there is made.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        # A plain name: SimpleITK takes the format from it, and knows neither capitals nor several endings.
        unfinished = Path(folder) / f"mask{next(e for e in MASK_FORMATS if path.name.lower().endswith(e))}"
        try:
            _write(unfinished, labels, like)
            check_same_grid(path, read_volume(unfinished, log=_ignore), like, _ignore)
        except ConversionError:
            raise ConversionError(
                f"{path}: this format cannot hold the image's directions (they are not at right angles); "
                "expected .nrrd or .mha"
            ) from None
        except RuntimeError as error:
            raise ConversionError(f"{path}: cannot be written ({_reason(error)})") from error
        unfinished.chmod(0o644)
        unfinished.replace(path)


def _write(path: Path, labels: NDArray[np.unsignedinteger], like: sitk.Image) -> None:
    if path.name.endswith((".nii", ".nii.gz")):
        from conversion.nifti import write_nifti

        return write_nifti(path, labels, like)
    mask = sitk.GetImageFromArray(labels)
    mask.SetOrigin(like.GetOrigin())
    mask.SetSpacing(like.GetSpacing())
    mask.SetDirection(like.GetDirection())
    with _quiet():
        sitk.WriteImage(mask, str(path), useCompression=True)


def _ignore(_: str) -> None:
    """For what a reader says of a file that we wrote: it has been said of the image."""


def _read_file(path: Path) -> sitk.Image:
    with _quiet():
        try:
            return sitk.ReadImage(str(path), imageIO=_READERS.get(path.suffix.lower(), ""))
        except RuntimeError as error:
            raise ConversionError(_unreadable(path, error)) from error


@contextmanager
def _quiet() -> Generator[None]:
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
    """Voxels along z, y, x."""
    return "×".join(map(str, image.GetSize()[::-1]))
