"""``--continue``: prompts that are stored beside a mask, and clicks that go on from them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from commands import labelled, refusal
from grids import place

from conversion.direct import main as segment_image
from conversion.prompt_file import prompts_path, read_prompt_file, write_prompts
from inference.case import Click, ObjectPrompts
from inference.geometry import Box
from inference.options import DEFAULT_WEIGHTS
from tests.inference.factories import write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt")


def segment(scan: Path, weights: Path, *options: object) -> int:
    return segment_image([str(scan), *map(str, options), "--weights", str(weights), "--device", "cpu"])


def labels_of(mask: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))


@pytest.fixture
def begun(weights: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An image, and a mask of two objects that was made of it."""
    scan, mask = tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz"
    sitk.WriteImage(place((20, 24, 16)), str(scan))
    assert segment(scan, weights, "--box", "2:9,3:12,4:11", "--click", "2:12,18,15", "-o", mask) == 0
    return scan, mask


class TestGoingOn:
    def test_a_real_image_is_what_all_prompts_by_hand_give(self, raw: Path, tmp_path: Path) -> None:
        weights = DEFAULT_WEIGHTS
        scan, mask = tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz"
        image = sitk.ReadImage(str(raw / "mr_adc.nii.gz"))
        x, y, z = (n // 2 for n in image.GetSize())
        sitk.WriteImage(image[x - 25 : x + 25, y - 25 : y + 25, z - 5 : z + 5], str(scan))  # The middle, for speed.
        z, y, x = 5, 25, 25
        box, first, second = f"{z - 2}:{z + 2},{y - 20}:{y + 9},{x - 7}:{x + 15}", f"{z},{y},{x}", f"bg:{z},{y - 9},{x}"
        assert segment(scan, weights, "--box", box, "--click", first, "-o", mask) == 0
        by_hand, continued = tmp_path / "by_hand.nii.gz", tmp_path / "continued.nii.gz"
        clicks = ["--click", first, "--click", second]
        assert segment(scan, weights, "--previous", mask, "--box", box, *clicks, "-o", by_hand) == 0
        assert segment(scan, weights, "--continue", mask, "--click", second, "-o", continued) == 0
        assert 0 < labels_of(mask).mean() < 1
        assert continued.read_bytes() == by_hand.read_bytes() != mask.read_bytes()
        assert prompts_path(continued).read_bytes() == prompts_path(by_hand).read_bytes()

    def test_the_mask_is_replaced_and_further_clicks_come_after_all_others(
        self, begun: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, mask = begun
        for click in ("1:5,7,7", "bg:8,9,9", "2:bg:0,0,0"):
            assert segment(scan, weights, "--continue", mask, "--click", click) == 0
        first, second = read_prompt_file(mask).objects
        assert first == ObjectPrompts(1, Box((2, 3, 4), (9, 12, 11)), (Click((5, 7, 7), True), Click((8, 9, 9), False)))
        assert second == ObjectPrompts(2, None, (Click((12, 18, 15), True), Click((0, 0, 0), False)))
        assert "mask.prompts.json: 1 box(es), 3 click(s) of 2 object(s)" in capsys.readouterr().out
        labels = labels_of(mask)
        assert labels[12, 18, 15] == 2 and labels[8, 9, 9] != 1 and labels[0, 0, 0] != 2

    def test_a_click_that_contradicts_an_earlier_one_is_said_once(
        self, begun: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, mask = begun
        said = []
        for clicks in (["5,7,7"], ["bg:5,7,7"], ["bg:5,7,7"], ["bg:9,9,9", "9,9,9"]):
            words = [word for click in clicks for word in ("--click", f"1:{click}")]
            assert segment(scan, weights, "--continue", mask, *words) == 0
            said.append([line for line in capsys.readouterr().out.splitlines() if "as background" in line])
        line = "object 1: {} (z,y,x) is clicked as foreground and as background; the later click counts, {}"
        assert said == [[], [line.format("5,7,7", "background")], [], [line.format("9,9,9", "foreground")]]
        assert labels_of(mask)[5, 7, 7] != 1 and labels_of(mask)[9, 9, 9] == 1

    def test_an_object_without_a_new_prompt_stays_as_it_is(
        self, begun: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, mask = begun
        edited = sitk.ReadImage(str(mask))
        edited[3, 2, 1] = 1  # By hand, in another program: the network would not say so.
        sitk.WriteImage(edited, str(mask))
        before = labels_of(mask)
        capsys.readouterr()
        assert segment(scan, weights, "--continue", mask, "--click", "2:bg:15,23,19") == 0
        lines = {line[: len("object 1")]: line for line in capsys.readouterr().out.splitlines()}
        gained, lost = (((a == 2) & (b != 2)).sum() for a, b in itertools.permutations((labels_of(mask), before)))
        assert f"+{gained} −{lost}" in lines["object 2"] and lines["object 1"].endswith("; unchanged")
        assert "−" not in lines["object 1"]
        np.testing.assert_array_equal(labels_of(mask) == 1, before == 1)
        assert len(read_prompt_file(mask).objects) == 2

    def test_a_new_box_is_a_new_object(self, begun: tuple[Path, Path], weights: Path) -> None:
        scan, mask = begun
        assert segment(scan, weights, "--continue", mask, "--box", "10:14,1:6,1:7") == 0
        assert [item.label for item in read_prompt_file(mask).objects] == [1, 2, 3]
        assert read_prompt_file(mask).objects[2].box == Box((10, 1, 1), (14, 6, 7))

    def test_the_window_and_the_modality_are_kept(
        self, begun: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, mask = begun
        prompts = ["--box", "2:9,3:12,4:11"]
        assert segment(scan, weights, *prompts, "--modality", "CT", "--window", "lung", "-o", mask) == 0
        assert segment(scan, weights, "--continue", mask, "--click", "5,7,7") == 0
        assert capsys.readouterr().out.count("intensities -910 to 590 become 0 to 255") == 2
        assert segment(scan, weights, "--continue", mask, "--click", "5,7,7", "--window", "bone") == 0
        assert "intensities -500 to 1300" in capsys.readouterr().out
        assert (read_prompt_file(mask).modality, read_prompt_file(mask).window) == ("CT", "bone")

    def test_labels_of_any_size(self, weights: Path, tmp_path: Path) -> None:
        scan, truth, before = labelled(tmp_path, place(), (17, 1035))
        common = ["--previous", truth, "-o", tmp_path / "new.nrrd"]
        assert segment(scan, weights, "--click", "1035:2,5,3", *common) == 0
        assert segment(scan, weights, "--continue", tmp_path / "new.nrrd", "--click", "1035:bg:0,0,0") == 0
        np.testing.assert_array_equal(labels_of(tmp_path / "new.nrrd") == 17, before == 17)
        assert [item.label for item in read_prompt_file(tmp_path / "new.nrrd").objects] == [1035]


class TestRefusals:
    def refused(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        capsys.readouterr()
        return refusal(capsys, *arguments, command=segment_image)

    def test_a_mask_without_prompts(self, begun: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        scan, mask = begun
        said = self.refused(capsys, scan, "--continue", mask.with_name("none.nii.gz"), "--click", "1,2,3")
        assert "none.nii.gz: no such file" in said
        prompts_path(mask).unlink()
        said = self.refused(capsys, scan, "--continue", mask, "--click", "1,2,3")
        assert said.startswith(f"error: {mask}: has no prompts beside it (mask.prompts.json); expected ")

    @pytest.mark.parametrize("other", ["shape", "voxels"])
    def test_another_image(self, other: str, begun: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        scan, mask = begun
        image = sitk.ReadImage(str(scan)) + 1 if other == "voxels" else place((20, 24, 17))
        sitk.WriteImage(image, str(scan.with_name("later.nii.gz")))
        said = self.refused(capsys, scan.with_name("later.nii.gz"), "--continue", mask, "--click", "1,2,3")
        assert f"{prompts_path(mask)}: holds the prompts of another image, scan.nii.gz, " in said
        assert ("17×24×20" in said) == (other == "shape") and ("other values" in said) == (other == "voxels")

    def test_an_image_that_was_renamed_is_the_same(self, begun: tuple[Path, Path], weights: Path) -> None:
        scan, mask = begun
        renamed = scan.rename(scan.with_name("renamed.nii.gz"))
        assert segment(renamed, weights, "--continue", mask, "--click", "1:5,7,7") == 0

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda content: "{", "Expecting property name"),
            (lambda content: "[]", "list indices"),
            (lambda content: content.replace("prompts 1", "prompts 2"), "its format is 'segfm3d prompts 2'"),
            (lambda content: content.replace('"sha256"', '"md5"'), "'sha256' is missing"),
            (lambda content: content.replace('"foreground": true', '"foreground": 1'), "not true or false"),
            (lambda content: content.replace('"label": 2', '"label": 0'), "0 is no label"),
            (lambda content: content.replace('"label": 2', '"label": 1'), "not ascending"),
            (lambda content: content.replace("12,\n", "120,\n"), "lies outside the image"),
            (lambda content: content.replace("12,\n", "12.5,\n"), "not three whole numbers"),
            (lambda content: "[" * 100_000, "recursion"),
        ],
    )
    def test_a_file_that_is_no_prompts(
        self, change, reason: str, begun: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, mask = begun
        path = prompts_path(mask)
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        said = self.refused(capsys, scan, "--continue", mask, "--click", "1,2,3")
        assert said.startswith(f"error: {path}: not readable as prompts (") and reason in said

    def test_a_mask_of_the_same_name_with_another_ending_has_taken_the_prompts(
        self, begun: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, mask = begun
        other = mask.with_name("mask.nrrd")
        assert segment(scan, weights, "--click", "9,9,9", "-o", other) == 0
        said = self.refused(capsys, scan, "--continue", mask, "--click", "1,2,3")
        assert "it holds those of mask.nrrd, which was written later)" in said
        other.unlink()  # As where it was converted.
        assert read_prompt_file(mask).objects[0].clicks == (Click((9, 9, 9), True),)

    def test_contradicting_options(self, begun: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        scan, mask = begun
        said = self.refused(capsys, scan, "--continue", mask, "--previous", mask, "--click", "1,2,3")
        assert "--continue and --previous: expected one of them" in said
        assert "nothing says where to write" in self.refused(capsys, scan, "--click", "1,2,3")


def test_prompts_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask, objects = tmp_path / "mask.nrrd", (ObjectPrompts(1, clicks=(Click((1, 2, 3), True),)),)
    write_prompts(mask, place(), "scan.nrrd", objects)
    path = tmp_path / "mask.prompts.json"
    before = path.read_bytes()
    assert json.loads(before)["image"]["name"] == "scan.nrrd"

    def stop(unfinished: Path, text: str, **_: object) -> None:
        unfinished.write_bytes(text[:20].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(OSError, match="No space"):
        write_prompts(mask, place(), "other.nrrd", objects)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("mask", ["a.nii.gz", "a.nii", "a.NRRD", "a.mha"])
def test_the_name(mask: str) -> None:
    assert prompts_path(Path("folder") / mask) == Path("folder/a.prompts.json")
