"""Disks, folders, files and pipes that fail: said in one line, and no case pays for another."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import __main__ as command
from inference import checkpoint
from inference.network import NetworkConfig, ResidualEncoderUNet
from tests.inference.factories import TINY, read_output, volume, write_case, write_weights
from tests.robustness.conftest import BOX, SHAPE
from tests.robustness.process import ROOT, WITHOUT_CAPABILITIES, Process

BOTH = ["1.npz", "2.npz"]


def errors(run: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of stderr but for the last, which counts them."""
    *lines, last = run.stderr.splitlines()
    assert last == f"{len(lines)} error(s); see above"
    assert all(line.startswith("error: ") for line in lines), run.stderr
    return lines


class TestFolders:
    """Read-only, unreadable, full."""

    @pytest.fixture
    def restricted(self) -> list[str]:
        """What stands before a command that root is to run without root's powers."""
        if os.geteuid() != 0:
            return []
        if shutil.which("setpriv") is None:
            pytest.skip("run by root, and there is no setpriv to take root's capabilities away")
        return WITHOUT_CAPABILITIES

    @pytest.fixture
    def small_disk(self, process: Process) -> Callable[[str], list[str]]:
        """A function: mount options -> what stands before a command for which the output folder is a disk of 16 kB.

        What lies on the disk at the end comes back to the output folder.
        """
        allowed = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False
        )
        if allowed.returncode != 0:
            pytest.skip("a disk of one's own needs user namespaces, which are not allowed here")

        def before(options: str) -> list[str]:
            outputs, kept = process.outputs, process.outputs.with_name("kept")
            kept.mkdir()
            script = (
                f"mount -t tmpfs -o size=16k tmpfs '{outputs}'; echo older > '{outputs}/1.npz';"
                f"{options} code=0; \"$@\" || code=$?; cp -a '{outputs}/.' '{kept}'; exit $code"
            )
            return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]

        return before

    def test_read_only_outputs_and_an_unreadable_input(self, process: Process, restricted: list[str]) -> None:
        write_case(process.inputs / "3.npz", volume(SHAPE), [BOX])
        (process.outputs / "2.npz").write_text("older")
        (process.inputs / "1.npz").chmod(0)
        process.outputs.chmod(0o555)
        run = process.run(*restricted)
        process.outputs.chmod(0o755)
        assert run.returncode == 1
        first, second, third = errors(run)
        assert first.startswith("error: 1.npz: not a readable .npz file") and "Permission denied" in first
        assert "2.npz: cannot be written (Permission denied)" in second
        assert "3.npz: cannot be written (Permission denied)" in third
        assert process.names() == ["2.npz"]
        assert (process.outputs / "2.npz").read_text() == "older"

    def test_an_unreadable_input_folder(self, process: Process, restricted: list[str]) -> None:
        process.inputs.chmod(0)
        run = process.run(*restricted)
        process.inputs.chmod(0o755)
        assert run.returncode == 2
        assert (
            run.stderr == f"error: {process.inputs}: cannot be read (Permission denied); expected a folder of cases\n"
        )

    def test_a_full_disk(self, process: Process, small_disk: Callable[[str], list[str]]) -> None:
        fill = f"head -c 99999 /dev/zero > '{process.outputs}/filler' 2>/dev/null;"
        run = process.run(*small_disk(fill))
        assert run.returncode == 1
        assert all("cannot be written (No space left on device); an older file is kept" in line for line in errors(run))
        kept = process.outputs.with_name("kept")
        assert sorted(path.name for path in kept.iterdir()) == ["1.npz", "filler"]
        assert (kept / "1.npz").read_text() == "older\n"

    def test_a_small_disk_that_suffices(self, process: Process, small_disk: Callable[[str], list[str]]) -> None:
        """That the disk is full, and not that it is small, is what the test above shows."""
        assert process.run(*small_disk("")).returncode == 0
        kept = process.outputs.with_name("kept")
        assert [read_output(kept / name).shape for name in BOTH] == [SHAPE, SHAPE]


