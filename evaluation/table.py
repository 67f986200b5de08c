"""The CSV table: the organizers' columns, filled as their script fills them, and ours beside them."""

import csv
import io

from evaluation.results import RUNS, CaseResult, ResultsFolder, write_atomically

CSV_FILE = "metrics.csv"

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
    "Remark",
)
"""`Scored_…` follows the rules: 0 for a case that failed or took too long; empty for one that is unusable."""


def write_csv(results: ResultsFolder) -> None:
    """Write the table of a contestant into its results folder."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ORGANIZERS_COLUMNS + OUR_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_row(result) for result in results.read_all())
    write_atomically(results.path / CSV_FILE, lambda stream: stream.write(text.getvalue().encode()))


def csv_row(result: CaseResult) -> dict[str, object]:
    """Return a case's row; boxes are `yes`, `no` or `dropped`."""
    boxes = "yes" if result.has_boxes else "dropped" if result.boxes_dropped else "no"
    row: dict[str, object] = {
        "CaseName": result.case,
        "Modality": result.modality,
        "Boxes": boxes,
        "Remark": result.remark,
    }
    if not result.scorable:
        return row
    raw, scored = result.raw_scores, result.scores
    row |= {
        "TotalRunningTime": result.total_seconds,
        "num_class": result.classes,
        "runtime_upperbound": result.limit_seconds,
    }
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
