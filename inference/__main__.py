"""``python -m inference``: every case of the input folder, one after another."""

from __future__ import annotations

import gc
import sys

from inference import one_image

if __name__ == "__main__" and one_image.is_asked_for(sys.argv[1:]):
    # Before torch is imported: what is wrong with the image or the prompts is said without its seconds.
    sys.exit(one_image.main(sys.argv[1:]))

# A million objects are made while torch is imported: looking for garbage among them takes a sixth of the start.
gc.disable()

import argparse
import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from inference.atomic import remove_unfinished
from inference.case import Case, CaseError, read_case, write_segmentation
from inference.checkpoint import CheckpointError
from inference.deadline import Deadline, Watchdog, process_age
from inference.options import add_network_options
from inference.predictor import DeviceError
from inference.segmenter import Segmenter, load_segmenter, segment_case

# Nor does any of them become garbage: the next search would go through them all, and find nothing.
gc.freeze()
gc.enable()

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a run that was told to stop."""


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
    add_network_options(parser)
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
    """Walks the input folder.

    SIGTERM ends it early: the running case is written with what has been found of it, and no other is begun.

    Returns:
        0 if every case was read, segmented and written without an error, 143 after SIGTERM, else 1.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if one_image.is_asked_for(arguments):
        return one_image.main(arguments)
    watchdog = Watchdog()
    with _stopping_on_sigterm(watchdog):
        return _all_cases(options(arguments), watchdog, process_age())


def _all_cases(chosen: argparse.Namespace, watchdog: Watchdog, spent: float) -> int:
    if not chosen.inputs.is_dir():
        return _fail(f"{chosen.inputs}: no such folder; give the folder of cases with --inputs")
    try:
        entries = sorted(chosen.inputs.iterdir())
    except OSError as error:
        return _fail(f"{chosen.inputs}: cannot be read ({error.strerror}); expected a folder of cases")
    paths = [path for path in entries if path.suffix == ".npz" and not path.name.startswith(".")]
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
        _log(f"weights {chosen.weights.name}, patch {segmenter.config.patch}, on {segmenter.predictor.device}")
    except Exception as error:  # Weights may be broken in a way that torch does not foresee.
        reason = str(error)
        if not isinstance(error, (CheckpointError, DeviceError)):
            reason = f"{chosen.weights} on {chosen.device}: {type(error).__name__}: {' '.join(reason.split())[:200]}"
        failures += _fail(f"{reason}; without weights only previous masks and the boxes' ellipsoids are written")
    for number, path in enumerate(paths):
        if watchdog.stopped:
            _fail(f"told to stop; {len(paths) - number} of {len(paths)} cases are not begun")
            break
        try:
            failures += not _run(path, chosen, segmenter, watchdog, spent)
        except Exception as error:  # Whatever it is, it must not cost the other cases their output.
            _show_traceback()
            failures += _fail(f"{path.name}: {type(error).__name__}: {error}")
        spent = 0.0
    failures += segmenter.failures if segmenter is not None else 0
    if failures:
        _log(f"{failures} error(s); see above", sys.stderr)
    return TERMINATED if watchdog.stopped else 1 if failures else 0


@contextmanager
def _stopping_on_sigterm(watchdog: Watchdog) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: watchdog.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(path: Path, chosen: argparse.Namespace, segmenter: Segmenter | None, watchdog: Watchdog, spent: float) -> bool:
    """One case; whatever goes wrong with it is said and stays with it."""
    began = time.monotonic()
    try:
        case = read_case(path)
    except CaseError as error:
        return not _fail(str(error))
    for note in case.notes:
        _log(f"{case.name}: {note}")
    budget = chosen.seconds_per_class * len(case.objects) / chosen.runs_per_case
    deadline = Deadline(budget, spent=spent + time.monotonic() - began)
    fine = True

    def log(line: str) -> None:
        _log(f"{path.name}: {line}")

    try:
        segmentation = segment_case(case, segmenter, deadline, watchdog, log)
    except Exception as error:  # A valid output matters more than any one failure, which is shown whole.
        _show_traceback()
        fine = not _fail(f"{case.name}: {type(error).__name__}: {error}; writing what needs no network")
        segmentation = segment_case(case, None, deadline)
    try:
        write_segmentation(chosen.outputs / case.name, segmentation)
    except OSError as error:
        return not _fail(f"{chosen.outputs / case.name}: cannot be written ({error.strerror}); an older file is kept")
    _log(_summary(case, budget - deadline.remaining(), budget))
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
    _log(f"error: {message}", sys.stderr)
    return 1


def _show_traceback() -> None:
    for line in traceback.format_exc().splitlines():
        _log(line, sys.stderr)


def _log(message: str, stream: TextIO | None = None) -> None:
    """Writes one line for people, whatever the names in it hold: line breaks and what cannot be encoded are escaped."""
    stream = stream or sys.stdout
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(OSError):  # A closed pipe or a full disk behind it must not cost a case its output.
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


if __name__ == "__main__":
    code = main()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # They are None where they were closed from the start.
        with suppress(OSError):
            stream.flush()
    # A forward that overran its deadline may still be running in its thread, which an ordinary exit would wait for.
    os._exit(code)
