"""The CSV tables: the organizers' columns, filled as their script fills them, ours beside them; and one of objects."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.cases import BACKGROUND, FOREGROUND
from evaluation.groups import click_changes, is_harmful
from evaluation.results import RUNS, CaseResult, ResultsFolder, write_atomically

CSV_FILE = "metrics.csv"
OBJECTS_FILE = "objects.csv"

_RUN_NUMBERS = range(1, RUNS + 1)

ORGANIZERS_COLUMNS = (
    "CaseName",
    "TotalRunningTime",
    *(f"RunningTime_{run}" for run in _RUN_NUMBERS),
    "DSC_AUC",
    "NSD_AUC",
    "DSC_Final",
    "NSD_Final",
    *(f"DSC_{run}" for run in _RUN_NUMBERS),
    *(f"NSD_{run}" for run in _RUN_NUMBERS),
    "num_class",
    "runtime_upperbound",
)
"""Their script prints raw scores also for a case that took too long."""

OUR_COLUMNS = (
    "Modality",
    "Boxes",
    "Scored_DSC_AUC",
    "Scored_NSD_AUC",
    "Scored_DSC_Final",
    "Scored_NSD_Final",
    "Clicks",
    "Harmful_Clicks",
    "Failed_Objects",
    "Remark",
)
"""`Scored_…` follows the rules: 0 for a case that failed or took too long; empty for one that is unusable.

`Clicks` and `Harmful_Clicks` are counts over objects and runs (see `evaluation.groups`); empty for a result that does
not hold the DSC of each object. `Failed_Objects` is how often the network failed on an object.
"""

OBJECT_COLUMNS = (
    "CaseName",
    "Modality",
    "Boxes",
    "Object",
    *(f"DSC_{run}" for run in _RUN_NUMBERS),
    *(f"Click_{run}" for run in _RUN_NUMBERS),
)
"""DSC is raw, and empty for a run that was not made; `Click_…` is `fg`, `bg`, or empty without a click."""


def write_csv(results: ResultsFolder) -> None:
    """Write the tables of a contestant, of cases and of objects, into its results folder."""
    found = results.read_all()
    _write(results.path / CSV_FILE, ORGANIZERS_COLUMNS + OUR_COLUMNS, map(csv_row, found))
    rows = (row for result in found for row in object_rows(result))
    _write(results.path / OBJECTS_FILE, OBJECT_COLUMNS, rows)


def csv_row(result: CaseResult) -> dict[str, Any]:
    """Return a case's row; boxes are `yes`, `no` or `dropped`."""
    row: dict[str, Any] = _name_columns(result) | {"Remark": result.remark}
    if not result.scorable:
        return row
    raw, scored = result.raw_scores, result.scores
    row |= {
        "TotalRunningTime": result.total_seconds,
        "num_class": result.classes,
        "runtime_upperbound": result.limit_seconds,
        "Failed_Objects": result.failed_objects,
    }
    if not result.lacks_objects:
        changes = click_changes(result)
        row |= {"Clicks": len(changes), "Harmful_Clicks": sum(map(is_harmful, changes))}
    for run, seconds, dsc, nsd in zip(_RUN_NUMBERS, result.running_times, result.dsc, result.nsd, strict=True):
        row |= {f"RunningTime_{run}": seconds, f"DSC_{run}": dsc, f"NSD_{run}": nsd}
    for prefix, scores in (("", raw), ("Scored_", scored)):
        row |= {
            f"{prefix}DSC_AUC": scores.dsc_auc,
            f"{prefix}NSD_AUC": scores.nsd_auc,
            f"{prefix}DSC_Final": scores.dsc_final,
            f"{prefix}NSD_Final": scores.nsd_final,
        }
    return row


def object_rows(result: CaseResult) -> Iterator[dict[str, object]]:
    """Yield a row for each object of a case; none if the result does not hold the DSC of each."""
    if not result.scorable or result.lacks_objects:
        return
    first = 1 if result.has_boxes else 2
    for place in range(result.classes):
        row: dict[str, object] = _name_columns(result) | {"Object": place + 1}
        for run, step in enumerate(result.steps, first):
            if step.object_dsc:
                row[f"DSC_{run}"] = step.object_dsc[place]
            if step.clicks and (click := step.clicks[place]) is not None:
                row[f"Click_{run}"] = FOREGROUND if click[1] else BACKGROUND
        yield row


def _name_columns(result: CaseResult) -> dict[str, object]:
    boxes = "yes" if result.has_boxes else "dropped" if result.boxes_dropped else "no"
    return {"CaseName": result.case, "Modality": result.modality, "Boxes": boxes}


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda stream: stream.write(text.getvalue().encode()))
