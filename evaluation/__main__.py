"""What `segfm3d evaluate`, `report`, `calibrate` and `merge` do."""

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation import calibration
from evaluation.baselines import BASELINES
from evaluation.cases import list_cases
from evaluation.console import failures, group_table, next_steps, old_results
from evaluation.contestants import Command, Contestant, DockerImage, InProcess, image_id
from evaluation.groups import by_group, group_titles, side_by_side
from evaluation.merge import merge_results
from evaluation.protocol import SECONDS_PER_CLASS, evaluate
from evaluation.results import CONTESTANT_FILE, RUNS, ResultsFolder, list_results
from evaluation.summary import Measured
from evaluation.table import write_csv
from inference import command
from inference.case import Case, CaseError
from inference.checkpoint import CheckpointError
from inference.command import Parser, above_zero, choose
from inference.deadline import Deadline
from inference.predictor import DeviceError
from inference.segmenter import load_segmenter, segment_case


def main(arguments: list[str] | None = None, prog: str = "python -m evaluation") -> int:
    """Runs one of the commands; wrong use ends it with exit code 2, a network that failed with 1."""
    description = "The challenge at home: the organizers' protocol, and a report."
    return choose(prog, description, COMMANDS, sys.argv[1:] if arguments is None else arguments)


def run(arguments: list[str], prog: str) -> int:
    """Evaluates one contestant on a folder of cases by the organizers' protocol; goes on where it stopped."""
    parser = Parser(
        prog,
        run.__doc__,
        "--cases cases --results runs/evaluation --weights weights/default.pt",
        "--cases cases --results runs/evaluation --baseline ellipsoid",
    )
    contestant = parser.add_argument_group("what is evaluated, one of these").add_mutually_exclusive_group(
        required=True
    )
    contestant.add_argument("--weights", type=Path, help="the segmenter in this process, with these weights")
    contestant.add_argument("--command", help="a command that reads {inputs} and writes {outputs}, one case at a time")
    contestant.add_argument("--image", help="a Docker image, run with the organizers' line")
    contestant.add_argument("--baseline", choices=BASELINES, help="a method without learning")
    data = parser.add_argument_group("cases")
    data.add_argument(
        "--cases",
        **FOLDERS,
        required=True,
        help="folder of .npz cases (imgs, spacing, boxes, gts); give several, and the table has a column for each",
    )
    data.add_argument("--truths", type=Path, help="folder of .npz files with gts, if the cases do not hold them")
    data.add_argument("--drop-boxes", action="store_true", help="run every case as if it had no boxes")
    data.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="i/n",
        help="take the i-th of n parts of the cases, 1 ≤ i ≤ n (default: all)",
    )
    results = parser.add_argument_group("results")
    results.add_argument("--results", type=Path, required=True, help="folder for the results of all contestants")
    results.add_argument("--name", type=_name, help="what the report calls it (default: segfm3d, image, command, …)")
    how = parser.add_argument_group("how it is run")
    how.add_argument("--device", default="auto", help="device of --weights: auto, cpu or cuda")
    how.add_argument(
        "--seconds-per-class",
        type=above_zero,
        metavar="SECONDS",
        default=SECONDS_PER_CLASS,
        help="what the runs of a case may take together for each object",
    )
    return _carried_out(_run, parser.parse_args(arguments))


def report(arguments: list[str], prog: str) -> int:
    """Writes the HTML page and the CSV tables of all contestants."""
    parser = Parser(prog, report.__doc__, "--results runs/evaluation")
    parser.add_argument("--results", type=Path, required=True, help="folder with the results")
    parser.add_argument(
        "--cases",
        **FOLDERS,
        help="where the cases lie now, if moved, for the pictures; the figures of several folders, such as sources seen"
        " in training and sources never seen, stand side by side (default: where they were measured)",
    )
    parser.add_argument("--truths", type=Path, help="where their ground truths lie now, if moved")
    parser.add_argument(
        "--focus", help="the contestant whose cases are pictured (default: the first that is no baseline)"
    )
    return _carried_out(_report, parser.parse_args(arguments))


def calibrate(arguments: list[str], prog: str) -> int:
    """Compares predicted probabilities with the truth; goes on where it stopped."""
    parser = Parser(
        prog, calibrate.__doc__, "--cases cases --results runs/evaluation --weights weights/default.pt --clicks 2"
    )
    parser.add_argument("--cases", type=Path, required=True, help="folder of .npz cases with gts")
    parser.add_argument("--results", type=Path, required=True, help="the results folder of all contestants")
    parser.add_argument("--weights", type=Path, required=True, help="what is measured, in this process")
    parser.add_argument("--name", type=_name, default="segfm3d", help="the contestant beside whose results it lies")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--clicks", type=int, default=1, help="runs with one more click an object, after the first")
    return _carried_out(_calibrate, parser.parse_args(arguments))


