"""The command line: every case of a folder, by the challenge's contract, whatever the cases are like."""

from __future__ import annotations

import errno
import gc
import os
import runpy
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segfm3d
from evaluation.simulated_user import click_from_error
from inference import __main__ as command
from inference import options
from inference.atomic import replacing
from inference.geometry import Box
from inference.npz import read_array
from inference.options import predict_options
from inference.prompts import BOX
from inference.segmenter import Segmenter
from tests.inference.factories import (
    Reduced,
    array_header,
    read_output,
    segmenter,
    volume,
    write_case,
    write_members,
    write_pickle_as_boxes,
)

ROOT = Path(__file__).parents[2]
SHAPE = (10, 20, 24)
INNER = Box((2, 4, 5), (6, 12, 15))
TEN = [Box((z, 2 * z, 2 * z), (z + 3, 2 * z + 8, 2 * z + 9)) for z in range(6)] + [INNER] * 4
LONG = 60.0


def test_garbage_is_collected_once_everything_is_imported() -> None:
    assert gc.isenabled()


class Folders:
    """An input and an output folder, and the command that goes from one to the other."""

    def __init__(self, root: Path, weights: Path) -> None:
        self.inputs, self.outputs = root / "inputs", root / "outputs"
        self.inputs.mkdir()
        self.outputs.mkdir()
        self.weights = weights

    def arguments(self, *more: str) -> list[str]:
        # The clock starts with the process, which here is as old as the tests.
        folders = ["--inputs", str(self.inputs), "--outputs", str(self.outputs), "--weights", str(self.weights)]
        return [*folders, "--device", "cpu", "--seconds-per-class", "1e6", *more]

    def run(self, *more: str) -> int:
        return command.main(self.arguments(*more))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.outputs.iterdir())

    def output(self, name: str, shape: tuple[int, int, int], objects: int) -> np.ndarray:
        """An output, once it has been found to be what the evaluator demands."""
        path = self.outputs / name
        labels = read_output(path)
        assert labels.dtype == np.uint8
        assert labels.shape == shape
        assert labels.max() <= objects
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        return labels


@pytest.fixture
def folders(tmp_path: Path, weights: Path) -> Folders:
    return Folders(tmp_path, weights)


def flat_image(shape: tuple[int, int, int], value: float = 0) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def with_nan() -> np.ndarray:
    image = volume(SHAPE, np.float32)
    image[::3] = np.nan
    return image


def bordered() -> np.ndarray:
    """An image whose non-zero part does not reach the border."""
    image = np.zeros(SHAPE, np.uint8)
    image[3:7, 5:10, 5:12] = volume((4, 5, 7)) // 2 + 1
    return image


