"""The report: one self-contained HTML page, and a CSV table beside each contestant's results."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.calibration import read_calibration
from evaluation.console import FIGURES, old_results
from evaluation.evaluated import focused, read_measured
from evaluation.groups import HARM, by_group, side_by_side
from evaluation.metrics import NSD_MINIMUM_DSC, NSD_TOLERANCE_MM
from evaluation.report import plots
from evaluation.report.paper_tables import best_of, by_boxes, by_modality
from evaluation.report.pictures import BACKGROUND_CLICK, FOREGROUND_CLICK, draw_case
from evaluation.results import CaseResult, ResultsFolder, list_results, write_atomically
from evaluation.summary import MODALITY_ORDER, Measured
from evaluation.table import csv_row, write_csv
from inference.case import CaseError

PAGE = "report.html"


@dataclass(frozen=True)
class Picture:
    """A case drawn for the report; `failure` says why it could not be."""

    modality: str
    rank: str
    result: CaseResult
    source: str = ""
    failure: str = ""


def write_report(
    results: Path, cases: Sequence[Path] | None = None, truths: Path | None = None, focus: str | None = None
) -> Path:
    """Write the page of all contestants in a results folder, and their tables.

    Args:
        results: the results folder.
        cases: the folders of cases, from which the pictures are drawn; the figures of several stand side by side. By
            default those in which they were measured.
        truths: the folder of ground truths, if the cases do not hold them; by default the one that was measured with.
        focus: the contestant that comes first and whose cases are pictured; by default the first that is no baseline.

    Returns:
        The page's path.

    Raises:
        CaseError: there are no results, or none of the contestant in focus; or one of several folders is missing or
            empty, or two hold a case of the same name.
    """
    titles = side_by_side(cases)
    folders = focused(list_results(results), focus, "--focus")
    for folder in folders:
        write_csv(folder)
    contestants = [Measured(folder.name, tuple(folder.read_all())) for folder in folders]
    rows = by_group(contestants, titles)
    measured = {folder.name: read_calibration(folder.path) for folder in folders}
    calibrations = {name: calibration for name, calibration in measured.items() if calibration is not None}
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            contestants=contestants,
            identities={folder.name: folder.identity for folder in folders},
            focus=contestants[0],
            colours={item.name: plots.colour_of(item.name) for item in contestants},
            group_rows=rows,
            shown=FIGURES,
            groups=list(rows[0].figures) if rows else [],
            old_results=old_results(rows),
            table_3=by_modality(contestants),
            table_4=by_boxes(contestants),
            curves=_source("svg+xml", plots.curves(contestants).encode()),
            distributions=_source("svg+xml", plots.distributions(contestants).encode()),
            running_times=_source("svg+xml", plots.running_times(contestants).encode()),
            calibrations=calibrations,
            reliability=_source("svg+xml", plots.reliability(calibrations).encode()) if calibrations else "",
            pictures=_pictures(folders[0], contestants[0], cases, truths),
            remarkable=[(item.name, result) for item in contestants for result in item.results if result.remark],
            rows=[(item.name, result, csv_row(result)) for item in contestants for result in item.results],
            click_colours=(FOREGROUND_CLICK, BACKGROUND_CLICK),
            harm=HARM,
            tolerance=NSD_TOLERANCE_MM,
            minimum_dsc=NSD_MINIMUM_DSC,
        )
    )
    path = results / PAGE
    write_atomically(path, lambda stream: stream.write(page.encode()))
    return path


def best_and_worst(results: Sequence[CaseResult]) -> list[tuple[str, CaseResult]]:
    """Return the cases with the highest and the lowest final DSC; only one if there is only one."""
    ranked = sorted(results, key=lambda result: result.raw_scores.dsc_final, reverse=True)
    return [("Best", ranked[0]), ("Worst", ranked[-1])] if len(ranked) > 1 else [("Only", item) for item in ranked]


def _pictures(
    folder: ResultsFolder, contestant: Measured, cases: Sequence[Path] | None, truths: Path | None
) -> list[Picture]:
    shown = [result for result in contestant.as_provided or contestant.usable if folder.has_segmentations(result)]
    pictures = []
    for modality in MODALITY_ORDER:
        for rank, result in best_and_worst([item for item in shown if item.modality == modality]):
            try:
                case = read_measured(result, cases, truths)
                drawn = draw_case(case, result, folder.read_segmentations(result))
            except CaseError as error:
                pictures.append(Picture(modality, rank, result, failure=str(error)))
            else:
                pictures.append(Picture(modality, rank, result, _source("webp", drawn)))
    return pictures


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"best_of": best_of}  # ty: ignore[unsupported-operator]  # Typed as Jinja's own functions are.
    return environment


def _source(kind: str, content: bytes) -> str:
    """Return the content as the source of an HTML image."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
