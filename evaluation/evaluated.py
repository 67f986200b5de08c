"""A case of an evaluation as it can be looked at: image, truth, and each run with the clicks that it was given."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluation.case_page import Layer, Run
from evaluation.cases import EvaluationCase, read_evaluation_case, without_boxes
from evaluation.results import CaseResult, ResultsFolder, list_results
from inference.case import Case, CaseError, Click

NAMED = 8
"""Cases that a message names at most."""


def focused(folders: Sequence[ResultsFolder], name: str | None, option: str) -> list[ResultsFolder]:
    """Return the contestants in the order in which they are shown: the one in focus first, the baselines last.

    Args:
        folders: at least one.
        name: of the one in focus; by default the first that is no baseline.
        option: where the name was given, for the message.

    Raises:
        CaseError: there is no such contestant.
    """
    names = [folder.name for folder in folders]
    if name is not None and name not in names:
        raise CaseError(f"{option} {name}: no such contestant; expected one of {', '.join(names)}")
    return sorted(folders, key=lambda folder: (folder.name != name, folder.is_baseline, folder.name))


def read_evaluated(
    results: Path,
    name: str,
    contestant: str | None = None,
    boxes_dropped: bool = False,
    cases: Sequence[Path] | None = None,
    truths: Path | None = None,
) -> tuple[Case, Layer, list[Run]]:
    """Read what an evaluation left of a case, and the case that it was measured on.

    Args:
        results: the results folder of all contestants.
        name: the case's, with `.npz` or without.
        contestant: by default the first that is no baseline.
        boxes_dropped: only the runs that were made without the boxes that the case has; by default those with them,
            if there are any.
        cases: folders in which the case lies; by default the file that was measured.
        truths: the folder of its ground truth; by default the one that was measured with.

    Returns:
        The image, with the boxes that the runs were given; the truth; the runs.

    Raises:
        CaseError: there is no such contestant or case, nothing usable was written for it, or the case file is missing
            or another one than was measured.
    """
    folder = focused(list_results(results), contestant, "--name")[0]
    result = _result(folder, f"{name.removesuffix('.npz')}.npz", boxes_dropped)
    case = read_measured(result, cases, truths)
    runs = [
        Run(
            title,
            tuple(
                replace(item, clicks=tuple(Click(*click) for click in clicks))
                for item, clicks in zip(case.objects, made, strict=True)
            ),
            labels,
        )
        for title, made, labels in zip(
            result.run_titles, result.clicks_so_far, folder.read_segmentations(result), strict=False
        )
    ]
    notes = (f"{folder.name}: {result.remark}",) if result.remark else (folder.name,)
    shown = Case(case.name, case.image, case.spacing, case.objects, notes=notes)
    return shown, Layer("truth", case.truth.astype(np.uint8)), runs


def read_measured(
    result: CaseResult, cases: Sequence[Path] | None = None, truths: Path | None = None
) -> EvaluationCase:
    """Read the case of a result, without its boxes if they were taken from it; arguments as of `read_evaluated`.

    Raises:
        CaseError: the case file is missing, unreadable, or another one than was measured.
    """
    case = read_evaluation_case(_case_file(result, cases), truths or (Path(result.truths) if result.truths else None))
    if result.boxes_dropped:
        case = without_boxes(case)
    if not result.is_of(case.checksum):
        raise CaseError(f"{result.case}: is another file than was measured; evaluate it again, or give it with --cases")
    return case


def _result(folder: ResultsFolder, name: str, boxes_dropped: bool) -> CaseResult:
    """Return the case's result; without its boxes if that is asked for, or if there is no other."""
    found = [result for result in folder.read_all() if result.boxes_dropped or not boxes_dropped]
    of_case = sorted((result for result in found if result.case == name), key=lambda result: result.boxes_dropped)
    for result in of_case:
        if folder.has_segmentations(result):
            return result
    if of_case:
        raise CaseError(f"{name}: no run of {folder.name} left a label map: {of_case[0].remark}")
    names = list(dict.fromkeys(result.case.removesuffix(".npz") for result in found))
    listed = ", ".join(names[:NAMED]) + (f" or {len(names) - NAMED} others" if len(names) > NAMED else "")
    raise CaseError(
        f"--case {name}: {folder.name} has no result of it{' without its boxes' if boxes_dropped else ''}; "
        f"expected one of: {listed or 'there is none'}"
    )


def _case_file(result: CaseResult, cases: Sequence[Path] | None) -> Path:
    candidates = [folder / result.case for folder in cases or ()]
    if cases is None and result.source:
        candidates = [Path(result.source)]
    for path in candidates:
        if path.is_file():
            return path
    searched = ", ".join(str(path.parent) for path in candidates) or "the results do not say where it was"
    raise CaseError(f"{result.case}: the case file is not there ({searched}); give --cases FOLDER that holds it")
