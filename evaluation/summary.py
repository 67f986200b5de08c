"""From cases to tables: mean scores by modality and by boxes, beside the published ones."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from evaluation.modality import MODALITIES, OTHER
from evaluation.published import ABSTRACT, PAPER, TABLE_3, TABLE_4, TABLE_4_OVERALL
from evaluation.results import CaseResult, Scores

MODALITY_ORDER = (*(item.title for item in MODALITIES.values()), OTHER)

ALL = "All cases"


@dataclass(frozen=True)
class Measured:
    """A contestant and its results, as the report shows them."""

    name: str
    results: tuple[CaseResult, ...]

    @property
    def usable(self) -> tuple[CaseResult, ...]:
        """The cases that could be evaluated, failures of the contestant included."""
        return tuple(result for result in self.results if result.scorable)

    @property
    def as_provided(self) -> tuple[CaseResult, ...]:
        """The usable cases as their files are: without those from which the boxes were taken."""
        return tuple(result for result in self.usable if not result.boxes_dropped)


@dataclass(frozen=True)
class TableRow:
    """One line of a table.

    Args:
        method: a contestant or a published method.
        cases: how many cases the means are over, `None` for a published method.
        scores: means by the challenge's rules.
        raw: means without its time limit and without the zeros for failed cases, where they differ.
    """

    method: str
    cases: int | None
    scores: Scores
    raw: Scores | None = None


@dataclass(frozen=True)
class TableGroup:
    """Lines that are to be compared with each other."""

    title: str
    boxes: bool | None
    rows: tuple[TableRow, ...]


def by_modality(contestants: Sequence[Measured]) -> list[TableGroup]:
    """Return the paper's Table 3 with our rows: the cases as provided, a group a modality, and one for all cases."""
    groups = []
    for modality in MODALITY_ORDER:
        published = [TableRow(method, None, scores) for method, scores in TABLE_3.get(modality, {}).items()]
        measured = _rows(
            contestants, lambda item, modality=modality: item.modality == modality and not item.boxes_dropped
        )
        if measured or published:
            groups.append(TableGroup(modality, None, (*published, *measured)))
    overall = _rows(contestants, lambda item: not item.boxes_dropped)
    return [*groups, TableGroup(ALL, None, (TableRow(PAPER, None, ABSTRACT), *overall))]


def by_boxes(contestants: Sequence[Measured]) -> list[TableGroup]:
    """Return the paper's Table 4 with our rows: a group for each modality and for all cases, with boxes and without."""
    groups = []
    for modality in (*MODALITY_ORDER, ALL):
        for boxes in (True, False):
            paper = TABLE_4_OVERALL[boxes] if modality == ALL else TABLE_4.get((modality, boxes))
            published = [TableRow(PAPER, None, paper)] if paper else []
            measured = _rows(
                contestants,
                lambda item, modality=modality, boxes=boxes: (
                    item.has_boxes == boxes and modality in (ALL, item.modality)
                ),
            )
            if measured or published:
                groups.append(TableGroup(modality, boxes, (*published, *measured)))
    return groups


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Return the mean of each score."""
    return Scores(*(float(value) for value in np.mean([astuple(item) for item in scores], axis=0)))


def _rows(contestants: Sequence[Measured], belongs) -> list[TableRow]:
    rows = []
    for contestant in contestants:
        results = [result for result in contestant.usable if belongs(result)]
        if not results:
            continue
        scores = mean_scores(result.scores for result in results)
        raw = mean_scores(result.raw_scores for result in results)
        rows.append(TableRow(contestant.name, len(results), scores, raw if raw != scores else None))
    return rows
