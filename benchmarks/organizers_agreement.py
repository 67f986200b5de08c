"""`python -m benchmarks.organizers_agreement`: our scores and clicks beside what the organizers' own script wrote.

First run their unmodified script on a team's image (docs/how-to/evaluate.md has the recipe). Then this replays the
label maps that it has kept of every run through our protocol, and compares every click with the script's verbose
output and every figure of its table except the running times. So it tests the evaluation alone, also with a
contestant that varies.
"""

import csv
import re
import sys
from pathlib import Path

import numpy as np

from evaluation.cases import EvaluationCase, read_evaluation_case
from evaluation.contestants import InProcess
from evaluation.protocol import evaluate_case
from evaluation.results import CaseResult
from evaluation.table import ORGANIZERS_COLUMNS, csv_row
from inference.case import CaseError
from inference.command import Parser, run
from inference.geometry import Voxel, voxel

TOLERANCE = 1e-6

COMPARED = [column for column in ORGANIZERS_COLUMNS if column != "CaseName" and "Time" not in column]


def main() -> int:
    parser = Parser("python -m benchmarks.organizers_agreement", __doc__.split("\n")[0])
    parser.add_argument("--cases", type=Path, required=True, help="the folder of cases that their script was given")
    parser.add_argument("--theirs", type=Path, required=True, help="what it wrote for the team: a table and .npz files")
    parser.add_argument("--log", type=Path, required=True, help="what it printed with --verbose")
    options = parser.parse_args()
    tables = list(options.theirs.glob("*_metrics.csv"))
    if len(tables) != 1:
        raise FileNotFoundError(f"{options.theirs}: {len(tables)} files *_metrics.csv; expected 1")
    clicks = read_clicks(options.log)
    agree = True
    print(f"{'case':<40}{'runs':>6}{'clicks':>8}{'same voxel':>12}{'largest difference of a figure':>34}")
    with tables[0].open(newline="") as stream:
        for theirs in csv.DictReader(stream):
            name = theirs["CaseName"]
            result = replay(read_evaluation_case(options.cases / name), options.theirs / name)
            ours = csv_row(result)
            ours_clicks = [None if click is None else click[0] for step in result.steps for click in step.clicks]
            same = sum(a == b for a, b in zip(ours_clicks, clicks[name], strict=True))
            column = max(COMPARED, key=lambda key: abs(float(theirs[key]) - ours[key]))
            difference = abs(float(theirs[column]) - ours[column])
            agree &= same == len(ours_clicks) and difference <= TOLERANCE
            figure = f"{difference:.1e} ({column})" if difference else "none"
            print(f"{name[:39]:<40}{len(result.steps):>6}{len(ours_clicks):>8}{same:>12}{figure:>34}")
    print(
        "agreement" if agree else f"DISAGREEMENT: expected every click the same and no difference above {TOLERANCE:g}"
    )
    return 0 if agree else 1


def replay(case: EvaluationCase, kept: Path) -> CaseResult:
    """Evaluate the label maps of every run that their script has kept (`all_segs`: runs, D, H, W)."""
    with np.load(kept, allow_pickle=False) as arrays:
        runs = iter(arrays["all_segs"])
    return evaluate_case(case, InProcess("replay", {}, lambda _: next(runs)))[0]


def read_clicks(log: Path) -> dict[str, list[Voxel | None]]:
    """Return the clicks of each case in the order in which the script printed them; `None` where there was no error."""
    found: dict[str, list[Voxel | None]] = {}
    pending: list[Voxel | None] = []
    for line in log.read_text().splitlines():
        if match := re.search(r"error component center is at \((.*)\)$", line):
            numbers = re.findall(r"(?<!int)\d+", match[1])
            pending.append(voxel(int(number) for number in numbers))
        elif "No error connected components found" in line:
            pending.append(None)
        elif match := re.match(r"(\S+\.npz) finished!", line):
            found.setdefault(match[1], []).extend(pending)
            pending = []
    return found


if __name__ == "__main__":
    sys.exit(run(main, CaseError))
