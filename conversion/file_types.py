"""What a file is, by its first bytes: its name may say something else."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

MODALITY = "0008|0060"
"""Where an image that was DICOM keeps its modality among its metadata, as ITK calls the tag."""

OTHER_AFFINE = "other_affine"
"""Where an image keeps the affine, (4, 4) by rows, LPS, mm, that other programs may read of its file instead."""

NO_ORIENTATION = "no_orientation"
"""Among the metadata of an image whose file does not say how the patient lies in it."""

_FIRST_ELEMENTS = (b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x16\x00", b"\x18\x00")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, with its preamble or, as old ones are, without."""
    with path.open("rb") as file:
        start = file.read(132)
    # Without one, it begins with one of the first elements of group 2 or 8, whose values are short.
    group, element = start[:2], start[2:4]
    return start[128:] == b"DICM" or (group in (b"\x02\x00", b"\x08\x00") and element in _FIRST_ELEMENTS)


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI, compressed or not, or one of the two of a pair of Analyze or NIfTI."""
    if path.name.lower().endswith((".hdr", ".img", ".img.gz", ".hdr.gz")):
        return True
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return True  # Its own reader says what is wrong with it, if anything is.
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            start = file.read(352)
    except (OSError, EOFError, zlib.error):
        return False
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"
