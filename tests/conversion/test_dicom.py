"""DICOM series and multi-frame files: each voxel's value and place, and what is no volume."""

from __future__ import annotations

import shutil
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import ALONG, PIXEL, TURNED, phantom, positions, write_frames, write_series

from conversion.volume import ConversionError, modality, read_volume


def assert_lies(image: sitk.Image, values: np.ndarray, places: np.ndarray, orientation: list[float] = ALONG) -> None:
    """Each slice of ``values`` is where its position says, whatever the order of the files was."""
    assert image.GetSize() == values.shape[::-1]
    row, column = np.reshape(orientation, (2, 3))
    stored = sitk.GetArrayViewFromImage(image)
    for plane, place in zip(values, places):
        corner = place + 4 * PIXEL[0] * column + 6 * PIXEL[1] * row
        index = [image.TransformPhysicalPointToContinuousIndex(point) for point in (place, corner)]
        np.testing.assert_allclose(index[0], [0, 0, round(index[0][2])], atol=2e-3)
        np.testing.assert_allclose(index[1], [6, 4, round(index[0][2])], atol=2e-3)
        np.testing.assert_array_equal(stored[round(index[0][2])], plane)


def moved(by: dict[int, list[float]]) -> np.ndarray:
    """Six positions, some of them moved by a vector."""
    places = positions(6)
    for index, vector in by.items():
        places[index] += vector
    return places


def refusal(path: Path, series: int | None = None) -> str:
    with pytest.raises(ConversionError) as caught:
        read_volume(path, series)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and "expected" in message
    return message


@pytest.mark.parametrize("orientation", [ALONG, TURNED], ids=["straight", "oblique"])
@pytest.mark.parametrize("distance", [2.5, -2.5])
class TestPlace:
    def test_series(self, orientation: list[float], distance: float, tmp_path: Path) -> None:
        places = positions(6, distance, orientation)
        paths = write_series(tmp_path, phantom(), places, orientation)
        for path in (tmp_path, paths[3]):
            assert_lies(read_volume(path), phantom(), places, orientation)
        assert modality(read_volume(tmp_path)) == "CT"

    def test_frames_in_any_order(self, orientation: list[float], distance: float, tmp_path: Path) -> None:
        places = positions(6, distance, orientation)[[3, 0, 5, 1, 4, 2]]
        path = write_frames(tmp_path / "a.dcm", phantom(), places, [orientation] * 6)
        for given in (path, tmp_path):
            assert_lies(read_volume(given), phantom(), places, orientation)
        assert modality(read_volume(path)) == "CT"


class TestValues:
    SLOPES = (1, 0.5, 0.25, 2, 4, 100.5)

    def test_each_slice_has_its_own_slope(self, tmp_path: Path) -> None:
        """The first one is 1, by which a reader might take all of them for integers of 16 bits."""
        write_series(tmp_path, phantom(), positions(6), slopes=self.SLOPES)
        expected = phantom() * np.array(self.SLOPES)[:, None, None]
        np.testing.assert_allclose(sitk.GetArrayFromImage(read_volume(tmp_path)), expected)
        assert expected.max() > 20_000

    def test_each_frame_has_its_own_slope(self, tmp_path: Path) -> None:
        path = write_frames(tmp_path / "a.dcm", phantom(), positions(6)[::-1], slopes=self.SLOPES)
        expected = (phantom() * np.array(self.SLOPES)[:, None, None])[::-1]
        np.testing.assert_allclose(sitk.GetArrayFromImage(read_volume(path)), expected)

    def test_values_that_are_shown_inverted_are_what_they_are(self, tmp_path: Path) -> None:
        write_series(tmp_path, phantom(), positions(6), PhotometricInterpretation="MONOCHROME1", RescaleIntercept=-100)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path)), phantom().astype(int) - 100)

    @pytest.mark.parametrize("name", ["RLELossless", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
    def test_compressed(self, name: str, tmp_path: Path) -> None:
        syntax = gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name))
        values = np.tile(phantom(), (1, 8, 8))  # JPEG 2000 has a least size.
        for path in write_series(tmp_path, values, positions(6)):
            reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
            reader.SetFileName(str(path))
            assert reader.Read()
            change.SetTransferSyntax(syntax)
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer.SetFileName(str(path))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
            assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
        assert_lies(read_volume(tmp_path), values, positions(6))


