"""What an evaluation leaves on disk, and the scores of a case.

A results folder holds one folder a contestant:

    CONTESTANT/contestant.json                    what it is
    CONTESTANT/with_boxes/CASE.json               scores, clicks and times of a case
    CONTESTANT/with_boxes/CASE.segmentations.npz  `segs`, the label maps of its runs, for the report's pictures
    CONTESTANT/without_boxes/…                    the same for cases that have no boxes, or were run without them
    CONTESTANT/unusable/CASE.json                 why a case could not be evaluated
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from evaluation.cases import PlacedClick
from evaluation.metrics import area_under_curve
from evaluation.modality import modality_of
from inference.atomic import replacing
from inference.case import CaseError

RUNS = 6
"""The run with the box alone, and five with clicks. Without boxes there is no first run; it counts as 0."""

KINDS = WITH_BOXES, WITHOUT_BOXES, UNUSABLE = "with_boxes", "without_boxes", "unusable"
COUNTED = "objects"
"""What a calibration has counted, in the folder of one."""

CONTESTANT_FILE = "contestant.json"


@dataclass(frozen=True)
class StepResult:
    """One run of a case.

    Args:
        seconds: its running time.
        dsc: mean over the objects.
        nsd: mean over the objects.
        clicks: for each object the click that was new in this run, `None` where there was no error; empty in the run
            with boxes alone.
        note: what went wrong in it, else empty.
        object_dsc: DSC of each object in the order of the labels; empty if the run left nothing to score, or if the
            result was written before this was kept.
        failed_objects: how many objects the network failed on, where the contestant tells.
        given_up: what objects were not given for lack of time or memory or because something failed, where the
            contestant tells.
    """

    seconds: float
    dsc: float
    nsd: float
    clicks: tuple[PlacedClick | None, ...] = ()
    note: str = ""
    object_dsc: tuple[float, ...] = ()
    failed_objects: int = 0
    given_up: str = ""


@dataclass(frozen=True)
class CaseResult:
    """All runs of a case.

    Args:
        case: the file's name.
        classes: K, the number of objects.
        has_boxes: the runs were given boxes.
        boxes_dropped: the file has boxes, the runs were not given them.
        limit_seconds: what the runs may take together.
        steps: the runs that were made, at most six with boxes and five without.
        failure: why the case counts 0 or cannot be scored, else empty.
        scorable: false if the case itself is at fault, not the contestant; it is left out of every mean.
        measured_on: the case's checksum; empty in results from before it was kept.
        source: the case file's absolute path where it was measured; empty in results from before it was kept.
        truths: the same of the folder of ground truths; empty if the case file held them.
        group: what the folder of cases is called (:func:`evaluation.groups.group_titles`).
    """

    case: str
    classes: int
    has_boxes: bool
    boxes_dropped: bool
    limit_seconds: float
    steps: tuple[StepResult, ...]
    failure: str = ""
    scorable: bool = True
    measured_on: str = ""
    source: str = ""
    truths: str = ""
    group: str = ""

    @property
    def kind(self) -> str:
        """The folder that it lies in."""
        if not self.scorable:
            return UNUSABLE
        return WITH_BOXES if self.has_boxes else WITHOUT_BOXES

    def is_of(self, checksum: str) -> bool:
        """Say whether it was measured on the case of this checksum, and not on one of the same name before it."""
        return self.measured_on in ("", checksum)

    @property
    def modality(self) -> str:
        return modality_of(self.case)

    @property
    def running_times(self) -> tuple[float, ...]:
        """Seconds of the six runs; 0 for a run that was not made."""
        return self._six([step.seconds for step in self.steps])

    @property
    def total_seconds(self) -> float:
        return sum(self.running_times)

    @property
    def over_time(self) -> bool:
        return self.total_seconds > self.limit_seconds

    @property
    def dsc(self) -> tuple[float, ...]:
        """Raw DSC of the six runs."""
        return self._six([step.dsc for step in self.steps])

    @property
    def nsd(self) -> tuple[float, ...]:
        """Raw NSD of the six runs."""
        return self._six([step.nsd for step in self.steps])

    @property
    def raw_scores(self) -> "Scores":
        """The challenge's four scores as the organizers' script prints them, whatever the time."""
        return Scores(area_under_curve(self.dsc), area_under_curve(self.nsd), self.dsc[-1], self.nsd[-1])

    @property
    def failed_objects(self) -> int:
        """How many objects the network failed on, over all runs, where the contestant tells."""
        return sum(step.failed_objects for step in self.steps)

    @property
    def lacks_objects(self) -> bool:
        """Whether the result does not say how good each object was: it was written before that was kept."""
        return self.scorable and not self.failure and not all(step.object_dsc for step in self.steps)

    @property
    def counts_zero(self) -> bool:
        return self.over_time or bool(self.failure)

    @property
    def failed_throughout(self) -> bool:
        """Whether no run of the case went as it should."""
        return bool(self.failure) or all(step.note for step in self.steps)

    @property
    def run_titles(self) -> tuple[str, ...]:
        """What each run that was made is called: `box`, `1 click`, `2 clicks`, …"""
        first = 0 if self.has_boxes else 1
        clicks = range(first, first + len(self.steps))
        return tuple(f"{click} click{'s' if click > 1 else ''}" if click else "box" for click in clicks)

    @property
    def clicks_so_far(self) -> tuple[tuple[tuple[PlacedClick, ...], ...], ...]:
        """For each run and object, the clicks that the run was given: its new one and those before."""
        made: list[tuple[PlacedClick, ...]] = [()] * self.classes
        runs = []
        for step in self.steps:
            new = step.clicks or (None,) * self.classes
            made = [clicks if click is None else (*clicks, click) for clicks, click in zip(made, new, strict=True)]
            runs.append(tuple(made))
        return tuple(runs)

    @property
    def scores(self) -> "Scores":
        """The challenge's four scores by its rules: 0 for a case that failed or took too long."""
        return Scores(0.0, 0.0, 0.0, 0.0) if self.counts_zero else self.raw_scores

    @property
    def remark(self) -> str:
        """Everything that a reader should know about the case, in one line."""
        notes = [self.failure] if self.failure else []
        runs_by_note: dict[str, list[str]] = {}
        for run, step in enumerate(self.steps, 1 if self.has_boxes else 2):
            for note in (step.note, self._failed_note(step), step.given_up):
                if note:
                    runs_by_note.setdefault(note, []).append(str(run))
        notes += [f"run{'s' if len(runs) > 1 else ''} {', '.join(runs)}: {note}" for note, runs in runs_by_note.items()]
        if self.over_time:
            notes.append(f"over time ({self.total_seconds:.0f} s of {self.limit_seconds:.0f} s)")
        return "; ".join(notes)

    def _failed_note(self, step: StepResult) -> str:
        return f"the network failed on {step.failed_objects} of {self.classes} objects" if step.failed_objects else ""

    def _six(self, values: list[float]) -> tuple[float, ...]:
        """Put a run's values in their places: a case without boxes begins with the second run."""
        values = ([] if self.has_boxes else [0.0]) + values
        return tuple(values + [0.0] * (RUNS - len(values)))


