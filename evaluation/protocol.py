"""The organizers' protocol: a case is run with its box, then five times with one more click an object, and scored."""

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.cases import EvaluationCase, PlacedClick, read_evaluation_case, without_boxes, write_step_input
from evaluation.contestants import Contestant, ContestantError, RunOutcome
from evaluation.metrics import CLICK_RUNS, object_labels, score_segmentation
from evaluation.results import UNUSABLE, WITHOUT_BOXES, CaseResult, ResultsFolder, StepResult
from evaluation.simulated_user import click_from_error
from inference.case import CaseError
from inference.npz import NpzError, read_array

SECONDS_PER_CLASS = 90.0

PATIENCE = 3.0
"""A run is stopped after this many times what all runs of the case may take: the case scores 0 long before."""


class OutputError(ValueError):
    """An output that would stop the organizers' evaluation; the message is one line."""


def evaluate(
    contestant: Contestant,
    paths: Iterable[Path],
    results: ResultsFolder,
    *,
    truths: Path | None = None,
    drop_boxes: bool = False,
    seconds_per_class: float = SECONDS_PER_CLASS,
    groups: Mapping[str, str] | None = None,
) -> list[CaseResult]:
    """Evaluate a contestant on cases, one after the other, and write each result when it is there.

    Cases that have a result already are left as they are. A case that cannot be used and a contestant that fails become
    a result with the reason.

    Args:
        contestant: what is evaluated.
        paths: the case files.
        results: where the results go.
        truths: a folder with the ground truths, if the case files do not hold them.
        drop_boxes: run every case as if it had no boxes.
        seconds_per_class: what all runs of a case together may take for each of its objects.
        groups: the group of each case by its name.
    """
    collected = []
    progress = tqdm(list(paths), unit="case", desc=contestant.name)
    for path in progress:
        where = {
            "source": str(path.absolute()),
            "truths": "" if truths is None else str(truths.absolute()),
            "group": (groups or {}).get(path.name, ""),
        }
        result = _evaluate_path(contestant, path, results, truths, drop_boxes, seconds_per_class, where)
        if result.remark:
            tqdm.write(f"{contestant.name}: {result.case}: {result.remark}")
        collected.append(result)
        scored = [item.scores for item in collected if item.scorable]
        if scored:
            dsc, nsd = (np.mean([getattr(item, key) for item in scored]) for key in ("dsc_final", "nsd_final"))
            progress.set_postfix_str(f"mean final DSC {dsc:.3f}, NSD {nsd:.3f}")
    return collected


def _evaluate_path(
    contestant: Contestant,
    path: Path,
    results: ResultsFolder,
    truths: Path | None,
    drop_boxes: bool,
    seconds_per_class: float,
    where: dict[str, str],
) -> CaseResult:
    try:
        case = read_evaluation_case(path, truths)
    except CaseError as error:
        reason = str(error).removeprefix(f"{path.name}: ")
        result = CaseResult(path.name, 0, False, drop_boxes, 0.0, (), failure=reason, scorable=False, **where)
        results.write(result, [])
        return result
    results.discard(path.name, UNUSABLE)
    if case.has_boxes and (old := results.read(path.name, has_boxes=False)) and not old.boxes_dropped:
        results.discard(path.name, WITHOUT_BOXES)  # Of a file that had no boxes.
    if drop_boxes:
        case = without_boxes(case)
    done = results.read(case.name, case.has_boxes)
    if done is not None and done.is_of(case.checksum):
        moved = replace(done, **where)
        if moved != done:
            results.write_scores(moved)
        return moved
    result, segmentations = evaluate_case(case, contestant, seconds_per_class)
    result = replace(result, measured_on=case.checksum, **where)
    results.write(result, segmentations)
    return result