BACK_AND_FORTH = [("fg", (4, 8, 9)), ("bg", (0, 0, 0))]
CASES: dict[str, tuple[np.ndarray, dict]] = {
    "a box": (volume(SHAPE), {"boxes": [INNER]}),
    "a box and clicks": (volume(SHAPE), {"boxes": [INNER], "clicks": [BACK_AND_FORTH]}),
    "None in clicks_order": (volume(SHAPE), {"boxes": [INNER] * 2, "clicks": [[None, None], BACK_AND_FORTH]}),
    "no boxes with several objects": (volume(SHAPE), {"clicks": [BACK_AND_FORTH] * 3}),
    "neither boxes nor clicks": (volume(SHAPE), {}),
    "a previous mask alone": (volume(SHAPE), {"prev_pred": (volume(SHAPE) % 3).astype(np.uint8)}),
    "a box outside the non-zero image": (bordered(), {"boxes": [Box((0, 0, 0), (9, 12, 15))]}),
    "a box reaching outside the image": (volume(SHAPE), {"boxes": [Box((-3, 15, 20), (4, 25, 30))]}),
    "a one-slice box": (volume(SHAPE), {"boxes": [Box((4, 4, 5), (4, 12, 15))]}),
    "a one-voxel box": (volume(SHAPE), {"boxes": [Box((4, 4, 5), (4, 4, 5))]}),
    "a one-slice volume": (volume((1, 20, 24)), {"boxes": [Box((0, 4, 5), (0, 12, 15))]}),
    "a one-voxel volume": (volume((1, 1, 1)), {"boxes": [Box((0, 0, 0), (0, 0, 0))]}),
    "an all-zero image": (flat_image(SHAPE), {"boxes": [INNER]}),
    "a constant image": (flat_image(SHAPE, 77), {"boxes": [INNER]}),
    "a constant float image": (np.full(SHAPE, 0.1), {"boxes": [INNER]}),
    "an image with NaN": (with_nan(), {"boxes": [INNER]}),
    "an image of nothing but NaN": (np.full(SHAPE, np.nan), {"boxes": [INNER]}),
    "a negative image": (-1000.0 - volume(SHAPE, np.float32), {"boxes": [INNER]}),
    "a float64 image": (volume(SHAPE, np.float64) / 255, {"boxes": [INNER]}),
    "a huge float64 image": (volume(SHAPE, np.float64) * 1e300, {"boxes": [INNER]}),
    "a float16 image": (volume(SHAPE, np.float16) * 200, {"boxes": [INNER]}),
    "a boolean image": (volume(SHAPE) > 99, {"boxes": [INNER]}),
    "a uint64 image": (volume(SHAPE, np.uint64) << 50, {"boxes": [INNER]}),
    "a box that needs zoom": (volume((40, 50, 60)), {"boxes": [Box((1, 2, 3), (38, 47, 56))]}),
    "a click far outside the window": (
        volume((40, 50, 60)),
        {"boxes": [Box((1, 2, 3), (4, 5, 6))], "clicks": [[("fg", (39, 49, 59))]]},
    ),
    "a click outside the image": (volume(SHAPE), {"boxes": [INNER], "clicks": [[("fg", (10, 20, 24))]]}),
    "ten overlapping boxes": (volume(SHAPE), {"boxes": TEN}),
    "text prompts and the truth": (
        volume(SHAPE),
        {"boxes": [INNER], "text_prompts": "liver", "gts": flat_image(SHAPE)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_contract(folders: Folders, name: str) -> None:
    image, prompts = CASES[name]
    write_case(folders.inputs / "case.npz", image, **prompts)
    assert folders.run() == 0
    objects = len(prompts.get("boxes") or prompts.get("clicks") or [None, None])
    folders.output("case.npz", image.shape, objects)
    assert folders.names() == ["case.npz"]


def test_an_answer_without_the_image_is_the_same_for_all_images_without_contrast(folders: Folders) -> None:
    """All-zero, constant and NaN images are equally empty to the network."""
    for index, image in enumerate([flat_image(SHAPE), flat_image(SHAPE, 77), np.full(SHAPE, 0.1), with_nan() * 0]):
        write_case(folders.inputs / f"{index}.npz", image, [INNER])
    assert folders.run() == 0
    first, *others = (folders.output(f"{index}.npz", SHAPE, 1) for index in range(4))
    assert all(np.array_equal(first, other) for other in others)


def test_intensities_are_relative(folders: Folders) -> None:
    image = volume(SHAPE, np.float64)
    for index, scaled in enumerate([image + 1, image * 3 + 3, (image + 1) * 1e-3]):
        write_case(folders.inputs / f"{index}.npz", scaled, [INNER])
    assert folders.run() == 0
    first, *others = (folders.output(f"{index}.npz", SHAPE, 1) for index in range(3))
    assert all((first == other).mean() > 0.999 for other in others)


def test_the_truth_has_no_influence(folders: Folders) -> None:
    write_case(folders.inputs / "without.npz", volume(SHAPE), [INNER])
    write_case(folders.inputs / "with.npz", volume(SHAPE), [INNER], gts=(volume(SHAPE) > 128).astype(np.uint8))
    assert folders.run() == 0
    np.testing.assert_array_equal(folders.output("with.npz", SHAPE, 1), folders.output("without.npz", SHAPE, 1))


def test_a_first_run_imports_nothing_that_it_does_not_need(folders: Folders) -> None:
    """SciPy would be a tenth of the start: for previous masks only."""
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
    unneeded = ["scipy", "SimpleITK", "cc3d", "matplotlib"]
    lines = [
        "import sys",
        "from inference.__main__ import main",
        f"code = main({folders.arguments()})",
        f"print(code, [name for name in {unneeded} if name in sys.modules])",
    ]
    finished = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT)
    assert finished.stdout.splitlines()[-1:] == ["0 []"], finished.stderr


def test_other_files_in_the_folder_are_left_alone(folders: Folders) -> None:
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
    (folders.inputs / "README.txt").write_text("not a case")
    (folders.inputs / "case.npz.bak").write_bytes(b"nor this")
    (folders.inputs / "._case.npz").write_bytes(b"nor this")
    (folders.inputs / "folder").mkdir()
    (folders.outputs / "notes.txt").write_text("somebody's")
    assert folders.run() == 0
    assert folders.names() == ["case.npz", "notes.txt"]
    assert (folders.outputs / "notes.txt").read_text() == "somebody's"


def test_an_existing_output_is_replaced(folders: Folders) -> None:
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
    (folders.outputs / "case.npz").write_bytes(b"older")
    assert folders.run() == 0
    folders.output("case.npz", SHAPE, 1)


def test_an_existing_output_stands_until_it_is_replaced(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
    (folders.outputs / "case.npz").write_bytes(b"older")
    seen = []

    def write_segmentation(path: Path, _: np.ndarray) -> None:
        seen.append(path.read_bytes())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_segmentation", write_segmentation)
    assert folders.run() == 1
    assert seen == [b"older"]
    assert (folders.outputs / "case.npz").read_bytes() == b"older"


def test_what_a_killed_run_left_is_removed_and_not_what_another_run_is_writing(folders: Folders) -> None:
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
    left, begun = folders.outputs / ".123.unfinished", folders.outputs / ".456.unfinished"
    for path in (left, begun):
        path.write_bytes(b"half of it")
    old = time.time() - 2 * command.LONGEST_WRITE
    os.utime(left, (old, old))
    assert folders.run() == 0
    assert folders.names() == [begun.name, "case.npz"]


def test_the_folder_of_the_cases_takes_no_results(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
    before = (folders.inputs / "case.npz").read_bytes()
    assert folders.run("--outputs", str(folders.inputs / ".." / "inputs")) == 2
    assert "holds the cases, which the results would replace" in capsys.readouterr().err
    assert (folders.inputs / "case.npz").read_bytes() == before


@pytest.mark.parametrize(("error", "written"), [(errno.EINVAL, True), (errno.ENOSPC, False)])
def test_a_file_system_without_modes_and_one_that_cannot_be_told_to_write(
    error: int, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(error, "no")))
    monkeypatch.setattr(Path, "chmod", Mock(side_effect=OSError(errno.EPERM, "no")))
    with nullcontext() if written else pytest.raises(OSError, match="no"), replacing(tmp_path / "a") as unfinished:
        unfinished.write_bytes(b"all of it")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] * written


def truncated(path: Path) -> None:
    write_case(path, volume(SHAPE), [INNER])
    path.write_bytes(path.read_bytes()[:-100])


def bomb(path: Path) -> None:
    write_pickle_as_boxes(path, Reduced(os.system, (f"touch '{path.parent.parent / 'it ran'}'",)).pickled())


BROKEN: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "empty": lambda path: path.write_bytes(b""),
    "no zip": lambda path: path.write_text("imgs"),
    "a folder": Path.mkdir,
    "no image": lambda path: np.savez(path, spacing=np.ones(3)),
    "an image of two axes": lambda path: write_case(path, np.zeros((4, 4))),
    "a pickle bomb": bomb,
    "a size bomb": lambda path: write_members(path, imgs=array_header("f8", (2**12, 2**12, 2**12))),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line_and_the_others_go_on(
    folders: Folders, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for name in ("1_before", "3_after"):
        write_case(folders.inputs / f"{name}.npz", volume(SHAPE), [INNER])
    BROKEN[kind](folders.inputs / "2_broken.npz")
    assert folders.run() == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: 2_broken.npz: ")
    assert lines[1] == "1 error(s); see above"
    assert folders.names() == ["1_before.npz", "3_after.npz"]
    assert not (folders.inputs.parent / "it ran").exists()


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 8 GiB"), KeyError("a bug")], ids=repr)
def test_any_other_failure_to_read_stays_with_its_case(
    folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("1", "2", "3"):
        write_case(folders.inputs / f"{name}.npz", volume(SHAPE), [INNER])
    read = command.read_case

    def fails_at_2(path: Path) -> object:
        if path.name == "2.npz":
            raise error
        return read(path)

    monkeypatch.setattr(command, "read_case", fails_at_2)
    assert folders.run() == 1
    assert f"error: 2.npz: {type(error).__name__}: {error}" in capsys.readouterr().err
    assert folders.names() == ["1.npz", "3.npz"]


def test_a_failure_to_segment_still_writes_the_fallback(
    folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
    segment = command.segment_case

    def fails_with_a_network(case: object, tool: Segmenter | None, *rest: object) -> np.ndarray:
        if tool is not None:
            raise ValueError("a bug")
        return segment(case, tool, *rest)

    monkeypatch.setattr(command, "segment_case", fails_with_a_network)
    assert folders.run() == 1
    assert "error: case.npz: ValueError: a bug" in capsys.readouterr().err
    labels = folders.output("case.npz", SHAPE, 1)
    assert labels[4, 8, 10] == 1
    assert labels.sum() < INNER.size[0] * INNER.size[1] * INNER.size[2]


class TestSettings:
    def test_no_such_inputs(self, folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
        folders.inputs.rmdir()
        assert folders.run() == 2
        assert f"error: {folders.inputs}: no such folder" in capsys.readouterr().err

    def test_no_cases(self, folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
        assert folders.run() == 2
        said = capsys.readouterr().err
        assert f"error: {folders.inputs}: no *.npz in it" in said and "segfm3d" not in said

    def test_images_in_place_of_cases(self, folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
        scan = folders.inputs / "scan.nii.gz"
        scan.touch()
        assert folders.run() == 2
        said = capsys.readouterr().err
        assert "no *.npz in it" in said and "segfm3d case make" in said and "segfm3d segment IMAGE" in said
        assert folders.run("--inputs", str(scan)) == 2
        said = capsys.readouterr().err
        assert f"error: {scan}: is a file; --inputs expects a folder of cases; for a single image there is" in said
        write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
        assert folders.run("--inputs", str(folders.inputs / "case.npz")) == 2
        assert f"give the folder {folders.inputs}" in capsys.readouterr().err

    def test_outputs_that_are_a_file(self, folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
        write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
        folders.outputs.rmdir()
        folders.outputs.write_text("a file")
        assert folders.run() == 2
        assert "cannot be written" in capsys.readouterr().err

    def test_outputs_are_made_if_they_are_missing(self, folders: Folders) -> None:
        write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
        folders.outputs.rmdir()
        assert folders.run() == 0
        folders.output("case.npz", SHAPE, 1)

    def test_without_weights_a_valid_output_is_written_and_the_error_said(
        self, folders: Folders, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER])
        assert folders.run("--weights", str(folders.inputs / "nothing.pt")) == 1
        assert "nothing.pt: no such file" in capsys.readouterr().err
        assert folders.output("case.npz", SHAPE, 1)[4, 8, 10] == 1

    @pytest.mark.parametrize("setting", ["--seconds-per-class", "--runs-per-case"])
    @pytest.mark.parametrize("value", ["0", "-1", "ten", "nan"])
    def test_a_number_that_is_none(
        self, folders: Folders, capsys: pytest.CaptureFixture[str], setting: str, value: str
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            folders.run(setting, value)
        assert exit_.value.code == 2
        assert setting in capsys.readouterr().err

    @pytest.mark.parametrize("way", ["python -m inference", "segfm3d predict"])
    def test_the_options_are_read_once(self, folders: Folders, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
        read = Mock(side_effect=predict_options)
        for module in (options, command, segfm3d):
            monkeypatch.setattr(module, "predict_options", read)
        if way == "segfm3d predict":
            assert segfm3d.main(["predict", *folders.arguments()]) == 2
        else:
            monkeypatch.setattr("inference.command.leave", sys.exit)
            monkeypatch.delitem(sys.modules, "inference.__main__")
            monkeypatch.setattr(sys, "argv", ["inference", *folders.arguments()])
            with pytest.raises(SystemExit) as end:
                runpy.run_module("inference", run_name="__main__")
            assert end.value.code == 2
        read.assert_called_once()

    def test_an_option_wins_over_its_variable_and_a_variable_over_the_default(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert predict_options([]).inputs == Path("/workspace/inputs")
        assert predict_options([]).outputs == Path("/workspace/outputs")
        assert predict_options([]).seconds_per_class == 90
        assert predict_options([]).runs_per_case == 6
        names = ("inputs", "outputs", "weights", "device", "seconds_per_class", "runs_per_case")
        for number, name in enumerate(names, start=1):
            monkeypatch.setenv(f"SEGFM3D_{name.upper()}", str(number))
        given = [str(getattr(predict_options([]), name)) for name in names]
        assert given == ["1", "2", "3", "4", "5.0", "6.0"]
        arguments = [part for name in names for part in (f"--{name.replace('_', '-')}", "7")]
        assert {str(getattr(predict_options(arguments), name)) for name in names} == {"7", "7.0"}


class TestTheBudget:
    """A run's budget is seconds per class × objects / runs per case, and is kept whatever the network does."""

    @pytest.fixture
    def release(self) -> Iterator[threading.Event]:
        event = threading.Event()
        yield event
        event.set()

    @pytest.fixture(autouse=True)
    def young_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(command, "process_age", lambda: 0.0)

    def test_the_summary_says_it(self, folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
        write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER] * 4)
        folders.run("--seconds-per-class", "90", "--runs-per-case", "6")
        assert "case.npz: 10×20×24 (z×y×x), 4 object(s), 4 box(es), 0 click(s)" in (out := capsys.readouterr().out)
        assert " s of the 60 s that it may take\n" in out

    def test_a_network_that_never_answers_is_given_up_and_said(
        self,
        folders: Folders,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        release: threading.Event,
    ) -> None:
        class Blocked(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                release.wait(LONG)
                return x[:, BOX : BOX + 1]

        for name in ("1", "2"):
            write_case(folders.inputs / f"{name}.npz", volume(SHAPE), [INNER])
        monkeypatch.setattr(command, "load_segmenter", lambda *_: segmenter(Blocked()))
        assert folders.run("--seconds-per-class", "9", "--runs-per-case", "6") == 0
        assert not release.is_set(), "the network is still at it"
        out = capsys.readouterr().out
        for name in ("1.npz", "2.npz"):
            assert f"{name}: object 1: the network was too slow" in out
            assert f"{name}: object 1: taking the ellipsoid in its box" in out
            assert folders.output(name, SHAPE, 1)[4, 8, 10] == 1

    def test_the_start_of_the_process_is_paid_from_the_first_case(
        self, folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "process_age", lambda: 10**9)
        for name in ("1", "2"):
            write_case(folders.inputs / f"{name}.npz", volume(SHAPE), [INNER])
        assert folders.run() == 0
        out = capsys.readouterr().out
        assert "1.npz: object 1: taking the ellipsoid in its box" in out
        assert "2.npz: object 1" not in out

    def test_so_is_the_loading_of_the_weights(
        self, folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loading, load_segmenter = [0.0], command.load_segmenter

        def load(weights: Path, device: str) -> Segmenter:
            loading[0] = 10**9
            return load_segmenter(weights, device)

        monkeypatch.setattr(command, "load_segmenter", load)
        monkeypatch.setattr(command, "time", Mock(monotonic=lambda: time.monotonic() + loading[0]))
        write_case(folders.inputs / "1.npz", volume(SHAPE), [INNER])
        assert folders.run() == 0
        assert "1.npz: object 1: taking the ellipsoid in its box" in capsys.readouterr().out


class TestTheScript:
    """predict.sh as the evaluator calls it: a process of its own, settings by variables."""

    @pytest.fixture
    def predict(self, folders: Folders) -> Callable[[], subprocess.CompletedProcess]:
        settings = {
            "PYTHON": sys.executable,
            "SEGFM3D_INPUTS": str(folders.inputs),
            "SEGFM3D_OUTPUTS": str(folders.outputs),
            "SEGFM3D_WEIGHTS": str(folders.weights),
            "SEGFM3D_DEVICE": "cpu",
            "SEGFM3D_SECONDS_PER_CLASS": "1e6",
        }
        shell = shutil.which("dash") or "sh"
        command = [shell, str(ROOT / "predict.sh")]
        return lambda: subprocess.run(
            command, env=os.environ | settings, cwd=folders.inputs, capture_output=True, text=True, check=False
        )

    def test_good_and_broken_cases(self, folders: Folders, predict: Callable[[], subprocess.CompletedProcess]) -> None:
        write_case(folders.inputs / "1.npz", volume(SHAPE), [INNER], [BACK_AND_FORTH])
        truncated(folders.inputs / "2.npz")
        write_case(folders.inputs / "3.npz", volume(SHAPE), clicks=[[("fg", (1, 1, 1))], [None]])
        result = predict()
        assert result.returncode == 1
        assert result.stderr.splitlines()[0].startswith("error: 2.npz: ")
        assert len(result.stderr.splitlines()) == 2
        assert "1.npz: 10×20×24 (z×y×x), 1 object(s), 1 box(es), 2 click(s)" in result.stdout
        folders.output("1.npz", SHAPE, 1)
        folders.output("3.npz", SHAPE, 2)
        assert folders.names() == ["1.npz", "3.npz"]

    def test_good_cases_alone(self, folders: Folders, predict: Callable[[], subprocess.CompletedProcess]) -> None:
        write_case(folders.inputs / "1.npz", volume(SHAPE), [INNER])
        result = predict()
        assert (result.returncode, result.stderr) == (0, "")
        folders.output("1.npz", SHAPE, 1)


def test_all_six_steps_of_real_cases(folders: Folders, real_cases: list[Path]) -> None:
    """The box alone, then a click an object more at each step, made from the error of the step before."""
    for source in real_cases[:2]:
        truth, image = read_array(source, "gts"), read_array(source, "imgs")
        boxes = np.load(source, allow_pickle=True)["boxes"]
        clicks = [{"fg": [], "bg": []} for _ in boxes]
        order: list[list[str | None]] = [[] for _ in boxes]
        keys: dict = {"spacing": read_array(source, "spacing"), "boxes": boxes}
        for _ in range(6):
            np.savez_compressed(folders.inputs / source.name, imgs=image, **keys)
            assert folders.run() == 0
            labels = folders.output(source.name, image.shape, len(boxes))
            for index in range(len(boxes)):
                click = click_from_error(labels == index + 1, truth == index + 1)
                order[index].append(None if click is None else "fg" if click[1] else "bg")
                if click is not None:
                    clicks[index][order[index][-1]].append([np.int64(v) for v in click[0]])
            keys |= {"clicks": clicks, "clicks_order": order, "prev_pred": labels}


def test_runs_are_repeatable(folders: Folders) -> None:
    write_case(folders.inputs / "case.npz", volume(SHAPE), [INNER] * 2, [BACK_AND_FORTH] * 2)
    folders.run()
    first = folders.output("case.npz", SHAPE, 2)
    torch.manual_seed(1)
    folders.run()
    np.testing.assert_array_equal(folders.output("case.npz", SHAPE, 2), first)
