"""NIfTI: the header has nibabel's word, and a mask is given the image's own header.

Programs differ in which of a header's two affines (sform, qform) they take, and in what they make of a file without
either. A mask with the same forms, codes and units lies on its image in all of them.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from conversion.errors import ConversionError, described_axes
from conversion.file_types import NO_ORIENTATION, OTHER_AFFINE, is_gzip

HEADER = "nifti_header"
"""Where an image that was NIfTI keeps its header, among its metadata, in hexadecimal digits."""

RIGHT_ANGLES = 0.1
"""Axes are at right angles if the nearest grid that has such lies nowhere further off than this part of a voxel."""

NOTED = 0.01
"""From this part of a voxel on, it is said."""

UNITS = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
"""Millimetres."""

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ERRORS = (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, KeyError, zlib.error)


def read_nifti(path: Path, log: Callable[[str], None] = print) -> sitk.Image:
    """Reads NIfTI-1 or NIfTI-2, compressed or not, whatever its name says of that; or a pair of files.

    Args:
        log: takes a line about what was found and does no harm.

    Returns:
        the image where nibabel has it, on the nearest grid of right angles. It keeps its header for
        :func:`write_nifti`.

    Raises:
        ConversionError: damaged, not one grey value a voxel in three axes, or without a usable place.
    """
    with _quiet():
        try:
            image, header = _load(path)
            shape = image.shape
            while len(shape) > 3 and shape[-1] == 1:  # Many programs store a single volume as the first of a series.
                shape = shape[:-1]
            _check_kind(path, shape, image.header.get_data_dtype())
            values = np.asanyarray(image.dataobj).reshape(shape, order="F")
        except ConversionError:
            raise
        except _ERRORS as error:
            raise ConversionError(
                f"{path}: not a whole NIfTI file ({' '.join(str(error).split())[:200]}); expected one: copy it again"
            ) from error
        result = sitk.GetImageFromArray(_plain(values, image.header.get_data_dtype()).T)
        _place(path, result, header, log)
    return result


def write_nifti(path: Path, labels: NDArray[np.unsignedinteger], like: sitk.Image) -> None:
    """Writes a label map, with the header of the image if that was NIfTI.

    Args:
        path: compressed if it ends in ``.gz``.
        labels: (D, H, W).
    """
    with _quiet():
        if like.HasMetaDataKey(HEADER):
            content = bytes.fromhex(like.GetMetaData(HEADER))
            kind = nibabel.Nifti1Image if len(content) == 348 else nibabel.Nifti2Image
            header = kind.header_class(content, check=False)
            header.set_data_dtype(labels.dtype)
            header.set_intent("none")
            header["cal_min"] = header["cal_max"] = 0
            mask = kind(labels.T, None, header)
            mask.header["pixdim"] = header["pixdim"]  # Which nibabel repairs, and other programs read otherwise.
        else:
            affine = _LPS @ affine_of(like)
            mask = nibabel.Nifti1Image(labels.T, affine)
            mask.set_sform(affine, "scanner")
            mask.set_qform(affine, "scanner")
            mask.header.set_xyzt_units("mm")
        content = mask.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, 6, mtime=0)
    path.write_bytes(content)


def affine_of(image: sitk.Image) -> NDArray[np.float64]:
    """Voxel (x, y, z) -> LPS, mm, as a matrix (4, 4)."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def _load(path: Path) -> tuple[nibabel.Nifti1Pair, nibabel.Nifti1Header]:
    """The image, and the header as it is in the file, before nibabel repairs it."""
    if path.name.lower().endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise ImageFileError(f"{type(image).__name__}, which does not say where it lies")
        return image, image.header
    # From memory: nibabel would stop reading where the voxels end, and the checksum comes after them.
    content = path.read_bytes()
    if is_gzip(path):
        content = gzip.decompress(content)
    kind = nibabel.Nifti2Image if content[4:7] == b"n+2" else nibabel.Nifti1Image
    return kind.from_bytes(content), kind.header_class.from_fileobj(io.BytesIO(content), check=False)


