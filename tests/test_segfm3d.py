"""The one command: words in any order, exit codes, one line for an error, and nothing loaded before it is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nilearn import datasets

import segfm3d
from inference.command import Parser, run
from tests.inference.factories import write_weights

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "segfm3d"]
SHAPE = (8, 10, 12)
SUB_COMMANDS = [*(name for name in segfm3d.COMMANDS if name not in ("case", "weights")), "case make", "case read"]
SUB_COMMANDS += ["weights info", "weights convert", "weights export"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt"))


@pytest.fixture
def scan(tmp_path: Path) -> str:
    """A bright block in noise."""
    image = np.random.default_rng(0).normal(50, 5, SHAPE).astype(np.float32)
    image[2:6, 3:8, 4:9] += 100
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "scan.nii.gz"))
    return str(tmp_path / "scan.nii.gz")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with 2 and one line; returns the line."""

    def refused(*words: object) -> str:
        capsys.readouterr()
        try:
            code = segfm3d.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        error = capsys.readouterr().err
        assert code == 2, error
        assert error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return refused


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class TestHelp:
    def test_the_list_and_the_module_load_neither_torch_nor_numpy(self) -> None:
        code = (
            "import contextlib, sys, segfm3d\n"
            "with contextlib.suppress(SystemExit): segfm3d.main(['--help'])\n"
            "print(sorted({'torch', 'numpy', 'SimpleITK'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
        assert [name for name in segfm3d.COMMANDS if f"\n  {name} " not in done.stdout] == []

    @pytest.mark.parametrize("name", SUB_COMMANDS)
    def test_each_command_has_an_example_that_it_understands(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            segfm3d.main([*name.split(), "--help"])
        text = capsys.readouterr().out
        assert end.value.code == 0
        assert text.startswith(f"usage: segfm3d {name} ") and f"\n  segfm3d {name}" in text

    def test_pages_of_images_and_of_cases_are_both_helped_with(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            segfm3d.main(["view", "case.npz", "--help"])
        of_a_case = capsys.readouterr().out
        assert "RESULT.npz" in of_a_case and "IMAGE" not in of_a_case
        with pytest.raises(SystemExit) as end:
            segfm3d.main(["view", "--help"])
        of_both = capsys.readouterr().out
        assert end.value.code == 0 and of_both.endswith(of_a_case)
        assert "segfm3d view scan.nii.gz mask.nii.gz\n" in of_both and "segfm3d view case.npz result.npz" in of_both

    def test_defaults_are_said_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        parser = Parser("name", "What it does.")
        parser.add_argument("--number", type=int, default=7, help="of things")
        parser.add_argument("--other", default="x", help="another (default: the first)")
        parser.add_argument("--flag", action="store_true", help="whether")
        parser.print_help()
        assert capsys.readouterr().out.count("(default: ") == 2

    def test_without_docstrings_a_command_still_has_its_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        Parser("name", None, "--number 7").print_help()
        assert "example:\n  name --number 7" in capsys.readouterr().out


class TestUse:
    @pytest.mark.parametrize("folder", ["", "new/folder/"])
    def test_options_stand_before_the_image_or_after_it(
        self, folder: str, scan: str, weights: str, tmp_path: Path
    ) -> None:
        """Negative coordinates too: ITK turns a NIfTI's axes, so that R of the first voxels is below 0."""
        network = ["--weights", weights, "--device", "cpu"]
        box, click = ["--box", "2:5,3:7,4:8"], ["--click", "-0.2,3.4,4.1"]
        masks = []
        for number, order in enumerate(([scan, *box, *click], [*click, *box, scan], [*box, scan, *click])):
            mask = tmp_path / f"{folder}mask{number}.nii.gz"
            assert segfm3d.main(["segment", "-o", str(mask), *network, *order]) == 0
            masks.append(read(mask))
        assert all(np.array_equal(mask, masks[0]) for mask in masks) and masks[0][0, 3, 4] == 1

    def test_a_mask_may_stand_behind_the_options_of_a_page(self, scan: str, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.ReadImage(scan) > 100, str(tmp_path / "mask.nii.gz"))
        page = tmp_path / "pages" / "page.html"
        words = [scan, "--click", "2,3,4", "-o", str(page), str(tmp_path / "mask.nii.gz")]
        assert segfm3d.main(["view", *words]) == 0
        assert '"result"' in page.read_text(encoding="utf-8")

    def test_a_case_and_back_in_folders_that_are_made(self, scan: str, weights: str, tmp_path: Path) -> None:
        case, results, mask = tmp_path / "cases" / "MR_a.npz", tmp_path / "results", tmp_path / "masks" / "a.nrrd"
        assert segfm3d.main(["case", "make", "--box", "2:5,3:7,4:8", scan, "-o", str(case)]) == 0
        words = ["--inputs", str(case.parent), "--outputs", str(results), "--weights", weights, "--device", "cpu"]
        assert segfm3d.main(["predict", *words, "--seconds-per-class", "1e6"]) == 0
        assert segfm3d.main(["case", "read", "--like", scan, str(results / "MR_a.npz"), "-o", str(mask)]) == 0
        assert read(mask).shape == SHAPE
        page = tmp_path / "pages" / "case.html"
        assert segfm3d.main(["view", str(case), "-o", str(page), str(results / "MR_a.npz")]) == 0
        assert page.is_file()

    def test_weights_are_described_and_written(
        self, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        changed = tmp_path / "changed.pt"
        assert segfm3d.main(["weights", "convert", weights, "--temperature", "2.5", str(changed)]) == 0
        capsys.readouterr()
        assert segfm3d.main(["weights", "info", str(changed)]) == 0
        said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert said["temperature"] == "2.5" and int(said["parameters"].replace(",", "")) > 0
        assert segfm3d.main(["weights", "export", str(tmp_path / "exported"), "--weights", str(changed)]) == 0
        assert (tmp_path / "exported" / "plans.json").is_file()


class TestRefusals:
    def test_unknown_words(self, refused: Callable[..., str], scan: str) -> None:
        assert "no such command; did you mean segment for segmnt?; expected segment, view" in refused("segmnt", scan)
        assert "xyz: no such command; expected segment" in refused("xyz")
        assert "; did you mean make for mak?" in refused("case", "mak")
        assert "expected a command" in refused()
        assert "expected a command: make, read" in refused("case")
        said = refused("segment", scan, "-o", "mask.nii.gz", "--bx", "1:2,1:2,1:2", "--bx", "3:4,3:4,3:4")
        assert "unrecognized arguments: --bx" in said and said.count("did you mean --box for --bx?") == 1
        assert "did you mean --preview for -preview?" in refused("segment", scan, "-o", "mask.nii.gz", "-preview=a.png")
        assert "did you mean" not in refused("segment", scan, "-o", "mask.nii.gz", "--qqq")
        assert "did you mean --click for --point?" in refused("segment", scan, "-o", "mask.nii.gz", "--point", "1,2,3")
        assert "did you mean --inputs for --inptus?" in refused("predict", "--inptus", "a")
        # What is missing is said first by argparse, and hides the mistake that it comes from.
        said = refused("case", "make", scan, "--clik=-1,2,3", "--outptu", "a.npz")
        assert "required: -o/--output; did you mean --click for --clik?; did you mean --output for --outptu?" in said
        assert "IMAGE" in refused("segment", "-o", "mask.nii.gz")

    def test_weights_that_are_not_there(self, refused: Callable[..., str], tmp_path: Path) -> None:
        missing = tmp_path / "none.pt"
        for words in (["info", missing], ["convert", missing, tmp_path / "a.pt"], ["export", tmp_path / "b"]):
            more = ["--weights", missing] if words[0] == "export" else []
            assert "no such file" in refused("weights", *words, *more)
        assert "see segfm3d weights convert --help" in refused("weights", "convert", "a", "b", "--temperature", 0)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("typed", "meant"),
        [
            ("--click 29 20 12", "--click 29,20,12"),
            ("--click=2:bg:29, 20, 12", "--click 2:bg:29,20,12"),
            ("--click -1 20.5 12", "--click -1,20.5,12"),
            ("--box 1:2 3:4 5:6", "--box 1:2,3:4,5:6"),
        ],
    )
    def test_spaces_in_place_of_commas(self, refused: Callable[..., str], scan: str, typed: str, meant: str) -> None:
        for words in ([*typed.split(), scan], [scan, *typed.split()]):
            assert f"; did you mean {meant}, without spaces?" in refused("segment", *words, "-o", "mask.nii.gz")
        assert "without spaces" not in refused("segment", scan, "--click", "29,20,12", "20", "-o", "mask.nii.gz")

    @pytest.mark.parametrize("command", [["-m", "inference"], ["-m", "segfm3d", "predict"]], ids=" ".join)
    def test_an_image_in_place_of_cases_is_refused_before_torch_is_imported(self, command: list[str]) -> None:
        line = [sys.executable, "-X", "importtime", *command, "scan.nii.gz"]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        *imports, said = done.stderr.splitlines()
        assert done.returncode == 2 and said.startswith("error: scan.nii.gz: not understood; for a single image")
        names = {imported.rpartition("|")[2].strip() for imported in imports}
        assert "inference.options" in names and "torch" not in names

    def test_files_that_are_not_there(self, refused: Callable[..., str], scan: str, tmp_path: Path) -> None:
        none = tmp_path / "none.npz"
        output = ("-o", tmp_path / "mask.nrrd")
        assert "none.npz: no such file" in refused("segment", none, "--box", "1:2,1:2,1:2", *output)
        assert "none.npz" in refused("case", "read", none, "--like", scan, *output)
        assert "none.npz" in refused("view", none, "-o", tmp_path / "page.html")
        assert "none.npz" in refused("weights", "info", none)
        assert "none.npz" in refused("train", "--data", none, "--out", tmp_path / "out")
        assert "none.npz" in refused(
            "evaluate", "--cases", none, "--results", tmp_path / "r", "--baseline", "ellipsoid"
        )
        assert "none.npz: no such folder" in refused("predict", "--inputs", none, "--outputs", tmp_path / "r")
        assert "none.npz" in refused("report", "--results", none)
        assert "none.npz" in refused("merge", none, "--results", tmp_path / "r")
        assert not (tmp_path / "mask.nrrd").exists()

    def test_devices_that_are_not_there(self, refused: Callable[..., str], scan: str, tmp_path: Path) -> None:
        device = ("--device", "nothing")
        box = ("--box", "1:2,1:2,1:2")
        assert "nothing" in refused("segment", scan, *box, "-o", tmp_path / "mask.nrrd", *device)
        assert "nothing" in refused("train", "--data", tmp_path, "--out", tmp_path / "out", *device)
        assert "nothing" in refused("doctor", *device)

    def test_an_image_for_a_folder_of_cases(self, refused: Callable[..., str], scan: str) -> None:
        for words in ([scan], [scan, "--box", "1:2,1:2,1:2"], ["--box", "1:2,1:2,1:2", scan]):
            assert "for a single image there is segfm3d segment IMAGE" in refused("predict", *words)

    def test_a_package_that_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def needs_more(arguments: list[str], prog: str) -> int:
            raise ModuleNotFoundError("No module named 'x'", name="x")

        monkeypatch.setitem(segfm3d.COMMANDS, "segment", ("", needs_more))
        assert segfm3d.main(["segment"]) == 1
        assert capsys.readouterr().err.startswith("error: segfm3d segment needs x, which is not installed; ")


class TestHowItEnds:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (FileNotFoundError(2, "No such file or directory", "a.nrrd"), 2),
            (PermissionError(13, "Permission denied", "a.nrrd"), 2),
            (OSError(28, "No space left on device", "a.nrrd"), 1),
            (KeyError("of the caller"), 2),
            (KeyboardInterrupt(), 130),
            (BrokenPipeError(32, "Broken pipe"), 1),
        ],
    )
    def test_what_stopped_it_is_one_line(
        self, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def action() -> None:
            raise error

        assert run(action, KeyError) == code
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        if isinstance(error, OSError) and error.filename:
            assert said == f"error: a.nrrd: {error.strerror[0].lower()}{error.strerror[1:]}\n"

    def test_what_nobody_foresaw_is_shown_whole(self) -> None:
        with pytest.raises(ZeroDivisionError):
            run(lambda: 1 // 0, KeyError)

    @pytest.mark.parametrize("line", ["--help | head -1", "--help | true", "case make --help | head -1"])
    def test_a_reader_that_goes_away(self, line: str) -> None:
        words = f"set -o pipefail; {sys.executable} -m segfm3d {line}"
        done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stderr == "" and done.returncode == 0

    def test_a_reader_that_goes_away_while_there_is_more_to_say(self) -> None:
        code = "from inference.command import run; raise SystemExit(run(lambda: [print(n) for n in range(9**6)] and 0))"
        words = f"set -o pipefail; {sys.executable} -c '{code}' | head -1"
        done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 128 + signal.SIGPIPE)

    def test_ctrl_c_of_a_process(self, scan: str, tmp_path: Path) -> None:
        code = (
            "import os, segfm3d, signal, time\n"
            # It may be ignored here, as in what a shell has put into the background.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "def wait(*_):\n    os.write(1, b'runs\\n')\n    while True:\n        time.sleep(0.05)\n"
            "segfm3d.COMMANDS['wait'] = ('', wait)\n"
            "segfm3d.leave(segfm3d.main(['wait']))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout.readline() == "runs\n"
            os.kill(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, errors) == (130, "interrupted\n")


class TestFromPython:
    def test_it_is_what_the_command_writes(self, scan: str, weights: str, tmp_path: Path) -> None:
        mask = tmp_path / "mask.nrrd"
        words = ["--box", "2:5,3:7,4:8", "--click", "3,4,5", "--click", "bg:0,0,0"]
        assert segfm3d.main(["segment", scan, *words, "-o", str(mask), "--weights", weights, "--device", "cpu"]) == 0
        labels = segfm3d.segment(
            scan,
            box=((2, 5), (3, 7), (4, 8)),
            clicks=[(3, 4, 5), "bg:0,0,0"],
            weights=weights,
            device="cpu",
            output=tmp_path / "new" / "same.nrrd",
        )
        np.testing.assert_array_equal(labels, read(mask))
        np.testing.assert_array_equal(labels, read(tmp_path / "new" / "same.nrrd"))
        prompts = [folder / name for folder, name in ((tmp_path, "mask"), (tmp_path / "new", "same"))]
        assert len({path.with_suffix(".prompts.json").read_bytes() for path in prompts}) == 1

    @pytest.mark.slow
    def test_a_head(self, tmp_path: Path) -> None:
        """The demo's MRI at 2 mm, with the embedded weights: a box, then a click outside of the mask that it gave."""
        head = datasets.load_mni152_template(resolution=2)
        brain = np.asarray(datasets.load_mni152_brain_mask(resolution=2).dataobj).T > 0
        nibabel.save(head, tmp_path / "head.nii.gz")
        box = [(int(where.min()), int(where.max())) for where in np.nonzero(brain)]
        first = segfm3d.segment(tmp_path / "head.nii.gz", box=box, device="cpu", output=tmp_path / "mask.nii.gz")
        assert first.shape == brain.shape
        assert 2 * np.count_nonzero((first == 1) & brain) / (first.sum() + brain.sum()) > 0.9
        place = tuple(int(v) for v in np.argwhere((first == 1) & ~brain)[0])
        second = segfm3d.segment(
            tmp_path / "head.nii.gz",
            box=box,
            previous=tmp_path / "mask.nii.gz",
            clicks=["bg:{},{},{}".format(*place)],
            device="cpu",
        )
        assert second[place] == 0

    def test_clicks_one_or_several(self) -> None:
        one = ["17,150,180"]
        assert segfm3d._clicks((17, 150, 180)) == segfm3d._clicks([(17, 150, 180)]) == segfm3d._clicks(one[0]) == one
        assert segfm3d._clicks(np.array([[1, 2, 3], [4, 5, 6]])) == ["1,2,3", "4,5,6"]
        assert segfm3d._clicks(()) == []
        with pytest.raises(ValueError, match="a list of such"):
            segfm3d._clicks([(1, 2, 3), 4])

    def test_boxes_of_several_objects(self) -> None:
        one = ((2, 5), (3, 7), (4, 8))
        assert segfm3d._boxes(one) == segfm3d._boxes([one]) == segfm3d._boxes("2:5,3:7,4:8") == ["2:5,3:7,4:8"]
        assert segfm3d._boxes(np.array(one)) == ["2:5,3:7,4:8"]
        assert segfm3d._boxes([one, "1:2,1:2,1:2"]) == ["2:5,3:7,4:8", "1:2,1:2,1:2"]
        assert segfm3d._boxes(()) == []
        with pytest.raises(ValueError, match="first and last voxel of each axis"):
            segfm3d._boxes((2, 5, 3, 7, 4, 8))

    def test_refusals_are_errors(self, scan: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="nothing says what to segment"):
            segfm3d.segment(scan)
        with pytest.raises(ValueError, match="unknown ending"):
            segfm3d.segment(scan, box="1:2,1:2,1:2", output=tmp_path / "mask.stl")
        with pytest.raises(ValueError, match="no such modality"):
            segfm3d.segment(scan, box="1:2,1:2,1:2", modality="X-ray")
