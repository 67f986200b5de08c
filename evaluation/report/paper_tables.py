"""The paper's Tables 3 and 4 with our rows: mean scores by modality and by boxes, beside the published ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.report.published import ABSTRACT, PAPER, TABLE_3, TABLE_4, TABLE_4_OVERALL
from evaluation.results import CaseResult, Scores
from evaluation.summary import ALL, MODALITY_ORDER, Measured, mean_scores


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


def _rows(contestants: Sequence[Measured], belongs: Callable[[CaseResult], bool]) -> list[TableRow]:
    rows = []
    for contestant in contestants:
        results = [result for result in contestant.usable if belongs(result)]
        if not results:
            continue
        scores = mean_scores(result.scores for result in results)
        raw = mean_scores(result.raw_scores for result in results)
        rows.append(TableRow(contestant.name, len(results), scores, raw if raw != scores else None))
    return rows


def best_of(group: TableGroup, score: str) -> float | None:
    """Return the highest of a score among the measured rows of a group; `None` if there is nothing to compare."""
    values = [getattr(row.scores, score) for row in group.rows if row.cases is not None]
    return max(values) if len(values) > 1 else None