class TestFiles:
    def test_without_a_preamble(self, tmp_path: Path) -> None:
        for path in write_series(tmp_path, phantom(), positions(6)):
            dataset = pydicom.dcmread(path)
            content = pydicom.Dataset({element.tag: element for element in dataset})
            content.save_as(path, implicit_vr=True, little_endian=True)
            assert path.read_bytes()[128:132] != b"DICM"
        assert_lies(read_volume(tmp_path), phantom(), positions(6))

    def test_other_files_in_the_folder_do_no_harm(self, tmp_path: Path) -> None:
        write_series(tmp_path, phantom(), positions(6))
        (tmp_path / "notes.txt").write_text("of a scan")
        (tmp_path / "empty").touch()
        (tmp_path / "binary").write_bytes(b"\x08\x00\x77\x31" + bytes(200))
        assert_lies(read_volume(tmp_path), phantom(), positions(6))


class TestNearlyAVolume:
    @pytest.mark.parametrize("orientation", [ALONG, TURNED], ids=["straight", "oblique"])
    def test_positions_rounded_to_a_tenth(self, orientation: list[float], tmp_path: Path) -> None:
        exact = positions(20, 0.625, orientation)
        write_series(tmp_path, phantom(20), exact.round(1), orientation)
        notes: list[str] = []
        image = read_volume(tmp_path, log=notes.append)
        ends = [image.TransformIndexToPhysicalPoint((0, 0, index)) for index in range(20)]
        assert np.abs(ends - exact).max() < 0.06
        assert len(notes) == 1 and "mm from even places" in notes[0]

    def test_copies_of_slices_are_left_out(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path / "a", phantom(), positions(6))
        shutil.copy(paths[2], tmp_path / "a" / "again.dcm")
        notes: list[str] = []
        assert_lies(read_volume(tmp_path, log=notes.append), phantom(), positions(6))
        assert notes == [f"{tmp_path.name}: 1 of 7 slices are copies of others and left out"]

    def test_orientations_that_differ_in_the_last_digit_and_no_frame_of_reference(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path, phantom(), positions(6), FrameOfReferenceUID="")
        for index, path in enumerate(paths):
            dataset = pydicom.dcmread(path)
            dataset.ImageOrientationPatient = [1, 0, index * 1e-6, 0, 1, 0]
            dataset.save_as(path)
        assert_lies(read_volume(tmp_path), phantom(), positions(6))


