"""The commands as people run them: an image to a case, and a case's result to a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from commands import labelled, refusal
from grids import place, rotation

from conversion.__main__ import main
from conversion.volume import check_same_grid, read_volume
from evaluation.cases import read_evaluation_case
from evaluation.simulated_user import box_from_mask
from inference.case import Click, read_case, write_segmentation
from inference.geometry import Box


class TestToCase:
    def test_what_was_typed_is_what_inference_reads(self, image_file: Path, tmp_path: Path) -> None:
        case_path = tmp_path / "CT_scan.npz"
        prompts = ["--box", "1:3,2:6,1:4", "--box", "0:4,0:8,0:6", "--click", "2:4,5,6", "--click", "bg:1,1,1"]
        assert main(["make", str(image_file), "-o", str(case_path), "--modality", "CT", *prompts]) == 0
        case = read_case(case_path)
        assert case.notes == ()
        assert case.spacing == pytest.approx((3.1, 1.3, 0.7))
        assert [item.box for item in case.objects] == [Box((1, 2, 1), (3, 6, 4)), Box((0, 0, 0), (4, 8, 6))]
        assert case.objects[0].clicks == (Click((1, 1, 1), False),)
        assert case.objects[1].clicks == (Click((4, 5, 6), True),)
        raw = sitk.GetArrayFromImage(read_volume(image_file)).astype(float)
        assert np.abs(case.image - (np.clip(raw, -160, 240) + 160) / 400 * 255).max() <= 0.5 + 1e-9
        # The evaluator hands an empty mask to the first run with clicks.
        assert case.previous is not None and not case.previous.any()

    def test_order_of_clicks_is_kept(self, image_file: Path, tmp_path: Path) -> None:
        clicks = ["1,1,1", "bg:2,2,2", "2:3,3,3", "bg:0,0,0", "1:4,4,4"]
        arguments = [word for click in clicks for word in ("--click", click)]
        assert main(["make", str(image_file), "-o", str(tmp_path / "case.npz"), *arguments]) == 0
        first, second = read_case(tmp_path / "case.npz").objects
        assert [(click.position[0], click.positive) for click in first.clicks] == [
            (1, True),
            (2, False),
            (0, False),
            (4, True),
        ]
        assert [click.position for click in second.clicks] == [(3, 3, 3)]

    def test_a_mask_becomes_truth_and_boxes_as_the_challenge_makes_them(self, tmp_path: Path) -> None:
        scan, truth, labels = labelled(tmp_path, place(direction=rotation()), labels=(3, 9))
        assert main(["make", str(scan), "-o", str(tmp_path / "case.npz"), "--mask", str(truth)]) == 0
        case = read_evaluation_case(tmp_path / "case.npz")
        np.testing.assert_array_equal(case.truth, np.select([labels == 3, labels == 9], [1, 2]))
        random = np.random.default_rng(0)
        with np.load(tmp_path / "case.npz", allow_pickle=True) as written:
            assert list(written["boxes"]) == [box_from_mask(labels == label, random) for label in (3, 9)]

    def test_a_previous_mask_is_handed_on(self, tmp_path: Path) -> None:
        scan, truth, labels = labelled(tmp_path, place())
        arguments = ["--previous", str(truth), "--click", "2:bg:0,0,0"]
        assert main(["make", str(scan), "-o", str(tmp_path / "case.npz"), *arguments]) == 0
        case = read_case(tmp_path / "case.npz")
        np.testing.assert_array_equal(case.previous, labels)
        assert [len(item.clicks) for item in case.objects] == [0, 1]

    def test_labels_with_gaps_and_beyond_255_come_back(self, tmp_path: Path) -> None:
        scan, truth, labels = labelled(tmp_path, place(), labels=(17, 1035))
        case, back = tmp_path / "case.npz", tmp_path / "back.nii.gz"
        for option in ("--mask", "--previous"):
            assert main(["make", str(scan), "-o", str(case), option, str(truth)]) == 0
            numbered = np.select([labels == 17, labels == 1035], [1, 2]).astype(np.uint8)
            with np.load(case) as written:
                np.testing.assert_array_equal(written["gts" if option == "--mask" else "prev_pred"], numbered)
            write_segmentation(tmp_path / "result.npz", numbered)
            start = ["read", str(tmp_path / "result.npz"), "--like", str(scan), "-o", str(back)]
            assert main([*start, "--case", str(case)]) == 0
            np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(back))), labels)

    def test_what_is_no_case_and_no_result(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        scan, _, _ = labelled(tmp_path, place())
        result, empty, array, nothing = (tmp_path / name for name in ("r.npz", "empty.npz", "a.npy", "nothing.npz"))
        write_segmentation(result, sitk.GetArrayFromImage(read_volume(scan)).astype(np.uint8))
        empty.touch()
        np.save(array, np.zeros(3))
        np.savez(nothing, segs=np.zeros((0, 5, 5), np.uint8))
        start = ("read", result, "--like", scan, "-o", tmp_path / "back.nrrd", "--case")
        assert "empty.npz: not a readable .npz file" in self.refused(capsys, *start, empty)
        assert "a.npy: not a readable .npz file" in self.refused(capsys, *start, array)
        assert "expected a label map" in self.refused(capsys, "read", nothing, *start[2:-1])

    def test_dicom_says_itself_that_it_is_ct(self, raw: Path, tmp_path: Path) -> None:
        scan = raw / "dicom_ct_head"
        assert main(["make", str(scan), "-o", str(tmp_path / "a.npz"), "--box", "1:9,1:9,1:9"]) == 0
        arguments = ["--box", "1:9,1:9,1:9", "--window", "400,40"]
        assert main(["make", str(scan), "-o", str(tmp_path / "b.npz"), *arguments]) == 0
        np.testing.assert_array_equal(read_case(tmp_path / "a.npz").image, read_case(tmp_path / "b.npz").image)

    def test_refusals(self, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        case = tmp_path / "case.npz"
        start = ("make", image_file, "-o", case)
        box = ("--box", "1:2,1:2,1:2")
        assert "nothing says what to segment" in self.refused(capsys, *start)
        assert "expected a --box for each object" in self.refused(capsys, *start, *box, "--click", "2:1,1,1")
        assert "--window nosuch: no such window" in self.refused(capsys, *start, *box, "--window", "nosuch")
        assert "ends in .npz" in refusal(capsys, "make", image_file, "-o", tmp_path / "case.nii", *box)
        assert "no such file" in refusal(capsys, "make", tmp_path / "none.nii", "-o", case, *box)
        assert "is the image itself" in refusal(capsys, "make", image_file, "-o", case, "--mask", image_file)
        empty = sitk.GetImageFromArray(np.zeros((5, 9, 7), np.uint8))
        empty.CopyInformation(read_volume(image_file))
        sitk.WriteImage(empty, str(tmp_path / "empty.nrrd"))
        assert "is empty" in self.refused(capsys, *start, "--mask", tmp_path / "empty.nrrd")
        _, elsewhere, _ = labelled(tmp_path, place())
        assert "lies elsewhere than the image" in self.refused(capsys, *start, "--mask", elsewhere)

    @pytest.mark.parametrize("said", ["CT", "ct", "MRI", "PT", "pet", "ultrasound"])
    def test_modalities_as_people_call_them(self, said: str, image_file: Path, tmp_path: Path) -> None:
        arguments = ["--modality", said, "--box", "1:2,1:2,1:2"]
        assert main(["make", str(image_file), "-o", str(tmp_path / "case.npz"), *arguments]) == 0

    def test_a_name_of_another_modality(
        self, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start = ("make", image_file, "-o", tmp_path / "PET_x.npz", "--box", "1:2,1:2,1:2")
        assert "is named PET, but the image is MR" in refusal(capsys, *start, "--modality", "MR")
        assert main([*map(str, start), "--modality", "PT"]) == 0

    def test_as_many_labels_as_prompted_objects(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        scan, truth, _ = labelled(tmp_path, place())
        arguments = ("make", scan, "-o", tmp_path / "case.npz", "--mask", truth, "--box", "1:2,1:2,1:2")
        assert "2 label(s) for 1 object(s)" in self.refused(capsys, *arguments)

    @staticmethod
    def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        capsys.readouterr()
        return refusal(capsys, *arguments)


class TestFromCase:
    @pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
    def test_a_real_image_there_and_back(self, real_file: Path, ending: str, tmp_path: Path) -> None:
        """Image -> case -> a result of the case's shape -> mask: each voxel where it was, in space too."""
        case, mask = tmp_path / "case.npz", tmp_path / f"mask{ending}"
        assert main(["make", str(real_file), "-o", str(case), "--box", "2:9,20:40,30:50"]) == 0
        labels = (read_case(case).image > 100).astype(np.uint8)
        write_segmentation(tmp_path / "result.npz", labels)
        assert main(["read", str(tmp_path / "result.npz"), "--like", str(real_file), "-o", str(mask)]) == 0
        image, written = read_volume(real_file), sitk.ReadImage(str(mask))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), labels)
        check_same_grid(mask, written, image)
        resampled = sitk.Resample(written, image, sitk.Transform(), sitk.sitkNearestNeighbor)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(resampled), labels)

    def test_refusals(self, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = ("-o", tmp_path / "mask.nii.gz")
        write_segmentation(tmp_path / "other.npz", np.zeros((2, 3, 4), np.uint8))
        np.savez(tmp_path / "case.npz", imgs=np.zeros((5, 9, 7), np.uint8))
        (tmp_path / "broken.npz").write_bytes(b"PK")
        start = ("read", tmp_path / "other.npz", "--like")
        assert "is (2, 3, 4), scan.nrrd is (5, 9, 7)" in refusal(capsys, *start, image_file, *out)
        said = refusal(capsys, "read", tmp_path / "case.npz", "--like", image_file, *out)
        assert "case.npz: is a case, not a result; segfm3d predict makes results" in said
        np.savez(tmp_path / "neither.npz", other=np.zeros((5, 9, 7), np.uint8))
        assert "no key 'segs'" in refusal(capsys, "read", tmp_path / "neither.npz", "--like", image_file, *out)
        assert "not a readable" in refusal(capsys, "read", tmp_path / "broken.npz", "--like", image_file, *out)
        assert "unknown ending" in refusal(capsys, *start, image_file, "-o", tmp_path / "mask.stl")
        before = image_file.read_bytes()
        assert main([*map(str, start), str(image_file), "-o", str(image_file)]) == 2
        assert "is the image itself" in capsys.readouterr().err and image_file.read_bytes() == before
