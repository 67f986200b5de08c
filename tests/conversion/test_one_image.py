"""``segfm3d segment IMAGE``: an image to a mask in one go."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from commands import labelled, refusal
from grids import place

from conversion import direct
from conversion.__main__ import main
from conversion.direct import main as segment
from conversion.source import Source
from conversion.volume import check_same_grid, read_volume
from inference.__main__ import main as predict
from inference.case import ObjectPrompts
from inference.refinement import ObjectReport
from tests.inference.factories import write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt")


class TestOneGo:
    def test_an_image_becomes_a_mask_and_a_picture(
        self, image_file: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mask, picture = tmp_path / "mask.nii.gz", tmp_path / "preview.png"
        options = ["-o", str(mask), "--preview", str(picture), "--weights", str(weights), "--device", "cpu"]
        prompts = ["--box", "1:3,2:6,1:4", "--click", "2:2,7,5"]
        assert segment([str(image_file), *prompts, *options]) == 0
        said = capsys.readouterr()
        assert said.out.startswith("scan.nrrd: 5×9×7 voxels (z×y×x), intensities ") and "objects: 100%" in said.err
        assert f"{mask}: written, and its prompts in " in said.out and f"{picture}: written\n" in said.out
        check_same_grid(mask, sitk.ReadImage(str(mask)), read_volume(image_file))
        assert (tmp_path / "mask.prompts.json").is_file()
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(picture))).std() > 10

    def test_it_is_what_the_longer_way_gives(self, image_file: Path, weights: Path, tmp_path: Path) -> None:
        """A case is made, the folder of it segmented, and the result read."""
        prompts = ["--box", "1:3,2:6,1:4", "--box", "0:2,0:3,3:6", "--click", "bg:2,3,3"]
        common = ["--weights", str(weights), "--device", "cpu"]
        assert segment([str(image_file), *prompts, "-o", str(tmp_path / "direct.nrrd"), *common]) == 0
        (tmp_path / "in").mkdir()
        assert main(["make", str(image_file), "-o", str(tmp_path / "in" / "case.npz"), *prompts]) == 0
        folders = ["--inputs", str(tmp_path / "in"), "--outputs", str(tmp_path / "out")]
        # The challenge's clock starts with the process, which here is as old as the tests.
        assert predict([*folders, "--seconds-per-class", "1e6", *common]) == 0
        result = tmp_path / "out" / "case.npz"
        assert main(["read", str(result), "--like", str(image_file), "-o", str(tmp_path / "long.nrrd")]) == 0
        direct, long = (sitk.ReadImage(str(tmp_path / name)) for name in ("direct.nrrd", "long.nrrd"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(direct), sitk.GetArrayFromImage(long))
        assert len(np.unique(sitk.GetArrayFromImage(direct))) > 1

    @pytest.mark.parametrize("labels", [(1, 3), (3, 1), (17, 1035)], ids=str)
    def test_objects_without_a_new_prompt_stay_as_they_are(
        self, labels: tuple[int, int], weights: Path, tmp_path: Path
    ) -> None:
        """The first one is clicked; no object is invented, and the other one keeps every voxel."""
        scan, truth, before = labelled(tmp_path, place(), labels)
        common = ["--previous", str(truth), "--weights", str(weights), "--device", "cpu", "-o"]
        clicks = [f"--click={labels[0]}:4,0,0", f"--click={labels[0]}:bg:2,1,2"]
        assert segment([str(scan), *clicks, *common, str(tmp_path / "new.nii.gz")]) == 0
        after = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "new.nii.gz")))
        assert set(np.unique(after)) <= {0, *labels}
        np.testing.assert_array_equal(after == labels[1], before == labels[1])
        assert after[4, 0, 0] == labels[0] and after[2, 1, 2] != labels[0]

    def test_a_click_in_an_object_that_stays_gets_its_voxel(self, weights: Path, tmp_path: Path) -> None:
        scan, truth, before = labelled(tmp_path, place())
        common = ["--previous", str(truth), "--weights", str(weights), "--device", "cpu"]
        assert segment([str(scan), "--click", "1:2,5,3", *common, "-o", str(tmp_path / "new.nrrd")]) == 0
        after = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "new.nrrd")))
        assert before[2, 5, 3] == 2 and after[2, 5, 3] == 1
        assert ((before == 2) & (after != 2)).sum() == 1

    @pytest.mark.parametrize("label", [5, 255])
    def test_a_lone_object_takes_the_click_and_keeps_its_label(self, label: int, weights: Path, tmp_path: Path) -> None:
        scan, truth, _ = labelled(tmp_path, place(), (label,))
        arguments = ["--previous", str(truth), "--click", "2,2,3", "--weights", str(weights), "--device", "cpu"]
        assert segment([str(scan), *arguments, "-o", str(tmp_path / "new.nrrd")]) == 0
        assert np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "new.nrrd")))).tolist() == [0, label]

    def test_without_a_prompt_a_mask_is_what_it_was(
        self, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, truth, before = labelled(tmp_path, place())
        common = ["--weights", str(weights), "--device", "cpu", "-o", str(truth)]
        assert segment([str(scan), "--previous", str(truth), *common]) == 0
        assert f"{truth}: replaced, and its prompts in truth.prompts.json\n" in capsys.readouterr().out
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(truth))), before)

    def test_refusals(
        self, image_file: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start = (image_file, "-o", tmp_path / "mask.nii.gz")
        box = ("--box", "1:2,1:2,1:2")

        def refused(*arguments: object) -> str:
            capsys.readouterr()
            return refusal(capsys, *arguments, command=segment)

        assert "nothing says what to segment" in refused(*start, "--weights", weights)
        assert "no such file; expected weights" in refused(*start, *box, "--weights", tmp_path / "none.pt")
        assert "ends in .png" in refused(*start, *box, "--preview", tmp_path / "preview.svg")
        (tmp_path / "file").write_text("")
        assert "cannot be written" in refused(*start, *box, "--preview", tmp_path / "file" / "preview.png")
        assert not (tmp_path / "mask.nii.gz").exists()
        assert "no such file or folder" in refused(tmp_path / "scan.dcm", *box, "-o", tmp_path / "mask.nrrd")
        (tmp_path / "README.md").write_text("Weights")
        assert "not readable as weights" in refused(*start, *box, "--weights", tmp_path / "README.md")
        for device in ("gpu", "cuda:99"):
            assert f"device '{device}': " in refused(*start, *box, "--weights", weights, "--device", device)

    def test_what_is_wrong_with_the_image_is_said_before_torch_is_imported(
        self, image_file: Path, tmp_path: Path
    ) -> None:
        for image, box in [(tmp_path / "none.nrrd", "1:2,1:2,1:2"), (image_file, "9:9,1:2,1:2")]:
            program = (
                "import sys, segfm3d\n"
                f"words = [{str(image)!r}, '--box', {box!r}, '-o', {str(tmp_path / 'mask.nrrd')!r}]\n"
                "code = segfm3d.main(['segment', *words])\n"
                "print(code, sorted({'torch', 'matplotlib'} & set(sys.modules)))"
            )
            finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
            assert finished.stdout.splitlines()[-1] == "2 []"
            assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1

    def test_an_object_that_another_took_voxels_from_is_not_unchanged(self) -> None:
        labels = np.zeros((3, 4, 5), np.uint8)
        labels[0, 0, :2] = 1
        before = labels.copy()
        labels[0, 0, 1] = 2
        source = Source(place(), labels, (ObjectPrompts(1), ObjectPrompts(2)), before)
        first, second = direct.described(labels, source, {2: ObjectReport(0.1, "cpu")})
        assert "+0 −1" in first and first.endswith("; nothing new was said of it")
        assert "+1 −0" in second

    def test_each_object_has_a_line_of_its_size_and_what_it_took(self) -> None:
        """Voxels of 0.7 × 1.3 × 3.1 mm."""
        labels = np.zeros((5, 9, 7), np.uint16)
        labels[1:4, 2:8, 3:5] = 300
        labels[0, 0, 0] = 7
        objects = tuple(ObjectPrompts(label) for label in (2, 7, 300))
        source = Source(place(), np.zeros(labels.shape, np.uint8), objects, None)
        late = ("no time for the fine pass", "no time for the guided filter", "no time for the fine pass")
        reports = {2: ObjectReport(0.04, "cpu"), 300: ObjectReport(12.34, "cuda", late)}
        assert list(direct.described(labels, source, reports)) == [
            "object 2: nothing found; 0.0 s on cpu",
            "object 7: 0.00282 ml (1 voxels), extent 3.10 × 1.30 × 0.700 mm (1×1×1 voxels, z×y×x); unchanged",
            "object 300: 0.102 ml (36 voxels), extent 9.30 × 7.80 × 1.40 mm (3×6×2 voxels, z×y×x); 12.3 s on cuda; "
            "no time for the fine pass, no time for the guided filter",
        ]

    def test_what_each_object_gained_and_lost_is_said_beside_its_size(self) -> None:
        before, labels = np.zeros((2, 5, 9, 7), np.uint16)
        before[0, 0, :5], labels[0, 0, 2:6] = 300, 300
        before[1, 0, :3], labels[2, 0, :2] = 2, 7
        before[3, 0, 0] = labels[3, 0, 0] = 9
        before[4, 0, :2], labels[4, 0, :1] = 11, 11
        objects = tuple(ObjectPrompts(label) for label in (2, 7, 9, 11, 300))
        source = Source(place(), np.zeros(labels.shape, np.uint8), objects, before)
        reports = {label: ObjectReport(0.0, "cpu") for label in (2, 7, 300)}
        lines = list(direct.described(labels, source, reports))
        assert lines[0] == "object 2: nothing found (+0 −3 voxels); 0.0 s on cpu"
        assert [re.search(r"\((\d+ voxels.*?)\)", line)[1] for line in lines[1:]] == [
            "2 voxels, +2 −0",
            "1 voxels",
            "1 voxels, +0 −1",  # Another object's click took a voxel of it.
            "4 voxels, +1 −2",
        ]

    def test_a_case_file_is_for_other_commands(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.savez(tmp_path / "case.npz", imgs=np.zeros((2, 3, 4), np.uint8))
        said = refusal(capsys, tmp_path / "case.npz", command=segment)
        assert "case.npz: is a case file, not an image; segfm3d predict --inputs FOLDER" in said
        assert said == refusal(capsys, "make", tmp_path / "case.npz", "--box", "0,0,0", "-o", tmp_path / "new.npz")

    def test_lines_name_objects_as_the_mask_does(
        self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Beyond 255 they have other numbers inside."""
        scan, truth, _ = labelled(tmp_path, place(), (17, 1035))
        monkeypatch.setattr("inference.predictor.Predictor.expected_seconds", lambda *_: 1e9)
        common = ["--previous", str(truth), "--weights", str(weights), "--device", "cpu", "-o"]
        assert segment([str(scan), "--click", "1035:2,5,3", *common, str(tmp_path / "new.nrrd")]) == 0
        said = capsys.readouterr().out
        assert "object 1035: taking its previous mask" in said and "object 2:" not in said
        assert re.search(r"^object 1035: .* ml .* s on cpu; no time for a patch of .*, taking its previous", said, re.M)
        assert re.search(r"^object 17: .*; unchanged$", said, re.M)

    @pytest.mark.parametrize("link", [False, True])
    def test_the_image_is_not_written_over(
        self, link: bool, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before, output = image_file.read_bytes(), image_file
        if link:
            output = tmp_path / "linked.nrrd"
            output.symlink_to(image_file)
        assert segment([str(image_file), "--box", "1:2,1:2,1:2", "-o", str(output)]) == 2
        assert "is the image itself" in capsys.readouterr().err
        assert image_file.read_bytes() == before and output.is_symlink() == link

    def test_what_cannot_be_written_is_said_before_anything_runs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sheared = np.eye(3)
        sheared[:, 2] = (0.6, 0, 0.8)
        sitk.WriteImage(place(direction=sheared), str(tmp_path / "scan.nrrd"))
        arguments = (tmp_path / "scan.nrrd", "--box", "1:2,1:2,1:2", "--weights", tmp_path / "none.pt")
        said = refusal(capsys, *arguments, "-o", tmp_path / "mask.nii.gz", command=segment)
        assert said.startswith(f"error: {tmp_path / 'mask.nii.gz'}: this format cannot hold the image's directions")
        assert [path.name for path in tmp_path.iterdir()] == ["scan.nrrd"]

    def test_a_result_that_cannot_be_written_is_kept_elsewhere(
        self, image_file: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        """The disk is full when it comes to it."""
        write, output = direct.write_mask, tmp_path / "mask.nrrd"

        def full(path: Path, *rest: object) -> None:
            if path == output:
                raise OSError(28, "No space left on device")
            write(path, *rest)

        monkeypatch.setattr(direct, "write_mask", full)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        arguments = ["--click", "2,2,3", "--weights", str(weights), "--device", "cpu", "-o", str(output)]
        assert segment([str(image_file), *arguments]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "No space left" in said and not output.exists()
        kept = Path(said.rpartition("kept in ")[2])
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(kept)))[2, 2, 3] == 1
