"""``python -m inference``: every case of the input folder, one after another."""

from __future__ import annotations

import gc
import sys

from inference.options import FOR_AN_IMAGE, predict_options

if __name__ == "__main__":
    CHOSEN = predict_options(None)  # Wrong use is said before the seconds of the imports.

# A million objects are made while torch is imported: looking for garbage among them takes a sixth of the start.
gc.disable()

import argparse
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from inference.atomic import remove_unfinished
from inference.case import Case, CaseError, read_case, write_segmentation
from inference.checkpoint import CheckpointError
from inference.command import WRONG_USE, exit_code_of, fail, leave, print_line, print_traceback, run
from inference.deadline import Deadline, Watchdog, process_age
from inference.predictor import DeviceError
from inference.prompt_types import counted
from inference.segmenter import Segmenter, load_segmenter, segment_case

# Nor does any of them become garbage: the next search would go through them all, and find nothing.
gc.freeze()
gc.enable()

IMAGES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm")
"""Names of images, which are no cases yet."""

LONGEST_WRITE = 600.0
"""Seconds. What is unfinished and older is of a run that was killed, and not of another one that is writing."""

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a run that was told to stop."""


def main(arguments: list[str] | None = None) -> int:
    """Reads the options, and walks the input folder (:func:`predict`)."""
    return predict(predict_options(arguments))


def predict(chosen: argparse.Namespace) -> int:
    """Walks the input folder.

    SIGTERM ends it early: the running case is written with what has been found of it, and no other is begun.

    Args:
        chosen: what :func:`inference.options.predict_options` returns.

    Returns:
        0 if every case was read, segmented and written without an error, 2 if a folder cannot be used and nothing was
        begun, 143 after SIGTERM, 130 after Ctrl-C, else 1.
    """
    watchdog = Watchdog()
    with _stopping_on_sigterm(watchdog):
        return run(lambda: _all_cases(chosen, watchdog, time.monotonic() - process_age()))


def _all_cases(chosen: argparse.Namespace, watchdog: Watchdog, started: float) -> int:
    if chosen.inputs.is_file():
        hint = f"give the folder {chosen.inputs.parent}" if chosen.inputs.suffix == ".npz" else FOR_AN_IMAGE
        return fail(f"{chosen.inputs}: is a file; --inputs expects a folder of cases; {hint}", WRONG_USE)
    if not chosen.inputs.is_dir():
        return fail(f"{chosen.inputs}: no such folder; give the folder of cases with --inputs", WRONG_USE)
    try:
        entries = sorted(chosen.inputs.iterdir())
    except OSError as error:
        return fail(f"{chosen.inputs}: cannot be read ({error.strerror}); expected a folder of cases", WRONG_USE)
    paths = [path for path in entries if path.suffix == ".npz" and not path.name.startswith(".")]
    if not paths:
        images = any(path.name.lower().endswith(IMAGES) for path in entries)
        hint = f"; segfm3d case make makes a case of an image, and {FOR_AN_IMAGE}" if images else ""
        return fail(f"{chosen.inputs}: no *.npz in it; expected the challenge's cases{hint}", WRONG_USE)
    try:
        chosen.outputs.mkdir(parents=True, exist_ok=True)
        if chosen.outputs.samefile(chosen.inputs):
            line = f"{chosen.outputs}: holds the cases, which the results would replace; give another with --outputs"
            return fail(line, WRONG_USE)
        remove_unfinished(chosen.outputs, LONGEST_WRITE)
    except OSError as error:
        line = f"{chosen.outputs}: cannot be written ({error.strerror}); give another folder with --outputs"
        return fail(line, exit_code_of(error))
    failures = 0
    segmenter = None
    try:
        segmenter = load_segmenter(chosen.weights, chosen.device)
        print_line(f"weights {chosen.weights.name}, patch {segmenter.config.patch}, on {segmenter.predictor.device}")
    except Exception as error:  # Weights may be broken in a way that torch does not foresee.
        reason = str(error)
        if not isinstance(error, (CheckpointError, DeviceError)):
            reason = f"{chosen.weights} on {chosen.device}: {type(error).__name__}: {' '.join(reason.split())[:200]}"
        failures += fail(f"{reason}; without weights only previous masks and the boxes' ellipsoids are written")
    spent = time.monotonic() - started  # What came before the first case is paid from it, loading the weights too.
    for number, path in enumerate(paths):
        if watchdog.stopped:
            fail(f"told to stop; {len(paths) - number} of {len(paths)} cases are not begun")
            break
        try:
            failures += not _run(path, chosen, segmenter, watchdog, spent)
        except Exception as error:  # Whatever it is, it must not cost the other cases their output.
            print_traceback(error)
            failures += fail(f"{path.name}: {type(error).__name__}: {error}")
        spent = 0.0
    failures += segmenter.failures if segmenter is not None else 0
    if failures:
        print_line(f"{failures} error(s); see above", sys.stderr)
    return TERMINATED if watchdog.stopped else 1 if failures else 0


@contextmanager
def _stopping_on_sigterm(watchdog: Watchdog) -> Generator[None, None, None]:
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
        return not fail(str(error))
    for note in case.notes:
        print_line(f"{case.name}: {note}")
    budget = chosen.seconds_per_class * len(case.objects) / chosen.runs_per_case
    deadline = Deadline(budget, spent=spent + time.monotonic() - began)
    fine = True

    def log(line: str) -> None:
        print_line(f"{path.name}: {line}")

    try:
        segmentation = segment_case(case, segmenter, deadline, watchdog, log)
    except Exception as error:  # A valid output matters more than any one failure, which is shown whole.
        print_traceback(error)
        fine = not fail(f"{case.name}: {type(error).__name__}: {error}; writing what needs no network")
    if not fine:  # Here, where the memory of what failed is free again.
        segmentation = segment_case(case, None, deadline)
    try:
        write_segmentation(chosen.outputs / case.name, segmentation)
    except OSError as error:
        return not fail(f"{chosen.outputs / case.name}: cannot be written ({error.strerror}); an older file is kept")
    print_line(_summary(case, budget - deadline.remaining(), budget))
    return fine


def _summary(case: Case, seconds: float, budget: float) -> str:
    shape = "×".join(map(str, case.image.shape))
    objects = f"{len(case.objects)} object(s), {counted(case.objects)}"
    return f"{case.name}: {shape} (z×y×x), {objects}: {seconds:.1f} s of the {budget:.0f} s that it may take"


if __name__ == "__main__":
    leave(predict(CHOSEN))