def evaluate_case(
    case: EvaluationCase, contestant: Contestant, seconds_per_class: float = SECONDS_PER_CLASS
) -> tuple[CaseResult, list[NDArray[np.uint8]]]:
    """Run a contestant on one case and score it after every run.

    A run that fails or writes nothing leaves the previous run's output standing, as the organizers have it. A case for
    which nothing was ever written, and one whose output cannot be used, counts 0.

    Returns:
        The result, and the (D, H, W) label map after each run.
    """
    labels = object_labels(case.truth)
    limit = seconds_per_class * len(labels)
    clicks: list[list[PlacedClick | None]] = [[] for _ in labels]
    current = np.zeros(case.truth.shape, np.uint8)
    steps: list[StepResult] = []
    segmentations: list[NDArray[np.uint8]] = []
    failure = ""
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        inputs, outputs = _workspace(Path(folder))
        output = outputs / case.name
        for with_clicks in ([False] if case.has_boxes else []) + [True] * CLICK_RUNS:
            new_clicks: list[PlacedClick | None] = []
            if with_clicks:
                new_clicks = [click_from_error(current == label, case.truth == label) for label in labels]
                for earlier, click in zip(clicks, new_clicks, strict=True):
                    earlier.append(click)
            write_step_input(inputs / case.name, case, clicks, current if with_clicks else None)
            seconds, note, outcome = _timed_run(contestant, inputs, outputs, case.name, PATIENCE * limit)
            told = partial(StepResult, failed_objects=outcome.failed_objects, given_up=outcome.given_up)
            try:
                written = _read_output(output, case) if output.exists() else None
            except OutputError as error:
                steps.append(told(seconds, 0.0, 0.0, tuple(new_clicks), note))
                failure = f"{error} (the organizers would stop the team's evaluation here); the case counts 0"
                break
            segmentation = np.zeros(case.truth.shape, np.uint8) if written is None else written
            scores = score_segmentation(case.truth, segmentation, case.spacing)
            current = segmentation.astype(np.uint8)
            segmentations.append(current)
            steps.append(told(seconds, scores.dsc, scores.nsd, tuple(new_clicks), note, scores.object_dsc))
        else:
            if not output.exists():
                failure = (
                    f"wrote no {case.name} (the organizers would leave the case out of their table); the case counts 0"
                )
    return CaseResult(
        case.name, len(labels), case.has_boxes, case.boxes_dropped, limit, tuple(steps), failure
    ), segmentations


def _workspace(folder: Path) -> tuple[Path, Path]:
    """Make the two folders that runs see; anyone may write to them, as a container's user may be anyone."""
    folder.chmod(0o755)
    inputs, outputs = folder / "inputs", folder / "outputs"
    for each in (inputs, outputs):
        each.mkdir()
        each.chmod(0o777)
    return inputs, outputs


def _timed_run(
    contestant: Contestant, inputs: Path, outputs: Path, case_name: str, patience: float
) -> tuple[float, str, RunOutcome]:
    """Return the seconds that a run took, what went wrong in it, and what the contestant tells of it."""
    before = _stamp(outputs / case_name)
    start = time.perf_counter()
    notes, outcome = [], RunOutcome()
    try:
        outcome = contestant.run(inputs, outputs, case_name, patience)
    except ContestantError as error:
        notes.append(str(error))
    seconds = time.perf_counter() - start
    if _stamp(outputs / case_name) == before:
        notes.append("nothing written, the previous output stands" if before else "nothing written, taken as empty")
    return seconds, ", ".join(notes), outcome


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _read_output(path: Path, case: EvaluationCase) -> NDArray:
    """Return the label map that a contestant wrote.

    Raises:
        OutputError: it is not one for this case.
    """
    try:
        segmentation = read_array(path, "segs")
    except NpzError as error:
        raise OutputError(f"wrote no label map that can be read: {error}") from error
    if segmentation.shape != case.truth.shape:
        raise OutputError(f"wrote shape {segmentation.shape}; expected {case.truth.shape}")
    if segmentation.dtype.kind not in "bui":
        raise OutputError(f"wrote dtype {segmentation.dtype}; expected uint8")
    return segmentation
