"""What can be evaluated: a function in this process, a command, a Docker image; from an input to an output folder."""

import secrets
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inference.case import Case, CaseError, Click, ObjectPrompts, read_case, write_segmentation
from inference.deadline import Deadline
from inference.refinement import ObjectReport
from inference.segmenter import Segmenter, segment_case

DOCKER_MEMORY = "32G"

PLACEHOLDERS = ("{inputs}", "{outputs}")
"""What stands for the two folders in a command."""

STDERR = 2
"""The file descriptor, which is there even where `sys.stderr` is no file."""

START_SECONDS = 120.0
"""What the start of a container may take."""

UNHURRIED = 3600.0
"""Seconds a run, where it is measured what weights can and not how fast this machine is."""


class ContestantError(RuntimeError):
    """A run that went wrong; the message is one line."""


@dataclass(frozen=True)
class RunOutcome:
    """What a contestant tells of a run that ended well, as far as it can.

    Args:
        failed_objects: how many objects the network failed on, so that something else was written for them.
        given_up: what objects were not given for lack of time or memory or because something failed, in one line.
    """

    failed_objects: int = 0
    given_up: str = ""


class Contestant(Protocol):
    """Something that segments the one case in an input folder into a file of the same name in an output folder."""

    @property
    def name(self) -> str:
        """What the report calls it; also the name of its results folder."""

    @property
    def identity(self) -> dict[str, str]:
        """What it is, such as a command or a checksum of weights: results of different identities are not mixed."""

    def check(self) -> None:
        """Find out whether it can run at all, before the first case.

        Raises:
            CaseError: it cannot; the message is one line.
        """

    def run(self, inputs: Path, outputs: Path, case_name: str, patience: float) -> RunOutcome:
        """Segment `inputs/case_name` into `outputs/case_name`, or be stopped after `patience` seconds (as far as it can
        be).

        Raises:
            ContestantError: the run failed. An older output may still lie there; the organizers would take it.
        """


@dataclass(frozen=True)
class InProcess:
    """A function of this process: the segmenter without a container around it, or a baseline.

    Its running times leave out what a container adds: start, imports and loading weights.

    Args:
        segment: returns the (D, H, W) label map of a case.
        segmenter: what `segment` runs, if it is one: it knows what became of each object.
    """

    name: str
    identity: dict[str, str]
    segment: Callable[[Case], NDArray[np.uint8]]
    segmenter: Segmenter | None = None

    def check(self) -> None:
        """Segment an image of a few voxels. Of weights nothing is left to find out once they are loaded."""
        if self.segmenter is not None:
            return
        image = np.zeros((8, 8, 8), np.uint8)
        image[2:6, 2:6, 2:6] = 200
        clicked = ObjectPrompts(1, clicks=(Click((4, 4, 4), positive=True),))
        try:
            self.segment(Case("check.npz", image, (1.0, 1.0, 1.0), (clicked,)))
        except Exception as error:  # Whatever it is, it would come again with every case.
            raise CaseError(
                f"{self.name}: cannot run here ({type(error).__name__}: {_one_line(str(error))}); "
                "expected what requirements-dev.txt lists to be installed"
            ) from error

    def run(self, inputs: Path, outputs: Path, case_name: str, patience: float) -> RunOutcome:
        before = 0 if self.segmenter is None else self.segmenter.failures
        try:
            write_segmentation(outputs / case_name, self.segment(read_case(inputs / case_name)))
        except Exception as error:  # Whatever a contestant does wrong is its own failure, not the evaluation's.
            raise ContestantError(f"{type(error).__name__}: {_one_line(str(error))}") from error
        if self.segmenter is None:
            return RunOutcome()
        return RunOutcome(self.segmenter.failures - before, given_up(self.segmenter.reports.values()))


def given_up(reports: Collection[ObjectReport]) -> str:
    """Return what the objects of a case were not given, in one line, with how many of them where it is not all."""
    counts = Counter(what for report in reports for what in dict.fromkeys(report.given_up))
    return ", ".join(
        _one_line(what) + (f" ({count} of {len(reports)} objects)" if count < len(reports) else "")
        for what, count in counts.items()
    )


def unhurried(segmenter: Segmenter) -> InProcess:
    """A segmenter in this process that has all the time it wants, and so need not measure what a forward costs."""
    segmenter.predictor.seconds.setdefault(segmenter.config.patch, 0.0)

    def segment(case: Case) -> NDArray[np.uint8]:
        return segment_case(case, segmenter, Deadline(UNHURRIED), log=lambda line: None)

    return InProcess("unhurried", {}, segment, segmenter)


