"""NIfTI headers as they are in the field: an image and its mask have one affine, in nibabel and in ITK."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from grids import rotation
from nibabel.affines import from_matvec

from conversion.masks import read_labels
from conversion.volume import ConversionError, read_volume, write_mask

SHAPE = (7, 9, 5)
"""Voxels along x, y, z."""
STRAIGHT = from_matvec(np.diag([-0.8, -0.9, 2.5]), [20.5, -31.25, -100.0])
OBLIQUE = from_matvec(rotation() @ np.diag([0.8, 0.9, 2.5]), [33.0, -29.5, -89.0])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def values(dtype: type = np.int16) -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def write(
    path: Path,
    sform: np.ndarray | None = STRAIGHT,
    qform: np.ndarray | None = STRAIGHT,
    kind: type = nibabel.Nifti1Image,
    unit: str = "mm",
    data: np.ndarray | None = None,
) -> Path:
    """Writes an image with these forms, or with the code of none."""
    header = kind.header_class()
    header["pixdim"][:4] = 1, 0.8, 0.9, 2.5
    data = values() if data is None else data
    header.set_data_dtype(data.dtype)
    image = kind(data, sform if sform is not None else qform, header)
    image.set_sform(sform, 2 if sform is not None else 0)
    image.set_qform(qform, 1 if qform is not None else 0)
    image.header.set_xyzt_units(unit)
    path.write_bytes(gzip.compress(image.to_bytes()) if path.suffix == ".gz" else image.to_bytes())
    return path


def ends(image: sitk.Image) -> np.ndarray:
    """The first and the last voxel in patient space, RAS mm."""
    last = [n - 1 for n in image.GetSize()]
    return np.array([image.TransformIndexToPhysicalPoint(index) for index in ([0, 0, 0], last)]) * [-1, -1, 1]


def refusal(path: Path) -> str:
    with pytest.raises(ConversionError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and "expected" in message
    return message


FORMS = {
    "both": (STRAIGHT, STRAIGHT),
    "sform": (OBLIQUE, None),
    "qform": (None, OBLIQUE),
    "disagreeing": (OBLIQUE, STRAIGHT),
    "none": (None, None),
}


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("forms", FORMS)
class TestPlace:
    def test_an_image_lies_where_nibabel_has_it(self, forms: str, kind: type, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii.gz", *FORMS[forms], kind)
        image = read_volume(path)
        expected = nibabel.load(path).affine @ np.array([[0, 0, 0, 1], [*(n - 1 for n in SHAPE), 1]]).T
        np.testing.assert_allclose(ends(image), expected[:3].T, atol=1e-4)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values().T, strict=True)

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_a_mask_lies_there_for_every_program(self, forms: str, kind: type, ending: str, tmp_path: Path) -> None:
        path = write(tmp_path / f"a{ending}", *FORMS[forms], kind, unit="micron")
        mask = tmp_path / f"mask{ending}"
        labels = (values().T % 3).astype(np.uint8)
        write_mask(mask, labels, read_volume(path))
        before, after = nibabel.load(path).header, nibabel.load(mask).header
        for key in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "srow_y", "srow_z"):
            np.testing.assert_array_equal(after[key], before[key])
        np.testing.assert_array_equal(after.get_qform(), before.get_qform())
        np.testing.assert_array_equal(nibabel.load(mask).affine, nibabel.load(path).affine)
        np.testing.assert_array_equal(np.asanyarray(nibabel.load(mask).dataobj), labels.T, strict=True)
        np.testing.assert_array_equal(read_labels(mask, read_volume(path))[0], labels)
        if kind is nibabel.Nifti1Image:  # ITK does not read the other.
            np.testing.assert_array_equal(ends(sitk.ReadImage(str(mask))), ends(sitk.ReadImage(str(path))))

    def test_a_mask_with_the_affine_that_nibabel_shows_is_the_images(
        self, forms: str, kind: type, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "a.nii.gz", *FORMS[forms], kind)
        nibabel.save(nibabel.Nifti1Image(values(np.uint8) % 3, nibabel.load(path).affine), tmp_path / "mask.nii.gz")
        assert read_labels(tmp_path / "mask.nii.gz", read_volume(path))[1] == (1, 2)


@pytest.mark.parametrize("forms", ["none", "disagreeing"])
def test_a_mask_that_lies_where_itk_has_the_image_is_the_images(
    forms: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As 3D Slicer saves it."""
    path = write(tmp_path / "a.nii", *FORMS[forms])
    mask = sitk.ReadImage(str(path)) > 5
    sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
    labels, _ = read_labels(tmp_path / "mask.nrrd", read_volume(path))
    np.testing.assert_array_equal(labels, (values() > 5).T)
    assert "mask.nrrd: lies where ITK has the image" in capsys.readouterr().out


