"""Are the probabilities that objects compete with comparable? Measured where they enter the fusion, against the truth.

A calibration lies beside a contestant's results:

    CONTESTANT/calibration/contestant.json    the weights, and how many clicks were made
    CONTESTANT/calibration/objects/CASE.json  what was counted for each object and run of a case
    CONTESTANT/calibration/calibration.json   reliability curves, errors and temperatures
    CONTESTANT/calibration/calibration.png    the curves, by modality
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from evaluation.cases import EvaluationCase, read_evaluation_case
from evaluation.contestants import UNHURRIED
from evaluation.modality import modality_of
from evaluation.reliability import Calibration, LogOddsHistogram, mean_histogram
from evaluation.results import COUNTED, ResultsFolder, write_atomically
from evaluation.simulated_user import click_from_error
from evaluation.summary import ALL, MODALITY_ORDER
from inference.case import Case, CaseError, Click, ObjectPrompts
from inference.deadline import Deadline
from inference.fusion import Fusion
from inference.geometry import Box, Voxel, label_extents
from inference.segmenter import Segmenter, segment_case

FOLDER = "calibration"
SUMMARY_FILE = "calibration.json"
PICTURE_FILE = "calibration.png"

SMALL = 1 / 4
"""A small object's extent is at most this part of the patch along every axis."""

LARGE = 2 / 3
"""A large object's extent is more than this part of the patch along some axis: its window is zoomed out."""


@dataclass(frozen=True)
class ObjectCount:
    """What the network said of an object in one run.

    Args:
        case: the case's file name.
        label: the object's.
        clicks: how many clicks the run was given for each object.
        size: `small`, `medium` or `large` beside the network's patch.
        histogram: over the voxels of the window.
    """

    case: str
    label: int
    clicks: int
    size: str
    histogram: LogOddsHistogram


def calibrate(segmenter: Segmenter, paths: Iterable[Path], results: ResultsFolder, clicks: int) -> Calibration:
    """Measure the calibration of a segmenter on cases, and write it down; cases that were counted are not run again.

    Args:
        segmenter: what is measured.
        paths: the case files, with truths.
        results: where the calibration goes.
        clicks: how many further runs, each with one more click an object, follow the run with boxes alone. A case
            without boxes begins with the first click.

    Raises:
        CaseError: a case cannot be used, or the network failed on it.
    """
    counts: list[ObjectCount] = []
    for path in tqdm(list(paths), unit="case", desc="calibration"):
        file = results.path / COUNTED / f"{path.stem}.json"
        if not file.exists():
            case = read_evaluation_case(path)
            content = [_as_json(count) for count in count_case(case, segmenter, clicks)]
            write_atomically(file, lambda stream, content=content: stream.write(json.dumps(content).encode()))
        counts += _read_counts(file, path.name)
    if not counts:
        raise CaseError(f"{results.path}: no run was made; expected cases with boxes, or --clicks above 0")
    calibration = summarize(counts)
    # Here, because counting works without matplotlib.
    from evaluation.report import plots

    write_atomically(results.path / SUMMARY_FILE, lambda stream: stream.write(_summary_json(calibration).encode()))
    write_atomically(
        results.path / PICTURE_FILE,
        lambda stream: stream.write(plots.reliability_picture(results.path.parent.name, calibration)),
    )
    return calibration


def count_case(case: EvaluationCase, segmenter: Segmenter, clicks: int) -> list[ObjectCount]:
    """Run a case as the challenge does, and count for each object and run what entered the fusion.

    Raises:
        CaseError: the network failed, so that something else entered it.
    """
    extents = label_extents(case.truth)
    given: list[tuple[Click, ...]] = [()] * len(case.objects)
    current = np.zeros(case.truth.shape, np.uint8)
    counts = []
    for run in range(0 if case.has_boxes else 1, clicks + 1):
        if run:
            given = [
                earlier + _new_click(current == prompts.label, case.truth == prompts.label)
                for earlier, prompts in zip(given, case.objects, strict=True)
            ]
        objects = tuple(
            ObjectPrompts(prompts.label, prompts.box, clicks_so_far)
            for prompts, clicks_so_far in zip(case.objects, given, strict=True)
        )
        fusion = _CountingFusion(case.truth)
        shown = Case(case.name, case.image, case.spacing, objects, current if run else None)
        failures = segmenter.failures
        current = segment_case(shown, segmenter, Deadline(UNHURRIED), log=tqdm.write, fusion=fusion)
        if segmenter.failures > failures:
            raise CaseError(f"{case.name}: the network failed (see above); expected weights that answer every object")
        counts += [
            ObjectCount(case.name, label, run, size_class(extents[label], segmenter.config.patch), histogram)
            for label, histogram in fusion.histograms.items()
        ]
    return counts


