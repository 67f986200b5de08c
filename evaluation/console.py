"""What the terminal says after an evaluation: the figures of each contestant, what failed, and what to do next."""

import shlex
from collections.abc import Sequence

from evaluation.groups import GroupFigures, GroupRow
from evaluation.results import RUNS, CaseResult, ResultsFolder
from evaluation.table import CSV_FILE

FIGURES = {
    "cases": lambda figures: str(figures.cases),
    "DSC AUC": lambda figures: f"{figures.scores.dsc_auc:.4f}",
    "NSD AUC": lambda figures: f"{figures.scores.nsd_auc:.4f}",
    "DSC Final": lambda figures: f"{figures.scores.dsc_final:.4f}",
    "NSD Final": lambda figures: f"{figures.scores.nsd_final:.4f}",
    "harmful clicks": lambda figures: _or_dash(figures.harmful_share, "{:.1%}"),
    "DSC Final, worst 10 % of objects": lambda figures: _or_dash(figures.worst_tenth, "{:.4f}"),
}
"""What a line of the table shows of a group; scores are means of modalities."""

LABEL_WIDTH = 36
NUMBER_WIDTH = 7


def group_table(rows: Sequence[GroupRow]) -> str:
    """Return a block a contestant, with boxes and without: a column a group, then mean DSC after each run."""
    return "\n\n".join(_block(row) for row in rows)


def old_results(rows: Sequence[GroupRow]) -> list[str]:
    """Return a line for each contestant some of whose results do not say how good each object was."""
    counts: dict[str, int] = {}
    for row in rows:
        missing = sum(figures.without_objects for figures in row.figures.values() if figures)
        counts[row.contestant] = counts.get(row.contestant, 0) + missing
    return [
        f"{name}: {count} {'result was' if count == 1 else 'results were'} written before the DSC of each object was"
        " kept, so harmful clicks and the worst 10 % of objects are left out; evaluate again into another --results to"
        " have them"
        for name, count in counts.items()
        if count
    ]


def failures(name: str, measured: Sequence[CaseResult]) -> list[str]:
    """Return a line for each reason to doubt what was measured; empty if there is none.

    Args:
        name: the contestant's.
        measured: the results of this evaluation.
    """
    lines = []
    usable = [result for result in measured if result.scorable]
    if unusable := len(measured) - len(usable):
        lines.append(f"{unusable} of {len(measured)} case(s) cannot be used, see the remarks above; correct them")
    if usable and all(result.failed_throughout for result in usable):
        lines.append(
            f"{name} failed in every run of every case, so its figures say nothing; see the remarks above, correct it, "
            "and evaluate it again with another --name or --results"
        )
    elif failed := sum(result.failed_objects > 0 for result in usable):
        # Something was written and scored all the same, so that weights which answer nothing look like a baseline.
        lines.append(f"the network failed in {failed} case(s), see the remarks above")
    return lines


def next_steps(results: ResultsFolder, measured: Sequence[CaseResult]) -> list[str]:
    """Return where the table lies, and the commands that show the case that ended lowest and all contestants.

    Args:
        results: the contestant's.
        measured: the results of this evaluation.
    """
    lines = [f"table of cases: {results.path / CSV_FILE}"]
    folder = ["--results", str(results.path.parent)]
    if shown := [result for result in measured if results.has_segmentations(result)]:
        worst = min(shown, key=lambda result: (result.scores.dsc_final, result.case))
        words = ["view", *folder, "--case", worst.case.removesuffix(".npz"), "--name", results.name]
        words += ["--drop-boxes"] if worst.boxes_dropped else []
        lines.append(f"the case with the lowest DSC Final, {worst.scores.dsc_final:.3f}: segfm3d {shlex.join(words)}")
    lines.append(f"all contestants: segfm3d {shlex.join(['report', *folder])}")
    return lines


def _block(row: GroupRow) -> str:
    widths = [max(12, len(title) + 2) for title in row.figures]
    title = f"{row.contestant}, {'with' if row.boxes else 'without'} boxes"
    lines = [f"{title:{LABEL_WIDTH}}" + "".join(f"{name:>{width}}" for name, width in zip(row.figures, widths))]
    for name, show in FIGURES.items():
        cells = ["–" if figures is None else show(figures) for figures in row.figures.values()]
        lines.append(f"  {name:{LABEL_WIDTH - 2}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths)))
    runs = ["box", *(f"{click}" for click in range(1, RUNS))]
    lines.append(
        f"  {'mean DSC after (↓ falls)':{LABEL_WIDTH - 2}}" + "".join(f"{run:>{NUMBER_WIDTH}} " for run in runs)
    )
    for group, figures in row.figures.items():
        lines += _curves(group, figures, prefix=f"{group}, " if len(row.figures) > 1 else "")
    return "\n".join(line.rstrip() for line in lines)


def _curves(group: str, figures: GroupFigures | None, prefix: str) -> list[str]:
    lines = []
    for curve in figures.curves if figures else ():
        cells = [
            f"{_or_dash(value, '{:.3f}'):>{NUMBER_WIDTH}}{'↓' if fall else ' '}"
            for value, fall in zip(curve.dsc, curve.falls, strict=True)
        ]
        lines.append(f"    {prefix + curve.modality:{LABEL_WIDTH - 4}}" + "".join(cells))
    return lines


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
