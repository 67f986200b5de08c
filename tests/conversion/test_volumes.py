"""Every format there and back: the same voxels in the same place; and what cannot be read is said in a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from grids import place, rotation

from conversion.masks import read_labels, renumber, restore_ids
from conversion.volume import ConversionError, check_same_grid, corners, modality, read_volume, write_mask

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")


def blobs(image: sitk.Image) -> np.ndarray:
    """A label map of three labels that no flip or permutation leaves as it is."""
    shape = image.GetSize()[::-1]
    return np.random.default_rng(1).choice([0, 0, 0, 1, 2, 3], shape).astype(np.uint8)


def refusal(path: Path) -> str:
    with pytest.raises(ConversionError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and "expected" in message
    return message


def assert_there(mask_path: Path, labels: np.ndarray, image: sitk.Image) -> None:
    """The mask's voxels are ``labels``, and SimpleITK, resampling in space, finds each where the image has it."""
    mask = sitk.ReadImage(str(mask_path))
    assert mask.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), labels)
    np.testing.assert_allclose(corners(mask), corners(image), atol=1e-3)
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), rtol=1e-6)
    resampled = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(resampled), labels)


@pytest.mark.parametrize("ending", FORMATS)
def test_mask_lies_where_a_real_image_lies(real_file: Path, ending: str, tmp_path: Path) -> None:
    image = read_volume(real_file)
    labels = blobs(image)
    write_mask(tmp_path / f"mask{ending}", labels, image)
    assert_there(tmp_path / f"mask{ending}", labels, image)


@pytest.mark.parametrize("ending", FORMATS)
def test_mask_lies_where_an_awkward_image_lies(awkward: sitk.Image, ending: str, tmp_path: Path) -> None:
    labels = blobs(awkward)
    write_mask(tmp_path / f"mask{ending}", labels, awkward)
    assert_there(tmp_path / f"mask{ending}", labels, awkward)


@pytest.mark.parametrize("ending", FORMATS)
def test_image_is_read_as_it_was_written(awkward: sitk.Image, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(awkward, str(path))
    image = read_volume(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(awkward))
    check_same_grid(path, image, awkward)


def test_dicom_series_is_the_stack_of_its_slices(raw: Path) -> None:
    """Each slice's own ImagePositionPatient is where the volume has its first voxel."""
    image = read_volume(raw / "dicom_prostate_adc_oblique")
    assert modality(image) == "MR"
    found = set()
    for path in (raw / "dicom_prostate_adc_oblique").iterdir():
        single = sitk.ReadImage(str(path))
        index = image.TransformPhysicalPointToIndex(single.GetOrigin())
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), single.GetOrigin(), atol=0.01)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[index[2]], sitk.GetArrayFromImage(single)[0])
        found.add(index[2])
    assert found == set(range(image.GetSize()[2]))


def test_any_slice_stands_for_its_series(raw: Path, tmp_path: Path) -> None:
    for name in ("dicom_ct_head", "dicom_prostate_adc_oblique"):
        for path in (raw / name).iterdir():
            shutil.copy(path, tmp_path / path.name)
    assert "holds 2 DICOM series" in refusal(tmp_path)
    one = tmp_path / min((raw / "dicom_ct_head").iterdir()).name
    assert read_volume(one).GetSize() == (64, 64, 93)
    assert modality(read_volume(one)) == "CT"


def test_one_volume_of_a_time_series_is_a_volume(tmp_path: Path) -> None:
    volume = place()
    sitk.WriteImage(sitk.JoinSeries([volume]), str(tmp_path / "scan.nii.gz"))
    check_same_grid(tmp_path / "scan.nii.gz", read_volume(tmp_path / "scan.nii.gz"), volume)


