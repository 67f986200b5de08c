"""``python -m inference``: every case of the input folder, one after another."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

from inference.atomic import remove_unfinished
from inference.case import Case, CaseError, read_case, write_segmentation
from inference.checkpoint import CheckpointError
from inference.deadline import Deadline, Watchdog, process_age
from inference.segmenter import Segmenter, load_segmenter, segment_case

DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "default.pt"


def options(arguments: list[str] | None) -> argparse.Namespace:
    """The settings: an option wins over its variable, a variable over the default."""
    variable = os.environ.get
    parser = argparse.ArgumentParser(
        prog="python -m inference",
        description="Segments every case (*.npz) of a folder: reads imgs, boxes, clicks and prev_pred, writes segs.",
        epilog="Each option can also be given as a variable: --inputs as SEGFM3D_INPUTS, and so on. "
        "For a single NIfTI, NRRD, MHA or DICOM image: python -m inference IMAGE --help.",
    )
    parser.add_argument("--inputs", type=Path, default=Path(variable("SEGFM3D_INPUTS", "/workspace/inputs")))
    parser.add_argument("--outputs", type=Path, default=Path(variable("SEGFM3D_OUTPUTS", "/workspace/outputs")))
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path(variable("SEGFM3D_WEIGHTS", str(DEFAULT_WEIGHTS))),
        help="our file or an nnInteractive folder",
    )
    parser.add_argument("--device", default=variable("SEGFM3D_DEVICE", "auto"), help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument(
        "--seconds-per-class",
        type=float,
        default=variable("SEGFM3D_SECONDS_PER_CLASS", "90"),
        help="the evaluator's limit for an object, summed over the runs of a case",
    )
    parser.add_argument(
        "--runs-per-case",
        type=float,
        default=variable("SEGFM3D_RUNS_PER_CASE", "6"),
        help="runs that share this limit",
    )
    chosen = parser.parse_args(arguments)
    if chosen.seconds_per_class <= 0 or chosen.runs_per_case <= 0:
        parser.error("--seconds-per-class and --runs-per-case: expected numbers above 0")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Walks the input folder; returns 0 if every case was read, segmented and written without an error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and not arguments[0].startswith("-"):
        return _one_image(arguments)
    chosen = options(arguments)
    spent = process_age()
    if not chosen.inputs.is_dir():
        return _fail(f"{chosen.inputs}: no such folder; give the folder of cases with --inputs")
    paths = sorted(path for path in chosen.inputs.iterdir() if path.suffix == ".npz" and not path.name.startswith("."))
    if not paths:
        return _fail(f"{chosen.inputs}: no *.npz in it; expected the challenge's cases")
    try:
        chosen.outputs.mkdir(parents=True, exist_ok=True)
        remove_unfinished(chosen.outputs)
    except OSError as error:
        return _fail(f"{chosen.outputs}: cannot be written ({error.strerror}); give another folder with --outputs")
    failures = 0
    segmenter = None
    try:
        segmenter = load_segmenter(chosen.weights, chosen.device)
        print(f"weights {chosen.weights.name}, patch {segmenter.config.patch}, on {segmenter.device}", flush=True)
    except (CheckpointError, RuntimeError) as error:
        failures += 1
        _fail(f"{error}; without weights only previous masks and the boxes' ellipsoids are written")
    watchdog = Watchdog()
    for path in paths:
        try:
            failures += not _run(path, chosen, segmenter, watchdog, spent)
        except Exception as error:  # Whatever it is, it must not cost the other cases their output.
            traceback.print_exc()
            failures += _fail(f"{path.name}: {type(error).__name__}: {error}")
        spent = 0.0
    failures += segmenter.failures if segmenter is not None else 0
    if failures:
        print(f"{failures} error(s); see above", file=sys.stderr)
    return 1 if failures else 0


def _one_image(arguments: list[str]) -> int:
    """An image of any format instead of a folder of cases; what reads it is no part of the submission."""
    try:
        from conversion.direct import main as segment_image
    except ModuleNotFoundError as error:
        return _fail(
            f"{arguments[0]}: reading an image needs {error.name}, which is not here; expected the whole "
            "repository and what requirements-dev.txt names, or a folder of cases with --inputs"
        )
    return segment_image(arguments)


def _run(path: Path, chosen: argparse.Namespace, segmenter: Segmenter | None, watchdog: Watchdog, spent: float) -> bool:
    """One case; whatever goes wrong with it is said and stays with it."""
    began = time.monotonic()
    try:
        case = read_case(path)
    except CaseError as error:
        return not _fail(str(error))
    for note in case.notes:
        print(f"{case.name}: {note}")
    budget = chosen.seconds_per_class * len(case.objects) / chosen.runs_per_case
    deadline = Deadline(budget, spent=spent + time.monotonic() - began)
    fine = True
    try:
        segmentation = segment_case(case, segmenter, deadline, watchdog, lambda line: print(f"{case.name}: {line}"))
    except Exception as error:  # A valid output matters more than any one failure, which is shown whole.
        traceback.print_exc()
        fine = not _fail(f"{case.name}: {type(error).__name__}: {error}; writing what needs no network")
        segmentation = segment_case(case, None, deadline)
    try:
        write_segmentation(chosen.outputs / case.name, segmentation)
    except OSError as error:
        return not _fail(f"{chosen.outputs / case.name}: cannot be written ({error.strerror}); an older file is kept")
    print(_summary(case, budget - deadline.remaining(), budget), flush=True)
    return fine


def _summary(case: Case, seconds: float, budget: float) -> str:
    shape = "×".join(map(str, case.image.shape))
    boxes = sum(prompts.box is not None for prompts in case.objects)
    clicks = sum(len(prompts.clicks) for prompts in case.objects)
    return (
        f"{case.name}: {shape}, {len(case.objects)} object(s), {boxes} box(es), {clicks} click(s): "
        f"{seconds:.1f} s of {budget:.0f} s"
    )


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A forward that overran its deadline may still be running in its thread, which an ordinary exit would wait for.
    os._exit(code)
