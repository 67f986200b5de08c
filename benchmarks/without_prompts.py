"""`python -m benchmarks.without_prompts --cases CASES`: where to look when nothing is known, the choices side by side.

Every case is run without box and click, once for each choice of `--without-prompts`. An object's box is compared with
the best of the boxes that were chosen; its segmentation by label, so that of several objects few can be right: nothing
says which is which.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.cases import EvaluationCase, list_cases, read_evaluation_case
from evaluation.contestants import UNHURRIED
from evaluation.metrics import score_segmentation
from evaluation.modality import modality_of
from inference.case import Box, Case
from inference.deadline import Deadline
from inference.placement import central_third
from inference.proposals import WITHOUT_PROMPTS, intersection_over_union
from inference.segmenter import Segmenter, label_extents, load_segmenter, segment_case

FOUND = 0.5
"""An object is found where a box has at least this intersection over union with its own."""

COLUMNS = ("best IoU", "found", "DSC", "NSD")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.without_prompts", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=Path, required=True, help="folder of .npz cases with gts")
    parser.add_argument("--weights", type=Path, default=Path("weights/default.pt"), help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of what is timed (default: %(default)s)")
    options = parser.parse_args()
    segmenter = load_segmenter(options.weights, options.device)
    scores: dict[str, dict[str, list[list[float]]]] = {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in WITHOUT_PROMPTS}
    for path in tqdm(list_cases(options.cases), unit="case"):
        truth = read_evaluation_case(path)
        unprompted = tuple(replace(prompts, box=None) for prompts in truth.objects)
        case = Case(truth.name, truth.image, truth.spacing, unprompted)
        of_modality = scores.setdefault(modality_of(truth.name), {name: [] for name in WITHOUT_PROMPTS})
        for name, complete in WITHOUT_PROMPTS.items():
            of_modality[name].append(scored(complete(case, silent), truth, segmenter))
            seconds[name].append(median_seconds(complete, case, options.runs))
    print_table(scores)
    for name, medians in seconds.items():
        wall, processor = np.max(medians, axis=0)
        print(
            f"{name}: at most {wall:.3f} s a case to choose, {processor:.3f} s of processor (medians of {options.runs})"
        )


def scored(case: Case, truth: EvaluationCase, segmenter: Segmenter) -> list[float]:
    """Return the means over the objects of the best box's overlap, of those found, of DSC and NSD."""
    boxes = [prompts.box or central_third(case.image.shape) for prompts in case.objects]
    best = [best_overlap(extent, boxes) for extent in label_extents(truth.truth).values()]
    labels = segment_case(case, segmenter, Deadline(UNHURRIED), log=tqdm.write)
    result = score_segmentation(truth.truth, labels, truth.spacing)
    return [float(np.mean(best)), float(np.mean([overlap >= FOUND for overlap in best])), result.dsc, result.nsd]


def best_overlap(extent: Box, boxes: list[Box]) -> float:
    """Return the greatest intersection over union of an object's extent with any of the boxes."""
    return max(intersection_over_union(extent, box) for box in boxes)


def median_seconds(complete: Callable, case: Case, runs: int) -> tuple[float, float]:
    """Return the medians of the seconds that a choice takes for a case: by the wall's clock, and of the processor."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter(), time.process_time()
        complete(case, silent)
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return tuple(np.median(seconds, axis=0))


def silent(line: str) -> None:
    """Keep what the choices say out of the table."""


def print_table(scores: dict[str, dict[str, list[list[float]]]]) -> None:
    """Print means over the cases of each modality, and their mean."""
    print(f"{'modality':<20}{'cases':>6}  {'without prompts':<16}" + "".join(f"{column:>10}" for column in COLUMNS))
    for name in WITHOUT_PROMPTS:
        means = {modality: np.mean(rows[name], axis=0) for modality, rows in scores.items()}
        counts = {modality: len(rows[name]) for modality, rows in scores.items()}
        means["mean of modalities"] = np.mean(list(means.values()), axis=0)
        counts["mean of modalities"] = sum(counts.values())
        for modality, row in means.items():
            numbers = "".join(f"{value:>10.3f}" for value in row)
            print(f"{modality:<20}{counts[modality]:>6}  {name:<16}{numbers}")


if __name__ == "__main__":
    main()