class TestNoVolume:
    @pytest.mark.parametrize("write", [write_series, write_frames])
    @pytest.mark.parametrize(
        ("places", "message"),
        [
            (positions(7)[[0, 1, 2, 3, 5, 6]], "1 slice(s) missing between "),
            (positions(6)[[0, 1, 2, 0, 1, 2]], "holds 6 slices in 3 places"),
            (positions(6) + np.outer(np.arange(6) * 0.7, [0, 1, 0]), "stacked at 15.6° from straight"),
            (moved({2: [0, 0, 0.6]}), "its slices are 1.90 to 3.10 mm apart"),
            (moved({2: [0, 3, 0], 5: [0, -3, 0]}), "shifted by"),
        ],
        ids=["missing", "two times", "tilt", "uneven", "zigzag"],
    )
    def test_places(self, write, places: np.ndarray, message: str, tmp_path: Path) -> None:
        path = tmp_path if write is write_series else tmp_path / "a.dcm"
        write(path, phantom(), places)
        assert message in refusal(path)

    def test_the_missing_place_is_named(self, tmp_path: Path) -> None:
        write_series(tmp_path, phantom(), positions(7)[[0, 1, 2, 3, 5, 6]])
        assert "between 003.dcm and 002.dcm, 5.00 mm apart where others are 2.50" in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("keyword", "value"),
        [("ImagePositionPatient", [0, 0]), ("ImageOrientationPatient", [1, 0, 0]), ("PixelSpacing", [1, 1, 1])],
    )
    def test_a_slice_that_says_it_in_too_few_or_too_many_numbers(
        self, keyword: str, value: list[float], tmp_path: Path
    ) -> None:
        path = write_series(tmp_path, phantom(), positions(6))[2]
        dataset = pydicom.dcmread(path)
        dataset[keyword].value = value
        dataset.save_as(path)
        with pytest.raises(ConversionError, match=f"{path.name}: does not say where it lies; expected {keyword}, "):
            read_volume(tmp_path)

    def test_frames_that_say_it_in_too_few_numbers(self, tmp_path: Path) -> None:
        path = write_frames(tmp_path / "a.dcm", phantom(), positions(6))
        dataset = pydicom.dcmread(path)
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0]
        dataset.save_as(path)
        assert "its frames do not all say where they lie (other numbers than three and six)" in refusal(path)

    def test_a_distance_counted_against_the_normal(self, tmp_path: Path) -> None:
        write_series(tmp_path, phantom(1), positions(1), SpacingBetweenSlices=-4)
        assert read_volume(tmp_path).GetSpacing()[2] == 4

    def test_planes_in_several_directions(self, tmp_path: Path) -> None:
        coronal = [1, 0, 0, 0, 0, -1]
        path = write_frames(tmp_path / "a.dcm", phantom(), positions(6), [ALONG] * 4 + [coronal] * 2)
        assert "in 2 planes (4 + 2" in refusal(path)

    def test_a_tilt_of_half_a_degree_is_not_let_pass(self, tmp_path: Path) -> None:
        places = positions(20) + np.outer(np.arange(20) * 2.5 * np.tan(np.radians(0.5)), [0, 1, 0])
        write_series(tmp_path, phantom(20), places)
        assert "at 0.5° from straight" in refusal(tmp_path)

    @pytest.mark.parametrize("index", [0, 3])
    def test_a_truncated_slice_is_named(self, index: int, tmp_path: Path) -> None:
        path = write_series(tmp_path, phantom(), positions(6))[index]
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ConversionError, match=f"{path.name}: damaged or no image .*; expected a whole DICOM file"):
            read_volume(tmp_path)

    def test_a_file_cut_off_in_its_header_is_named(self, tmp_path: Path) -> None:
        path = write_series(tmp_path, phantom(), positions(6))[0]
        path.write_bytes(path.read_bytes()[:150])
        with pytest.raises(ConversionError, match=f"{path.name}: damaged"):
            read_volume(tmp_path)

    def test_frames_that_do_not_say_where_they_lie(self, tmp_path: Path) -> None:
        path = write_frames(tmp_path / "a.dcm", phantom(), positions(6))
        dataset = pydicom.dcmread(path)
        del dataset.PerFrameFunctionalGroupsSequence
        dataset.save_as(path)
        assert "its 6 frames do not say where they lie" in refusal(path)

    def test_nothing_but_a_segmentation(self, tmp_path: Path) -> None:
        write_series(tmp_path, phantom(), positions(6), Modality="SEG")
        assert "no DICOM slices in it, only SEG" in refusal(tmp_path)
        assert "a DICOM SEG" in refusal(tmp_path / "001.dcm")

    def test_colour(self, tmp_path: Path) -> None:
        write_series(tmp_path, phantom(), positions(6), PhotometricInterpretation="PALETTE COLOR")
        with pytest.raises(ConversionError, match="is in colour"):
            read_volume(tmp_path)


class TestSeveralSeries:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Path:
        study = tmp_path / "study"
        study.mkdir()
        write_series(study / "a", phantom(), positions(6), SeriesNumber=4, SeriesDescription="Thorax 2.5")
        write_series(study / "b", phantom() + 1, positions(6), SeriesNumber=2, SeriesDescription="Scout", Modality="MR")
        return study

    def test_they_are_listed(self, study: Path) -> None:
        listed = "2 (MR 'Scout', 6 slices); 4 (CT 'Thorax 2.5', 6 slices)"
        assert refusal(study).endswith(f"holds 2 DICOM series; expected --series with one of: {listed}")
        assert "none of them 3; expected --series with one of: 2 (" in refusal(study, 3)

    def test_one_is_chosen(self, study: Path) -> None:
        assert sitk.GetArrayFromImage(read_volume(study, 4)).min() == 0
        assert sitk.GetArrayFromImage(read_volume(study, 2)).min() == 1

    def test_without_numbers_they_are_counted(self, study: Path) -> None:
        write_series(study / "c", phantom() + 2, positions(6))
        assert "; 3 (CT without a description, 6 slices, first c/" in refusal(study)
        assert sitk.GetArrayFromImage(read_volume(study, 3)).min() == 2

    def test_a_slice_stands_for_its_series(self, study: Path) -> None:
        shutil.copy(study / "b" / "001.dcm", study / "a" / "other.dcm")
        assert read_volume(study / "a" / "003.dcm").GetSize() == (7, 5, 6)

    def test_not_for_other_formats(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkUInt8), str(tmp_path / "a.nrrd"))
        assert "not DICOM; expected --series with a folder" in refusal(tmp_path / "a.nrrd", 3)