def size_class(extent: Box, patch: Voxel) -> str:
    """Return whether an object is `small`, `medium` or `large` beside the patch that the network sees."""
    parts = [edge / p for edge, p in zip(extent.size, patch, strict=True)]
    return "large" if max(parts) > LARGE else "small" if max(parts) <= SMALL else "medium"


def summarize(counts: Sequence[ObjectCount]) -> Calibration:
    """Group what was counted; each object and run counts for the same, whatever its window's size.

    Raises:
        ValueError: nothing was counted.
    """
    members: dict[str, list[LogOddsHistogram]] = {name: [] for name in (ALL, *MODALITY_ORDER)}
    for key in (
        lambda count: ALL,
        lambda count: modality_of(count.case),
        lambda count: f"after click {count.clicks}" if count.clicks else "box alone",
        lambda count: f"{count.size} objects",
    ):
        for count in counts:
            members.setdefault(key(count), []).append(count.histogram)
    groups = {name: mean_histogram(histograms) for name, histograms in members.items() if histograms}
    return Calibration(groups, groups[ALL].best_temperature())


def read_calibration(contestant: Path) -> Calibration | None:
    """Return the calibration beside a contestant's results; `None` if it was not measured.

    Raises:
        CaseError: the file is not one.
    """
    file = contestant / FOLDER / SUMMARY_FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        groups = {name: _histogram(group) for name, group in content["groups"].items()}
        return Calibration(groups, float(content["temperature"]))
    except (ValueError, TypeError, KeyError) as error:
        raise CaseError(
            f"{file}: not a calibration ({error!r}); expected a file written by `segfm3d calibrate`"
        ) from error


def table(calibration: Calibration) -> str:
    """Return the figures of each group as lines of text, as predicted and at the best temperature."""
    lines = [f"{'':16} {'ECE':>7} {'at T':>7} {'NLL':>7} {'at T':>7} {'own T':>7}"]
    for name, histogram in calibration.groups.items():
        both = (1.0, calibration.temperature)
        errors = [histogram.curve(t).expected_calibration_error for t in both]
        likelihoods = [histogram.negative_log_likelihood(t) for t in both]
        numbers = " ".join(f"{number:7.4f}" for number in (*errors, *likelihoods, histogram.best_temperature()))
        lines.append(f"{name:16} {numbers}")
    return "\n".join(lines)


class _CountingFusion(Fusion):
    """A fusion that counts what it is given, object by object."""

    def __init__(self, truth: NDArray[np.integer]):
        super().__init__(truth.shape)
        self.truth = truth
        self.histograms: dict[int, LogOddsHistogram] = {}

    def add(self, label: int, where: Box, log_odds: Tensor, advantage: float | Tensor = 0.0) -> None:
        super().add(label, where, log_odds, advantage)
        slab = LogOddsHistogram.of(log_odds.cpu().numpy(), self.truth[where.slices] == label)
        self.histograms[label] = self.histograms[label] + slab if label in self.histograms else slab


def _new_click(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[Click, ...]:
    click = click_from_error(predicted, truth)
    return () if click is None else (Click(*click),)


def _as_json(count: ObjectCount) -> dict:
    histogram = {"voxels": count.histogram.voxels.tolist(), "positives": count.histogram.positives.tolist()}
    return {"label": count.label, "clicks": count.clicks, "size": count.size} | histogram


def _read_counts(file: Path, case: str) -> list[ObjectCount]:
    try:
        return [
            ObjectCount(case, item["label"], item["clicks"], item["size"], _histogram(item))
            for item in json.loads(file.read_text())
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise CaseError(
            f"{file}: not what was counted of a case ({error!r}); delete it, and the case is run again"
        ) from error


def _histogram(content: dict) -> LogOddsHistogram:
    return LogOddsHistogram(np.array(content["voxels"]), np.array(content["positives"]))


def _summary_json(calibration: Calibration) -> str:
    groups = {}
    for name, histogram in calibration.groups.items():
        curves = [histogram.curve(t) for t in (1.0, calibration.temperature)]
        groups[name] = {
            "expected calibration error, as predicted and at the best temperature": [
                curve.expected_calibration_error for curve in curves
            ],
            "negative log-likelihood, the same": [
                histogram.negative_log_likelihood(t) for t in (1.0, calibration.temperature)
            ],
            "best temperature of its own": histogram.best_temperature(),
            "predicted": curves[0].predicted.tolist(),
            "observed": curves[0].observed.tolist(),
            "share": curves[0].share.tolist(),
            "voxels": histogram.voxels.tolist(),
            "positives": histogram.positives.tolist(),
        }
    return json.dumps({"temperature": calibration.temperature, "groups": groups}, indent=1) + "\n"