class TestRefusals:
    def test_missing(self, tmp_path: Path) -> None:
        assert "no such file" in refusal(tmp_path / "scan.nii.gz")

    def test_not_an_image(self, tmp_path: Path) -> None:
        (tmp_path / "scan.nrrd").write_bytes(b"hello")
        assert "not readable as an image" in refusal(tmp_path / "scan.nrrd")

    def test_truncated(self, tmp_path: Path) -> None:
        sitk.WriteImage(place((40, 40, 40)), str(tmp_path / "scan.nrrd"))
        (tmp_path / "scan.nrrd").write_bytes((tmp_path / "scan.nrrd").read_bytes()[:5000])
        assert "not readable as an image" in refusal(tmp_path / "scan.nrrd")

    def test_folder_without_slices(self, tmp_path: Path) -> None:
        assert "no DICOM slices" in refusal(tmp_path)

    def test_time_series(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.JoinSeries([place(), place()]), str(tmp_path / "scan.nii.gz"))
        assert "has 4 axes (2×5×9×7, t×z×y×x)" in refusal(tmp_path / "scan.nii.gz")

    def test_picture(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image([4, 4], sitk.sitkUInt8), str(tmp_path / "picture.png"))
        assert "has 2 axes" in refusal(tmp_path / "picture.png")

    def test_colour(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(tmp_path / "scan.mha"))
        assert "has 3 values a voxel" in refusal(tmp_path / "scan.mha")

    def test_complex(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), str(tmp_path / "scan.nii"))
        assert "complex" in refusal(tmp_path / "scan.nii")

    @pytest.mark.parametrize("ending", [".mha", ".nrrd"])
    def test_direction_that_cannot_be_inverted(self, ending: str, tmp_path: Path) -> None:
        """No library writes such a file, so its header is written by hand: the third axis repeats the first."""
        header = {
            ".mha": "ObjectType = Image\nNDims = 3\nBinaryData = True\nTransformMatrix = 1 0 0 0 1 0 1 0 0\n"
            "Offset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
            "ElementDataFile = LOCAL\n",
            ".nrrd": "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
            "space directions: (1,0,0) (0,1,0) (1,0,0)\nencoding: raw\nspace origin: (0,0,0)\n\n",
        }[ending]
        (tmp_path / f"scan{ending}").write_bytes(header.encode() + bytes(8))
        assert "direction matrix cannot be inverted" in refusal(tmp_path / f"scan{ending}")

    def test_missing_slice(self, raw: Path, tmp_path: Path) -> None:
        files = sorted((raw / "dicom_prostate_adc_oblique").iterdir())
        for path in [*files[:7], *files[8:]]:
            shutil.copy(path, tmp_path / path.name)
        assert "1 slice(s) missing between" in refusal(tmp_path)

    def test_dicom_segmentation(self, raw: Path) -> None:
        assert "DICOM SEG" in refusal(raw / "dicom_prostate_adc_oblique_SEG.dcm")


