"""What can be evaluated: a function in this process, a command, a Docker image; from an input to an output folder."""

import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inference.case import Case, read_case, write_segmentation
from inference.deadline import Deadline
from inference.refinement import ObjectReport
from inference.segmenter import Segmenter, segment_case

DOCKER_MEMORY = "32G"

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

    name: str
    """What the report calls it; also the name of its results folder."""

    identity: dict[str, str]
    """What it is, such as a command or a checksum of weights: results of different identities are not mixed."""

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

    def run(self, inputs: Path, outputs: Path, case_name: str, patience: float) -> RunOutcome:
        words = [word.format(inputs=inputs, outputs=outputs) for word in shlex.split(self.command)]
        _run(words, patience)
        return RunOutcome()


@dataclass(frozen=True)
class DockerImage:
    """A Docker image, run with the organizers' line (`CVPR25_iter_eval.py`), on the GPU where there is one."""

    name: str
    image: str
    image_id: str

    @property
    def identity(self) -> dict[str, str]:
        return {"image": self.image, "id": self.image_id}

    @property
    def _container(self) -> str:
        return f"{self.name}-evaluation"

    def command(self, inputs: Path, outputs: Path) -> list[str]:
        """Return the words of the organizers' command line."""
        gpu = ["--gpus", "device=0"] if torch.cuda.is_available() else []
        volumes = ["-v", f"{inputs}/:/workspace/inputs/", "-v", f"{outputs}/:/workspace/outputs/"]
        options = [*gpu, "-m", DOCKER_MEMORY, "--name", self._container, "--rm", *volumes]
        return ["docker", "container", "run", *options, self.image, "/bin/bash", "-c", "sh predict.sh"]

    def run(self, inputs: Path, outputs: Path, case_name: str, patience: float) -> RunOutcome:
        try:
            _run(self.command(inputs, outputs), patience)
        except ContestantError:
            # Stopping the client does not stop the container, and the next run needs its name.
            subprocess.run(["docker", "container", "rm", "--force", self._container], capture_output=True, check=False)
            raise
        return RunOutcome()


def _run(words: list[str], patience: float) -> None:
    """Run a command and pass its output on to stderr, where the progress bar is too."""
    try:
        finished = subprocess.run(words, timeout=patience, stdout=sys.stderr, check=False)
    except subprocess.TimeoutExpired as error:
        raise ContestantError(f"stopped after {patience:.0f} s") from error
    except OSError as error:
        raise ContestantError(f"{words[0]}: cannot be started ({error.strerror})") from error
    if finished.returncode != 0:
        raise ContestantError(f"exit code {finished.returncode}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