def _check_kind(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 3:
        raise ConversionError(f"{path}: has {described_axes(shape)}; expected a single volume of three axes")
    if dtype.kind == "V":
        raise ConversionError(
            f"{path}: has {len(dtype.names or ())} values a voxel (colour or vectors); expected one grey value"
        )
    if dtype.kind == "c":
        raise ConversionError(f"{path}: holds complex numbers; expected real ones, for example their magnitude")


def _plain(values: NDArray, stored: np.dtype) -> NDArray:
    """Values of a type that ITK has: scaled integers as float32."""
    if values.dtype.kind == "f" and (stored.kind != "f" or values.dtype.itemsize < 4):
        return values.astype(np.float32)
    if values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _place(path: Path, image: sitk.Image, header: nibabel.Nifti1Header, log: Callable[[str], None]) -> None:
    """Gives an image its place, and says what of it is unusual."""
    image.SetMetaData(HEADER, header.as_byteswapped("<").binaryblock.hex())
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        log(f"{path.name}: its unit is {unit}; its lengths are taken times {UNITS[unit]:g}, in mm")
    scale = np.diag([UNITS[unit]] * 3 + [1.0])
    known = header.copy()
    sizes = np.array(header["pixdim"][1:4], float)
    qform, sform = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    if not qform and not sform:
        image.SetMetaData(NO_ORIENTATION, "no form has a code")
    if (sizes == 0).any() and not sform:
        log(f"{path.name}: says that its voxels are 0 mm along {_axes(sizes == 0)}; taken as 1")
        known["pixdim"][1:4] = np.where(sizes == 0, 1, sizes)
    try:
        affine = scale @ known.get_best_affine()
        other = _other_affine(known, qform, sform)
    except _ERRORS as error:
        raise ConversionError(
            f"{path}: does not say where it lies ({error}); expected a valid sform or qform"
        ) from error
    direction, off = _right_angles(path, _LPS @ affine, image.GetSize())
    if off > NOTED:
        log(f"{path.name}: its axes are not quite at right angles; those of the nearest grid are {off:.2g} voxels off")
    image.SetSpacing(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    image.SetDirection(direction.ravel().tolist())
    half = (np.array(image.GetSize()) - 1) / 2
    centre = (_LPS @ affine @ [*half, 1.0])[:3]
    image.SetOrigin((centre - direction @ (half * image.GetSpacing())).tolist())
    if other is not None:
        apart = np.abs((affine - scale @ other) @ _corners(image.GetSize())).max()
        if apart > NOTED * min(image.GetSpacing()):
            image.SetMetaData(OTHER_AFFINE, " ".join(map(repr, (_LPS @ scale @ other).ravel().tolist())))
            if qform and sform:
                log(
                    f"{path.name}: its sform and its qform disagree by up to {apart:.1f} mm; the sform is taken, as "
                    "nibabel does, and the mask keeps both"
                )


def _other_affine(header: nibabel.Nifti1Header, qform: bool, sform: bool) -> NDArray[np.float64] | None:
    """What ITK may take where nibabel takes another affine (RAS, in the header's unit)."""
    if qform and sform:
        try:
            return header.get_qform()
        except _ERRORS:
            return None  # Then no program can take it.
    if not qform and not sform:
        return _LPS @ np.diag([*np.array(header["pixdim"][1:4], float), 1.0])
    return None


def _right_angles(path: Path, affine: NDArray[np.float64], size: tuple[int, ...]) -> tuple[NDArray[np.float64], float]:
    """The nearest axes at right angles, as columns, and how many voxels off a corner is for it at most."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (spacing > 0).all()):
        raise ConversionError(f"{path}: its spacing, origin or direction is not finite; expected a place in space")
    axes = affine[:3, :3] / spacing
    if abs(np.linalg.det(axes)) < 1e-3:
        raise ConversionError(f"{path}: its direction matrix cannot be inverted; expected three independent axes")
    left, _, right = np.linalg.svd(axes)
    nearest = left @ right
    half = (np.array(size) - 1) / 2
    off = ((axes - nearest) * spacing) @ (_corners(size)[:3] - half[:, None])
    worst = float(np.linalg.norm(off, axis=0).max() / spacing.min())
    if worst > RIGHT_ANGLES:
        cosines = axes.T @ axes - np.eye(3)
        angle = 90 - math.degrees(math.acos(min(np.abs(cosines).max(), 1.0)))
        raise ConversionError(
            f"{path}: its axes are not at right angles (by {angle:.1f}°, {worst:.1f} voxels at a corner); expected a "
            "grid that is not sheared: resample it"
        )
    return nearest, worst


def _corners(size: tuple[int, ...]) -> NDArray[np.float64]:
    """The eight corner voxels, (4, 8), homogeneous."""
    x, y, z = (np.array([0.0, n - 1.0]) for n in size)
    grid = np.meshgrid(x, y, z, indexing="ij")
    return np.stack([*(axis.ravel() for axis in grid), np.ones(8)])


def _axes(which: NDArray[np.bool_]) -> str:
    return ", ".join(name for name, chosen in zip("xyz", which) if chosen)


@contextmanager
def _quiet() -> Generator[None]:
    """Nibabel's log, where it repeats what is said here or repairs what does no harm, left out for a block."""
    log = logging.getLogger("nibabel.global")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