def merge(arguments: list[str], prog: str) -> int:
    """Joins results folders that shards wrote on different machines."""
    parser = Parser(prog, merge.__doc__, "--results runs/evaluation part1 part2")
    parser.add_argument("--results", type=Path, required=True, help="folder that receives the results")
    parser.add_argument("parts", type=Path, nargs="+", help="results folders")
    return _carried_out(lambda options: merge_results(options.parts, options.results), parser.parse_args(arguments))


FOLDERS: dict[str, Any] = {"type": Path, "action": "extend", "nargs": "+", "metavar": "FOLDER"}

COMMANDS = {
    "run": ("evaluate one contestant on a folder of cases; goes on where it stopped", run),
    "report": ("write the HTML page and the CSV tables of all contestants", report),
    "calibrate": ("compare predicted probabilities with the truth; goes on where it stopped", calibrate),
    "merge": ("join results folders that shards wrote on different machines", merge),
}


def _carried_out(action: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    return command.run(lambda: action(options), CaseError, CheckpointError, DeviceError)


def _run(options: argparse.Namespace) -> int:
    index, count = options.shard
    titles = group_titles(options.cases)
    paths = list_cases(*options.cases)[index - 1 :: count]
    contestant = _contestant(options)
    contestant.check()
    identity = contestant.identity | {"seconds per class": f"{options.seconds_per_class:g}"}
    results = ResultsFolder(options.results / contestant.name, identity)
    measured = evaluate(
        contestant,
        paths,
        results,
        truths=options.truths,
        drop_boxes=options.drop_boxes,
        seconds_per_class=options.seconds_per_class,
        groups=titles,
    )
    write_csv(results)
    found = tuple(result for result in results.read_all() if result.case in titles)
    _print_figures([Measured(contestant.name, found)], titles)
    print("\n" + "\n".join(next_steps(results, measured)))
    errors = failures(contestant.name, measured)
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    return 1 if errors else 0


def _report(options: argparse.Namespace) -> None:
    # Here, because only the page needs matplotlib and jinja2.
    from evaluation.report.page import write_report

    page = write_report(options.results, options.cases, options.truths, options.focus)
    found = [Measured(folder.name, tuple(folder.read_all())) for folder in list_results(options.results)]
    _print_figures(found, side_by_side(options.cases))
    print(page)


def _print_figures(contestants: Sequence[Measured], titles: Mapping[str, str] | None) -> None:
    rows = by_group(contestants, titles)
    print(group_table(rows) or "no case could be evaluated")
    for line in old_results(rows):
        print(line)


def _calibrate(options: argparse.Namespace) -> None:
    paths = list_cases(options.cases)
    segmenter = load_segmenter(options.weights, options.device)
    identity = {"weights": _checksum(options.weights), "clicks": str(options.clicks)}
    contestant = options.results / options.name
    measured = ResultsFolder(contestant).identity if (contestant / CONTESTANT_FILE).exists() else identity
    if measured.get("weights") != identity["weights"]:
        raise CaseError(f"{contestant}: holds the results of others than {options.weights}; choose another --name")
    results = ResultsFolder(contestant / calibration.FOLDER, identity)
    found = calibration.calibrate(segmenter, paths, results, options.clicks)
    print(calibration.table(found))
    stored = segmenter.config.temperature
    print(f"best temperature {found.temperature:.3f} on top of the weights' {stored:g}; to store it:")
    print(f"segfm3d weights convert {options.weights} OUT.pt --temperature {stored * found.temperature:.3f}")
    print(results.path / calibration.PICTURE_FILE)


def _contestant(options: argparse.Namespace) -> Contestant:
    if options.baseline:
        name = options.name or options.baseline
        return InProcess(name, {"baseline": options.baseline}, BASELINES[options.baseline])
    if options.command is not None:
        return Command(options.name or "command", options.command)
    if options.image is not None:
        tagged = options.image if ":" in options.image.rsplit("/", 1)[-1] else f"{options.image}:latest"
        return DockerImage(options.name or "image", tagged, image_id(tagged))
    segmenter = load_segmenter(options.weights, options.device)

    def segment(case: Case) -> NDArray[np.uint8]:
        seconds = options.seconds_per_class * len(case.objects) / RUNS
        return segment_case(case, segmenter, Deadline(seconds), log=tqdm.write)

    return InProcess(options.name or "segfm3d", {"weights": _checksum(options.weights)}, segment, segmenter)


def _checksum(weights: Path) -> str:
    """Return the SHA-256 of a file of weights, or of the files of a folder, so that results of others are not mixed."""
    files = sorted(weights.rglob("*")) if weights.is_dir() else [weights]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name; expected letters, digits, '_', '.', '-'")
    return text


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected i/n with 1 ≤ i ≤ n, such as 1/4")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
