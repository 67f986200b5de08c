"""Groups of cases side by side, such as sources seen in training and sources never seen: the figures of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.cases import list_cases
from evaluation.results import RUNS, CaseResult, Scores
from evaluation.summary import ALL, MODALITY_ORDER, Measured, mean_scores

HARM = 0.01
"""A click is harmful if its object's DSC is lower after it by more than this."""

WORST_PART = 0.1

ELSEWHERE = "in no folder"
"""The group of cases that have results and lie in none of several folders."""


@dataclass(frozen=True)
class GroupFigures:
    """What a contestant reaches in a group of cases, all with boxes or all without.

    Args:
        cases: how many the figures are over.
        scores: means over the modalities of the means over their cases, by the challenge's rules.
        clicks: how many clicks were made; one an object and run, where the object had an error.
        harmful_share: part of the clicks after which their object's DSC was lower by more than `HARM`; `None` without
            any click.
        worst_tenth: mean DSC after the last run of the tenth of the objects where it is lowest (rounded up); those of
            a case that counts 0 count 0.
        without_objects: cases whose result was written before the DSC of each object was kept; if there are any,
            `clicks` is 0 and both figures of objects are `None`.
        curves: by modality, means after each run.
    """

    cases: int
    scores: Scores
    clicks: int
    harmful_share: float | None
    worst_tenth: float | None
    without_objects: int
    curves: tuple["Curve", ...]


@dataclass(frozen=True)
class Curve:
    """Mean DSC of a modality's cases after each of the six runs; `None` for the first one if there were no boxes."""

    modality: str
    cases: int
    dsc: tuple[float | None, ...]

    @property
    def falls(self) -> tuple[bool, ...]:
        """For each run, whether the mean is lower after it than before."""
        pairs = pairwise(self.dsc)
        return (False, *(a is not None and b is not None and b < a for a, b in pairs))


@dataclass(frozen=True)
class GroupRow:
    """A contestant with or without boxes, and its figures in each group, `None` where it has no case."""

    contestant: str
    boxes: bool
    figures: Mapping[str, GroupFigures | None]


def group_titles(folders: Sequence[Path]) -> dict[str, str]:
    """Return the group of each case file by its name: the name of its folder, or the path if two have the same name.

    Raises:
        CaseError: a folder is missing or empty, or two hold a case of the same name.
    """
    list_cases(*folders)  # Only to find a case that two of them hold.
    names = [folder.absolute().name for folder in folders]
    titles = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    return {path.name: title for folder, title in zip(folders, titles, strict=True) for path in list_cases(folder)}


def side_by_side(folders: Sequence[Path] | None) -> dict[str, str] | None:
    """Return the titles by which several folders stand side by side, `None` if there are not several."""
    return group_titles(folders) if folders and len(folders) > 1 else None


def by_group(contestants: Sequence[Measured], titles: Mapping[str, str] | None = None) -> list[GroupRow]:
    """Return the figures of each contestant with boxes and without, in each group.

    Args:
        contestants: with their results.
        titles: the group of each case by its name; by default the one that it was measured in.
    """
    used = [result for contestant in contestants for result in contestant.usable]

    def group_of(result: CaseResult) -> str:
        return result.group or ALL if titles is None else titles.get(result.case, ELSEWHERE)

    known = sorted({result.group for result in used}) if titles is None else titles.values()
    present = set(map(group_of, used))
    order = [title for title in dict.fromkeys([*known, ALL, ELSEWHERE]) if title in present]
    rows = []
    for contestant in contestants:
        for boxes in (True, False):
            members: dict[str, list[CaseResult]] = {title: [] for title in order}
            for result in contestant.usable:
                if result.has_boxes == boxes:
                    members[group_of(result)].append(result)
            if any(members.values()):
                figures = {title: group_figures(results) if results else None for title, results in members.items()}
                rows.append(GroupRow(contestant.name, boxes, figures))
    return rows


def group_figures(results: Sequence[CaseResult]) -> GroupFigures:
    """Return the figures of cases that were all run with boxes, or all without; at least one."""
    by_modality = {
        modality: [result for result in results if result.modality == modality] for modality in MODALITY_ORDER
    }
    present = {modality: members for modality, members in by_modality.items() if members}
    scores = mean_scores(mean_scores(result.scores for result in members) for members in present.values())
    without_objects = sum(result.lacks_objects for result in results)
    known = [] if without_objects else results
    changes = [change for result in known for change in click_changes(result)]
    finals = [value for result in known for value in final_object_dsc(result)]
    return GroupFigures(
        cases=len(results),
        scores=scores,
        clicks=len(changes),
        harmful_share=sum(map(is_harmful, changes)) / len(changes) if changes else None,
        worst_tenth=mean_of_worst(finals) if finals else None,
        without_objects=without_objects,
        curves=tuple(_curve(modality, members) for modality, members in present.items()),
    )


def mean_of_worst(values: Sequence[float] | NDArray[np.floating]) -> float:
    """Return the mean of the tenth of at least one value where they are lowest, rounded up."""
    return float(np.mean(np.sort(values)[: ceil(WORST_PART * len(values))]))


def click_changes(result: CaseResult) -> list[float]:
    """Return, for each click of a case, how much its object's DSC changed in the run that was given it.

    Without boxes the first click starts from nothing, a DSC of 0. A run that left nothing to score has no clicks here.
    """
    changes = []
    before = (0.0,) * result.classes
    for step in result.steps:
        if step.object_dsc:
            changes += [
                later - earlier
                for earlier, later, click in zip(before, step.object_dsc, step.clicks, strict=False)
                if click is not None
            ]
            before = step.object_dsc
    return changes


def is_harmful(change: float) -> bool:
    return change < -HARM


def final_object_dsc(result: CaseResult) -> tuple[float, ...]:
    """Return the DSC of each object after the last run; 0 if the case counts 0."""
    return (0.0,) * result.classes if result.counts_zero else result.steps[-1].object_dsc


def _curve(modality: str, results: Sequence[CaseResult]) -> Curve:
    means = np.mean([(0.0,) * RUNS if result.counts_zero else result.dsc for result in results], axis=0)
    first = float(means[0]) if results[0].has_boxes else None
    return Curve(modality, len(results), (first, *(float(value) for value in means[1:])))