class TestMasks:
    @pytest.mark.parametrize(("step", "dtype"), [(50, np.uint8), (517, np.uint16), (70_000, np.uint32)])
    @pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
    def test_labels_are_read_and_numbered_and_restored(
        self, step: int, dtype: type, ending: str, tmp_path: Path
    ) -> None:
        image = place()
        labels = blobs(image).astype(dtype) * dtype(step)
        write_mask(tmp_path / f"mask{ending}", labels, image)
        found, ids = read_labels(tmp_path / f"mask{ending}", image)
        np.testing.assert_array_equal(found, labels, strict=True)
        assert ids == (step, 2 * step, 3 * step)
        numbered = renumber(found, ids)
        np.testing.assert_array_equal(numbered, (labels // step).astype(np.uint8), strict=True)
        np.testing.assert_array_equal(restore_ids(numbered, ids), labels, strict=True)

    def test_a_map_of_more_labels_than_objects_can_be(self, tmp_path: Path) -> None:
        image = place()
        write_mask(tmp_path / "mask.nrrd", np.arange(315, dtype=np.uint16).reshape(5, 9, 7), image)
        with pytest.raises(ConversionError, match="holds 314 labels; expected at most 255"):
            read_labels(tmp_path / "mask.nrrd", image)

    def test_a_rounded_origin_is_let_pass_and_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        image = place(direction=rotation())
        mask = sitk.Cast(image * 0, sitk.sitkUInt8)
        mask.SetOrigin(np.add(image.GetOrigin(), (0.007, 0, 0)))
        sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
        read_labels(tmp_path / "mask.nrrd", image)
        assert "mask.nrrd: lies 0.01 voxels off the image" in capsys.readouterr().out

    def test_a_segmentation_of_3d_slicer_may_be_cropped(self, tmp_path: Path) -> None:
        """It is the part of the map around its segments, which may reach over the image's edge."""
        image = place(direction=rotation())
        labels = np.zeros((5, 9, 7), np.uint8)
        labels[1:3, 2:6, 0:4] = blobs(image)[1:3, 2:6, 0:4]
        write_mask(tmp_path / "whole.nrrd", labels, image)
        cropped = sitk.ConstantPad(sitk.ReadImage(str(tmp_path / "whole.nrrd"))[:4, 2:6, 1:3], [2, 0, 0], [0, 0, 0])
        sitk.WriteImage(cropped, str(tmp_path / "a.seg.nrrd"))
        np.testing.assert_array_equal(read_labels(tmp_path / "a.seg.nrrd", image)[0], labels)
        cropped.SetOrigin(np.add(cropped.GetOrigin(), 0.3))
        sitk.WriteImage(cropped, str(tmp_path / "b.seg.nrrd"))
        with pytest.raises(ConversionError, match="lies elsewhere"):
            read_labels(tmp_path / "b.seg.nrrd", image)

    def test_a_segmentation_in_layers_names_the_way(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image([7, 9, 5], sitk.sitkVectorUInt8, 2), str(tmp_path / "a.seg.nrrd"))
        with pytest.raises(ConversionError, match=r"several layers.*Export to new labelmap"):
            read_labels(tmp_path / "a.seg.nrrd", place())

    @pytest.mark.parametrize("change", ["size", "origin", "spacing", "direction", "flip"])
    def test_mask_of_another_geometry(self, change: str, tmp_path: Path) -> None:
        image = place(direction=rotation())
        mask = sitk.Cast(image * 0, sitk.sitkUInt8)
        if change == "size":
            mask = mask[:-1]
        elif change == "origin":
            mask.SetOrigin(np.add(image.GetOrigin(), (0.1, 0, 0)))
        elif change == "spacing":
            mask.SetSpacing(np.multiply(image.GetSpacing(), (1, 1.02, 1)))
        elif change == "direction":
            mask.SetDirection(np.eye(3).ravel())
        else:  # The same box of space, stored from the other end.
            mask = mask[::-1]
        sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
        with pytest.raises(ConversionError, match=r"mask\.nrrd: (is|lies elsewhere)"):
            read_labels(tmp_path / "mask.nrrd", image)

    @pytest.mark.parametrize("values", [(-1, 0), (0, 3e9), (0, 1.5), (0, np.nan)])
    def test_what_is_no_label_map(self, values: tuple[float, float], tmp_path: Path) -> None:
        image = place()
        content = np.resize(np.array(values, np.float32), image.GetSize()[::-1])
        mask = sitk.GetImageFromArray(content)
        mask.CopyInformation(image)
        sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
        with pytest.raises(ConversionError, match="expected whole numbers"):
            read_labels(tmp_path / "mask.nrrd", image)

    def test_sheared_axes_need_a_format_that_holds_them(self, tmp_path: Path) -> None:
        sheared = np.eye(3)
        sheared[:, 2] = (0.6, 0, 0.8)
        image = place(direction=sheared)
        with pytest.raises(ConversionError, match=r"expected \.nrrd or \.mha"):
            write_mask(tmp_path / "mask.nii.gz", blobs(image), image)
        assert list(tmp_path.iterdir()) == []
        write_mask(tmp_path / "mask.nrrd", blobs(image), image)
        assert_there(tmp_path / "mask.nrrd", blobs(image), image)

    def test_an_older_mask_is_kept_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        image = place()
        write_mask(tmp_path / "mask.nrrd", blobs(image), image)
        before = (tmp_path / "mask.nrrd").read_bytes()
        with pytest.raises(ConversionError, match="label map is"):
            write_mask(tmp_path / "mask.nrrd", blobs(image)[1:], image)
        assert (tmp_path / "mask.nrrd").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["mask.nrrd"]

    @pytest.mark.parametrize("name", ["A.NII.GZ", "a.nii.nii.gz", "a.b.NRRD", "a.Mha", "A.Nii"])
    def test_capitals_and_several_endings(self, name: str, tmp_path: Path) -> None:
        image = place()
        write_mask(tmp_path / name, blobs(image), image)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        np.testing.assert_array_equal(read_labels(tmp_path / name, image)[0], blobs(image))

    @pytest.mark.parametrize("name", ["mask.png", "mask"])
    def test_where_a_mask_cannot_be_written(self, name: str, tmp_path: Path) -> None:
        image = place()
        with pytest.raises(ConversionError, match="expected one"):
            write_mask(tmp_path / name, blobs(image), image)