class TestInputs:
    def test_links_names_and_kinds_of_files(self, process: Process, tmp_path: Path) -> None:
        """Links are followed, names are taken as they are, and what is no file is refused and not waited for."""
        elsewhere = write_case(tmp_path / "elsewhere.npz", volume(SHAPE), [BOX])
        good = ["a link.npz", "β \u202e 医学 \n.npz", "é" * 125 + ".npz", os.fsdecode(b"\xff\xfe.npz")]
        for name in good[1:]:
            shutil.copy(elsewhere, process.inputs / name)
        (process.inputs / good[0]).symlink_to(elsewhere)
        (process.inputs / "dangling.npz").symlink_to(tmp_path / "nowhere")
        (process.inputs / "loop.npz").symlink_to(process.inputs / "loop.npz")
        (process.inputs / "device.npz").symlink_to("/dev/zero")
        (process.inputs / "other.npz").symlink_to("/etc/passwd")
        os.mkfifo(process.inputs / "pipe.npz")
        run = process.run(environment={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
        assert run.returncode == 1
        assert [line.split(":")[1].strip() for line in errors(run)] == [
            f"{name}.npz" for name in ("dangling", "device", "loop", "other", "pipe")
        ]
        assert process.names() == sorted([*BOTH, *good])
        assert all(read_output(process.outputs / name).shape == SHAPE for name in good)
        assert len(run.stdout.splitlines()) == 1 + len(process.names()), "the weights, and a line a case"

    def test_an_output_that_is_a_folder_or_a_link(
        self, process: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A link is replaced, and what it pointed to is left as it is."""
        (process.outputs / "1.npz").mkdir()
        (tmp_path / "target").write_text("somebody's")
        (process.outputs / "2.npz").symlink_to(tmp_path / "target")
        assert command.main(process.line()[3:]) == 1
        first, last = capsys.readouterr().err.splitlines()
        assert "1.npz: cannot be written (Is a directory)" in first and last == "1 error(s); see above"
        assert process.names() == BOTH
        assert not (process.outputs / "2.npz").is_symlink()
        assert read_output(process.outputs / "2.npz").shape == SHAPE
        assert (tmp_path / "target").read_text() == "somebody's"


class TestListeners:
    """What is printed is for people; that nobody can read it costs nothing."""

    def test_closed_pipes(self, process: Process) -> None:
        write_case(process.inputs / "0.npz", volume(SHAPE), [BOX], spacing=np.zeros(3))
        reading, writing = os.pipe()
        os.close(reading)
        running = process.start(stdout=writing, stderr=writing)
        os.close(writing)
        assert running.wait() == 0
        assert process.names() == ["0.npz", *BOTH]

    def test_a_full_log(self, process: Process) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full")
        with open("/dev/full", "w") as full:  # noqa: PTH123
            running = process.start(stdout=full, stderr=full)
            assert running.wait() == 0
        assert process.names() == BOTH

    def test_no_pipes_at_all(self, process: Process) -> None:
        run = process.run("sh", "-c", 'exec "$@" >&- 2>&-', "sh")
        assert run.returncode == 0
        assert process.names() == BOTH


def other_configuration(path: Path) -> None:
    """Weights whose tensors are those of a larger network than their configuration says."""
    state = ResidualEncoderUNet(NetworkConfig((8, 16, 16), (1, 1, 1))).state_dict()
    checkpoint.save(path, TINY, state)


def unusable_values(path: Path) -> None:
    write_weights(path)
    content = torch.load(path, weights_only=True)
    for tensor in content["state"].values():
        tensor.fill_(torch.nan)
    torch.save(content, path)


def cut(share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_weights(path)
        os.truncate(path, int(path.stat().st_size * share))

    return write


BROKEN_WEIGHTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "a folder": Path.mkdir,
    "cut to half": cut(0.5),
    "cut by a percent": cut(0.99),
    "of another configuration": other_configuration,
    "no weights": lambda path: path.write_text("weights"),
    "no dictionary": lambda path: torch.save([1, 2], path),
    "a pipe": os.mkfifo,
}


class TestWeights:
    """Whatever is wrong with the weights: one line, exit code 1, and the fallback for every case."""

    @pytest.mark.parametrize("kind", BROKEN_WEIGHTS)
    def test_broken(
        self, process: Process, capsys: pytest.CaptureFixture[str], ellipsoid: np.ndarray, kind: str
    ) -> None:
        process.weights = process.inputs.with_name("broken.pt")
        BROKEN_WEIGHTS[kind](process.weights)
        assert command.main(process.line()[3:]) == 1
        first, last = capsys.readouterr().err.splitlines()
        assert str(process.weights) in first
        assert first.endswith("without weights only previous masks and the boxes' ellipsoids are written")
        assert last == "1 error(s); see above"
        for name in BOTH:
            np.testing.assert_array_equal(read_output(process.outputs / name), ellipsoid)

    def test_values_that_are_no_numbers(
        self, process: Process, capsys: pytest.CaptureFixture[str], ellipsoid: np.ndarray
    ) -> None:
        """Only a forward shows them, so each object is said."""
        process.weights = process.inputs.with_name("broken.pt")
        unusable_values(process.weights)
        assert command.main(process.line()[3:]) == 1
        out, err = capsys.readouterr()
        assert "2 error(s); see above" in err
        assert "2.npz: object 1: ArithmeticError: the network's output is not finite" in out
        for name in BOTH:
            np.testing.assert_array_equal(read_output(process.outputs / name), ellipsoid)

    def test_damaged_bytes_anywhere(self, process: Process, capsys: pytest.CaptureFixture[str], weights: Path) -> None:
        """What exactly is broken is chance; an output for every case, and an exit code that fits, are not."""
        whole = weights.read_bytes()
        rng = np.random.default_rng(0)
        process.weights = process.inputs.with_name("broken.pt")
        refused = 0
        for _ in range(40):
            damaged = np.frombuffer(whole, np.uint8).copy()
            # The directory and the pickle are a small part of the file, and the interesting one.
            first = rng.choice([0, len(whole) - 4000, rng.integers(0, len(whole) - 2000)])
            damaged[first + rng.integers(0, 2000, 20)] = rng.integers(0, 256, 20)
            process.weights.write_bytes(damaged.tobytes())
            code = command.main(process.line()[3:])
            out, err = capsys.readouterr()
            assert code == bool(err), err
            refused += code
            assert process.names() == BOTH, out
            for name in BOTH:
                assert read_output(process.outputs / name).shape == SHAPE
                (process.outputs / name).unlink()
        assert refused > 10

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("device", ["cuda", "no device", "meta"])
    def test_a_device_that_is_not_there(
        self, process: Process, capsys: pytest.CaptureFixture[str], ellipsoid: np.ndarray, device: str
    ) -> None:
        assert command.main([*process.line()[3:], "--device", device]) == 1
        first, last = capsys.readouterr().err.splitlines()
        assert first.startswith(f"error: device {device!r}: ")
        assert last == "1 error(s); see above"
        for name in BOTH:
            np.testing.assert_array_equal(read_output(process.outputs / name), ellipsoid)


WITHOUT_END = """
import runpy, threading
from inference import predictor

def forward(self, batch):
    print("forward", flush=True)
    threading.Event().wait()

predictor.Predictor.forward = forward
runpy.run_module("inference", run_name="__main__")
"""
"""The command, with a network that never answers."""


class TestSigterm:
    def test_it_ends_with_what_is_there(self, process: Process) -> None:
        for index in range(300):
            write_case(process.inputs / f"{index + 100}.npz", volume(SHAPE), [BOX])
        running = process.start()
        first = [running.stdout.readline() for _ in range(3)]
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate()
        assert running.returncode == 143
        cases = [line.split(":")[0] for line in [*first, *out.splitlines()] if "object(s)" in line]
        assert process.names() == sorted(cases)
        assert all(read_output(process.outputs / name).shape == SHAPE for name in cases)
        assert f"error: told to stop; {302 - len(cases)} of 302 cases are not begun" in err.splitlines()

    def test_a_forward_that_never_ends_is_given_up(self, process: Process, ellipsoid: np.ndarray) -> None:
        """The network's thread is still at it, and the process ends all the same."""
        running = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_END, *process.line()[3:]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while "forward" not in running.stdout.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate()
        assert running.returncode == 143
        assert "1.npz: object 1: the network was too slow (told to stop)" in out
        assert "error: told to stop; 1 of 2 cases are not begun" in err.splitlines()
        assert process.names() == ["1.npz"]
        np.testing.assert_array_equal(read_output(process.outputs / "1.npz"), ellipsoid)
