"""`segfm3d view case.npz [result.npz]`: a case as one page to look at, without a server or a network.

`segfm3d view --results RESULTS --case NAME` shows what an evaluation left of a case, run by run.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.case_page import Layer, write_view
from evaluation.evaluated import read_evaluated
from inference.case import Case, CaseError, read_case
from inference.command import Parser, run
from inference.npz import NpzError, read_array


def main(arguments: list[str] | None = None, prog: str = "segfm3d view") -> int:
    """Makes one HTML page of a case: three planes, with its boxes, clicks and masks over them."""
    parser = Parser(prog, main.__doc__, "case.npz result.npz -o page.html", "--results RESULTS --case NAME")
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="CASE.npz", help="imgs, and of boxes, clicks, prev_pred, gts any"
    )
    parser.add_argument(
        "result",
        type=Path,
        nargs="?",
        metavar="RESULT.npz",
        help="what inference wrote for it (segs), or CASE.segmentations.npz of an evaluation",
    )
    parser.add_argument("--run", type=int, metavar="N", help="which of an evaluation's runs (default: the last)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PAGE.html",
        help="page to write (default: the case's name with .html, here; in RESULTS with --results)",
    )
    evaluated = parser.add_argument_group("in place of the files, a case of an evaluation, all its runs")
    evaluated.add_argument("--results", type=Path, help="the results folder of all contestants")
    evaluated.add_argument("--case", help="the case's name, with --results")
    evaluated.add_argument("--name", help="the contestant (default: the first that is no baseline)")
    evaluated.add_argument("--drop-boxes", action="store_true", help="the runs that were made without its boxes")
    evaluated.add_argument("--cases", type=Path, nargs="+", metavar="FOLDER", help="where the case lies now, if moved")
    evaluated.add_argument("--truths", type=Path, metavar="FOLDER", help="where its ground truth lies now, if moved")
    options = parser.parse_args(arguments)
    if (options.file is None) == (options.results is None):
        parser.error("expected CASE.npz, or --results FOLDER with --case NAME")
    if (options.results is None) != (options.case is None):
        parser.error("--results and --case: expected both, or neither")
    folder = options.results or Path()  # Beside the report, which is of the same results.
    page = options.output or folder / f"{Path(options.case or options.file).name.removesuffix('.npz')}.html"

    def write() -> None:
        size = _write_evaluated(page, options) if options.results else _write_files(page, options)
        print(f"{page}: {size / 1e6:.1f} MB; open it in a browser")

    return run(write, NpzError)


def _write_files(page: Path, options: argparse.Namespace) -> int:
    if options.file.suffix != ".npz" and options.file.exists():
        raise CaseError(f"{options.file}: not a case; expected an .npz, or an image and its mask")
    case = read_case(options.file)
    return write_view(page, case, list(_read_layers(options.file, case, options.result, options.run)))


def _write_evaluated(page: Path, options: argparse.Namespace) -> int:
    case, truth, runs = read_evaluated(
        options.results, options.case, options.name, options.drop_boxes, options.cases, options.truths
    )
    if options.run is not None and not 1 <= options.run <= len(runs):
        raise CaseError(f"{case.name}: has {len(runs)} runs, not {options.run}; expected --run 1 to {len(runs)}")
    return write_view(page, case, [truth], runs, -1 if options.run is None else options.run - 1)


def _read_layers(case_path: Path, case: Case, result: Path | None, run: int | None) -> Iterator[Layer]:
    if result is not None:
        yield Layer("result", _labels(result, "segs", case, run))
    with zipfile.ZipFile(case_path) as archive:
        has_truth = "gts.npy" in archive.namelist()
    if has_truth:
        yield Layer("truth", _labels(case_path, "gts", case))
    if case.previous is not None and case.previous.any():
        yield Layer("previous", case.previous)


def _labels(path: Path, key: str, case: Case, run: int | None = None) -> NDArray[np.uint8]:
    """A label map of the case's shape; of those of several runs, as an evaluation leaves them, one."""
    labels = read_array(path, key)
    if labels.ndim == 4 and labels.shape[1:] == case.image.shape:
        if run is not None and not 1 <= run <= len(labels):
            raise CaseError(f"{path.name}: holds {len(labels)} runs, not {run}; expected --run 1 to {len(labels)}")
        labels = labels[-1 if run is None else run - 1]
    elif run is not None:
        raise CaseError(f"{path.name}: holds one label map; expected --run with what an evaluation leaves of a case")
    if labels.shape != case.image.shape:
        raise CaseError(
            f"{path.name}: {key} has shape {labels.shape}; expected {case.image.shape}, that of {case.name}'s imgs"
        )
    if labels.dtype.kind not in "bui" or labels.min() < 0 or labels.max() > 255:
        raise CaseError(f"{path.name}: {key} holds no labels of 0 to 255; expected a label map")
    return labels.astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