@dataclass(frozen=True)
class Command:
    """Any command; `{inputs}` and `{outputs}` in it stand for the two folders."""

    name: str
    command: str

    @property
    def identity(self) -> dict[str, str]:
        return {"command": self.command}

    def check(self) -> None:
        """Look for both placeholders, and for the program."""
        if missing := [name for name in PLACEHOLDERS if name not in self.command]:
            raise CaseError(
                f"--command: no {' and no '.join(missing)} in {self.command!r}; expected both, such as in 'segment "
                "--from {inputs} --to {outputs}': they become the folder to read and the folder to write"
            )
        try:
            program = shlex.split(self.command)[0]
        except ValueError as error:
            raise CaseError(f"--command: {self.command!r} cannot be read ({error}); expected closed quotes") from error
        if shutil.which(program) is None:
            raise CaseError(
                f"--command: {program}: no such program, or it is not executable; expected the name of one that can be "
                "started from this folder"
            )

    def run(self, inputs: Path, outputs: Path, case_name: str, patience: float) -> RunOutcome:
        folders = dict(zip(PLACEHOLDERS, map(str, (inputs, outputs))))
        _run([_filled(word, folders) for word in shlex.split(self.command)], patience)
        return RunOutcome()


@dataclass(frozen=True)
class DockerImage:
    """A Docker image, run with the organizers' line (`CVPR25_iter_eval.py`), on the GPU where there is one."""

    name: str
    image: str
    image_id: str
    # Of its own, as another evaluation of the image may run beside it.
    container: str = field(default_factory=lambda: f"evaluation-{secrets.token_hex(6)}", compare=False)

    @property
    def identity(self) -> dict[str, str]:
        return {"image": self.image, "id": self.image_id}

    def command(self, inputs: Path, outputs: Path) -> list[str]:
        """Return the words of the organizers' command line."""
        gpu = ["--gpus", "device=0"] if torch.cuda.is_available() else []
        volumes = ["-v", f"{inputs}/:/workspace/inputs/", "-v", f"{outputs}/:/workspace/outputs/"]
        options = [*gpu, "-m", DOCKER_MEMORY, "--name", self.container, "--rm", *volumes]
        return ["docker", "container", "run", *options, self.image, "/bin/bash", "-c", "sh predict.sh"]

    def check(self) -> None:
        """Start a container as each run does, and look for `predict.sh` in it."""
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
            words = [
                *self.command(Path(folder), Path(folder))[:-1],
                "test -f predict.sh || { echo no predict.sh; false; }",
            ]
            try:
                started = subprocess.run(words, capture_output=True, text=True, timeout=START_SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                self._remove()
                raise CaseError(f"{self.image}: cannot be started ({_one_line(str(error))})") from error
        if started.returncode != 0:
            self._remove()
            said = _one_line(started.stderr + started.stdout)
            raise CaseError(
                f"{self.image}: cannot be started ({said or f'exit code {started.returncode}'}); expected an image "
                "that runs /bin/bash -c 'sh predict.sh' in its working folder"
            )

    def run(self, inputs: Path, outputs: Path, case_name: str, patience: float) -> RunOutcome:
        try:
            _run(self.command(inputs, outputs), patience)
        except ContestantError:
            self._remove()
            raise
        return RunOutcome()

    def _remove(self) -> None:
        """Stopping the client does not stop the container, and the next run needs its name."""
        if shutil.which("docker"):
            subprocess.run(["docker", "container", "rm", "--force", self.container], capture_output=True, check=False)


def image_id(image: str) -> str:
    """Return the image's id, so that results of a rebuilt image are not mixed with the old one's.

    Raises:
        CaseError: there is no such image here, or no Docker.
    """
    words = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    try:
        finished = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CaseError(
            f"{image}: docker cannot be started ({error.strerror}); expected Docker on this machine"
        ) from error
    if finished.returncode != 0:
        said = _one_line(finished.stderr)
        raise CaseError(f"{image}: no such Docker image here ({said}); load it with `docker image load -i`")
    return finished.stdout.strip()


def _run(words: list[str], patience: float) -> None:
    """Run a command and pass its output on to stderr, where the progress bar is too.

    Raises:
        ContestantError: it failed, or took too long.
        CaseError: it could not be started, which is no measurement of it.
    """
    try:
        finished = subprocess.run(words, timeout=patience, stdout=STDERR, check=False)
    except subprocess.TimeoutExpired as error:
        raise ContestantError(f"stopped after {patience:.0f} s") from error
    except OSError as error:
        raise CaseError(
            f"{words[0]}: cannot be started ({error.strerror}); expected a program, or a script that begins with "
            "#! and an interpreter that is there"
        ) from error
    if finished.returncode != 0:
        raise ContestantError(f"exit code {finished.returncode}")


def _filled(word: str, folders: dict[str, str]) -> str:
    """Not `str.format`: braces mean something to shells and to awk, too."""
    for placeholder, folder in folders.items():
        word = word.replace(placeholder, folder)
    return word


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