class TestNotes:
    @staticmethod
    def notes(path: Path) -> list[str]:
        said: list[str] = []
        read_volume(path, log=said.append)
        return said

    def test_nothing_is_said_of_an_ordinary_file(self, tmp_path: Path) -> None:
        for forms in ("both", "sform", "qform", "none"):
            assert self.notes(write(tmp_path / "a.nii", *FORMS[forms])) == []

    def test_forms_that_disagree(self, tmp_path: Path) -> None:
        (note,) = self.notes(write(tmp_path / "a.nii", STRAIGHT, STRAIGHT + _shift(3)))
        assert "sform and its qform disagree by up to 3.0 mm; the sform is taken" in note

    @pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("meter", 1e3)])
    def test_a_unit_that_is_not_millimetres(self, unit: str, factor: float, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii", unit=unit)
        assert f"its unit is {unit}" in self.notes(path)[0]
        np.testing.assert_allclose(read_volume(path).GetSpacing(), np.array([0.8, 0.9, 2.5]) * factor, rtol=1e-6)

    def test_axes_not_quite_at_right_angles(self, tmp_path: Path) -> None:
        sheared = STRAIGHT.copy()
        sheared[1, 2] = 0.025  # Over four voxels of z, half of 0.1 mm to either side.
        path = write(tmp_path / "a.nii", sheared, None)
        assert "axes are not quite at right angles" in self.notes(path)[0]
        corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in SHAPE), 1]]).T
        assert np.abs(ends(read_volume(path)) - (sheared @ corners)[:3].T).max() < 0.06

    def test_a_size_of_zero(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii", None, STRAIGHT)
        image = nibabel.load(path, mmap=False)
        content = bytearray(path.read_bytes())
        content[80:84] = bytes(4)  # pixdim[1]
        path.write_bytes(content)
        assert "voxels are 0 mm along x; taken as 1" in self.notes(path)[0]
        assert read_volume(path).GetSpacing() == pytest.approx((1, 0.9, 2.5))
        write_mask(tmp_path / "mask.nii", values(np.uint8).T, read_volume(path))
        assert (tmp_path / "mask.nii").read_bytes()[76:108] == bytes(content[76:108])
        assert image.shape == SHAPE


class TestFiles:
    def test_the_file_that_was_named_is_read(self, tmp_path: Path) -> None:
        write(tmp_path / "scan.nii", data=values() + 100)
        write(tmp_path / "scan.nii.gz")
        assert sitk.GetArrayFromImage(read_volume(tmp_path / "scan.nii.gz")).min() == 0
        assert sitk.GetArrayFromImage(read_volume(tmp_path / "scan.nii")).min() == 100

    @pytest.mark.parametrize(("written", "named"), [("a.nii", "b.nii.gz"), ("a.nii.gz", "b.nii"), ("a.nii.gz", "b")])
    def test_compressed_or_not_whatever_the_name(self, written: str, named: str, tmp_path: Path) -> None:
        shutil.copy(write(tmp_path / written), tmp_path / named)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / named)), values().T)

    def test_a_pair(self, tmp_path: Path) -> None:
        nibabel.save(nibabel.Nifti1Pair(values(), OBLIQUE), tmp_path / "a.img")
        for name in ("a.img", "a.hdr"):
            np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / name)), values().T)

    def test_big_endian_and_scaled(self, tmp_path: Path) -> None:
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values(np.float64) / 7, OBLIQUE, header), tmp_path / "a.nii")
        np.testing.assert_allclose(sitk.GetArrayFromImage(read_volume(tmp_path / "a.nii")), values().T / 7, atol=1e-3)

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("kept", [0.5, 0.99])
    def test_truncated(self, ending: str, kept: float, tmp_path: Path) -> None:
        path = write(tmp_path / f"a{ending}")
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        assert "not a whole NIfTI file" in refusal(path)

    def test_a_checksum_that_does_not_fit(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii.gz")
        content = path.read_bytes()
        path.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
        assert "CRC" in refusal(path)

    def test_no_nifti(self, tmp_path: Path) -> None:
        (tmp_path / "a.nii.gz").write_bytes(b"hello")
        assert "not a whole NIfTI file" in refusal(tmp_path / "a.nii.gz")


class TestNoPlace:
    def test_sheared_axes(self, tmp_path: Path) -> None:
        sheared = STRAIGHT.copy()
        sheared[1, 2] = 2.5 * np.tan(np.radians(15))
        assert "axes are not at right angles (by 15.0°" in refusal(write(tmp_path / "a.nii", sheared, None))

    def test_axes_that_repeat(self, tmp_path: Path) -> None:
        singular = STRAIGHT.copy()
        singular[:, 2] = singular[:, 0]
        path = write(tmp_path / "a.nii", OBLIQUE, None)
        content = bytearray(path.read_bytes())
        content[280:328] = singular[:3].astype("<f4").tobytes()
        path.write_bytes(content)
        assert "cannot be inverted" in refusal(path)


@pytest.mark.parametrize("scaled", [np.array([0, 0.99999, 2.00002]), np.array([0.0005, 1, 2])])
def test_labels_that_were_scaled_are_rounded(scaled: np.ndarray, tmp_path: Path) -> None:
    image = read_volume(write(tmp_path / "a.nii"))
    write(tmp_path / "mask.nii", data=scaled[values() % 3].astype(np.float32))
    labels, ids = read_labels(tmp_path / "mask.nii", image)
    np.testing.assert_array_equal(labels, (values() % 3).T.astype(np.uint8), strict=True)
    assert ids == (1, 2)


def _shift(by: float) -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[0, 3] = by
    return shift