@dataclass(frozen=True)
class Scores:
    """The four scores by which the challenge ranks: AUC in [0, 4], Final in [0, 1]."""

    dsc_auc: float
    nsd_auc: float
    dsc_final: float
    nsd_final: float


class ResultsFolder:
    """The results of one contestant.

    Raises:
        CaseError: the folder holds the results of something else.
    """

    def __init__(self, path: Path, identity: dict[str, str] | None = None):
        self.path = path
        self.name = path.name
        file = path / CONTESTANT_FILE
        # A contestant that was corrected before anything was measured may keep its name.
        if identity is not None and not any(next((path / kind).glob("*.json"), None) for kind in (*KINDS, COUNTED)):
            write_atomically(file, lambda stream: stream.write(_json(identity)))
        self.identity: dict[str, str] = json.loads(file.read_text())
        if identity is not None and self.identity != identity:
            pairs = ((self.identity, identity), (identity, self.identity))  # What differs is enough.
            theirs, ours = (dict(sorted(one.items() - other.items())) for one, other in pairs)
            raise CaseError(
                f"{path}: holds the results of {theirs}; expected {ours}: choose another --name or --results"
            )

    @property
    def is_baseline(self) -> bool:
        return "baseline" in self.identity

    def read(self, case_name: str, has_boxes: bool) -> CaseResult | None:
        """Return a case's result, `None` if it has not been evaluated."""
        file = self._file(case_name, WITH_BOXES if has_boxes else WITHOUT_BOXES, ".json")
        return _case_result(file) if file.exists() else None

    def read_all(self) -> list[CaseResult]:
        """Return the results in the order of the cases' names: with boxes, without boxes, unusable."""
        return [_case_result(file) for kind in KINDS for file in sorted((self.path / kind).glob("*.json"))]

    def has_segmentations(self, result: CaseResult) -> bool:
        """Say whether label maps were kept of the case: there are none if its first output was unusable."""
        return self._file(result.case, result.kind, ".segmentations.npz").exists()

    def read_segmentations(self, result: CaseResult) -> NDArray[np.uint8]:
        """Return the label maps of the case's runs: (runs, D, H, W)."""
        with np.load(self._file(result.case, result.kind, ".segmentations.npz"), allow_pickle=False) as arrays:
            return arrays["segs"]

    def write(self, result: CaseResult, segmentations: list[NDArray[np.uint8]]) -> None:
        """Write a case's result; the scores last, so that a case with scores is complete."""
        self.discard(result.case, result.kind)  # Of a case of that name before it.
        if segmentations:
            file = self._file(result.case, result.kind, ".segmentations.npz")
            write_atomically(file, lambda stream: np.savez_compressed(stream, segs=np.stack(segmentations)))
        self.write_scores(result)

    def write_scores(self, result: CaseResult) -> None:
        """Write a case's result; its label maps are there already."""
        file = self._file(result.case, result.kind, ".json")
        write_atomically(file, lambda stream: stream.write(_json(asdict(result))))

    def discard(self, case_name: str, kind: str) -> None:
        """Forget a case's result of a kind, as the file is another one now."""
        for suffix in (".json", ".segmentations.npz"):
            self._file(case_name, kind, suffix).unlink(missing_ok=True)

    def _file(self, case_name: str, kind: str, suffix: str) -> Path:
        return self.path / kind / (case_name.removesuffix(".npz") + suffix)


def list_results(results: Path) -> list[ResultsFolder]:
    """Return the contestants of a results folder by name.

    Raises:
        CaseError: there are none.
    """
    folders = [ResultsFolder(file.parent) for file in sorted(results.glob(f"*/{CONTESTANT_FILE}"))]
    if not folders:
        raise CaseError(f"{results}: no results in it; expected folders written by `segfm3d evaluate`")
    return folders


def _case_result(file: Path) -> CaseResult:
    try:
        fields = json.loads(file.read_text())
        steps = tuple(
            StepResult(
                **step
                | {
                    "clicks": tuple(click and (tuple(click[0]), click[1]) for click in step["clicks"]),
                    "object_dsc": tuple(step.get("object_dsc", ())),
                }
            )
            for step in fields.pop("steps")
        )
        return CaseResult(steps=steps, **fields)
    except (ValueError, TypeError, KeyError) as error:
        raise CaseError(
            f"{file}: not a case's result ({error}); expected a file written by `segfm3d evaluate`"
        ) from error


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears whole or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished, unfinished.open("wb") as stream:
        write(stream)
