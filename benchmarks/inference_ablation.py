"""``python -m benchmarks.inference_ablation --cases CASES``: what each step beyond the paper's single forward brings.

The evaluation at home over a folder of labelled cases, with and without boxes, each row up to the default's with one
step more than the row above it, the last with another step instead; means over modalities, figures by modality and of
the objects that are larger than the patch or not, and the processor's seconds a run. A row whose scores are in the
output folder is not run again. Last, the NSD that the truth itself has when it is seen through the coarse windows: what
resolution alone can cost.
"""

from __future__ import annotations

import csv
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from tqdm import tqdm

from evaluation.cases import EvaluationCase, list_cases, read_evaluation_case, without_boxes
from evaluation.contestants import UNHURRIED, unhurried
from evaluation.metrics import score_segmentation
from evaluation.protocol import evaluate_case
from inference import window
from inference.atomic import replacing
from inference.case import CaseError, ObjectPrompts
from inference.checkpoint import CheckpointError
from inference.command import Parser, run
from inference.fusion import Fusion
from inference.geometry import Box, Voxel
from inference.placement import window_for
from inference.refinement import ONE_FORWARD, RefinementConfig
from inference.segmenter import Segmenter, load_segmenter

UNSURE = 0.02
"""The truth is given as so far from 0 and 1, about as sure as a network is."""

FIGURES = ("dsc_first", "dsc_final", "nsd_final", "seconds")
SIZES = {"large": "larger than the patch", "fitting": "that fit"}
SIZE_FIGURES = tuple(f"{score}_{size}" for size in SIZES for score in ("dsc", "nsd"))
"""After the last run, means of a case's objects of a size; empty if it has none."""

COLUMNS = ("case", "modality", "boxes", *FIGURES, *SIZE_FIGURES)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        what: what it is called.
        refinement: what it spends on an object.
        magnify: whether small objects are magnified.
        as_above: with boxes (True) or without (False) it is the row above it, whose scores are taken; None: neither.
    """

    what: str
    refinement: RefinementConfig
    magnify: bool = True
    as_above: bool | None = None


GROWN = replace(ONE_FORWARD, zoom_outs=RefinementConfig().zoom_outs)
REFOCUSED = replace(GROWN, recenter=True)
FINER = replace(REFOCUSED, fine_pass=True)
EDGES = replace(FINER, guided_filter=True)
INNER = replace(EDGES, inner_first=True)
SLICES = replace(INNER, box_slices=True)
RESTARTS = replace(SLICES, restart=True)
NEAREST = replace(RESTARTS, nearest_click=True)

ROWS = {
    "one-forward": Row("one forward, no magnification", ONE_FORWARD, magnify=False),
    "magnified": Row("+ small objects magnified", ONE_FORWARD),
    "grown": Row("+ windows that grow (no box)", GROWN, as_above=True),
    "refocused": Row("+ a second look after the first click (no box)", REFOCUSED, as_above=True),
    "finer": Row("+ a finer look at objects larger than the patch", FINER),
    "edges": Row("+ borders that follow the image's edges", EDGES),
    "inner": Row("+ inner boxes first (boxes)", INNER, as_above=False),
    "slices": Row("+ nothing outside of a box's slices (boxes)", SLICES, as_above=False),
    "restarts": Row("+ looks that begin anew after a leak (no box)", RESTARTS, as_above=True),
    "nearest": Row("+ claims by the nearest click (no box)", NEAREST, as_above=True),
    "neighbours": Row("+ other objects' clicks are shown (no box; the default)", RefinementConfig(), as_above=True),
}


def run_row(name: str, cases: list[EvaluationCase], segmenter: Segmenter, out: Path) -> None:
    """Evaluates a row's cases and writes their scores."""
    row = ROWS[name]
    segmenter.refinement = row.refinement
    contestant = unhurried(segmenter)
    lines: list[tuple] = []
    if row.as_above is not None:
        above = list(ROWS)[list(ROWS).index(name) - 1]
        lines += [
            tuple(case[key] for key in COLUMNS)
            for case in _read(out / f"{above}.csv")
            if case["boxes"] == str(row.as_above)
        ]
    magnified = nullcontext() if row.magnify else patch.object(window, "LEAST_ZOOM", 1.0)
    with magnified:
        for case in tqdm(cases, desc=row.what, unit="case", disable=None):
            for boxes, each in ((True, case), (False, without_boxes(case))):
                if boxes is row.as_above:
                    continue
                began = time.process_time()
                result, segmentations = evaluate_case(each, contestant, seconds_per_class=UNHURRIED)
                spent = (time.process_time() - began) / len(result.steps)
                first, last = result.steps[0], result.steps[-1]
                sizes = by_size(case, segmentations[-1], segmenter.config.patch)
                lines.append((case.name, result.modality, boxes, first.dsc, last.dsc, last.nsd, spent, *sizes))
    with replacing(out / f"{name}.csv") as unfinished, unfinished.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])


def is_large(item: ObjectPrompts, patch_size: Voxel) -> bool:
    """Whether an object's box is larger than the patch, along one axis at least."""
    return item.box is not None and any(n > p for n, p in zip(item.box.size, patch_size))


def by_size(case: EvaluationCase, segmentation: np.ndarray, patch_size: Voxel) -> list[float | None]:
    """SIZE_FIGURES of a (D, H, W) label map."""
    figures: list[float | None] = []
    for large in (True, False):
        labels = [item.label for item in case.objects if is_large(item, patch_size) == large]
        if labels:
            truth = np.where(np.isin(case.truth, labels), case.truth, 0)
            scores = score_segmentation(truth, segmentation, case.spacing)
            figures += [scores.dsc, scores.nsd]
        else:
            figures += [None, None]
    return figures


def seen_coarsely(case: EvaluationCase, segmenter: Segmenter) -> float | None:
    """The NSD of a case's large objects, if it has any, when all truth is resampled to each window's patch and back."""
    config, shape = segmenter.config, case.image.shape
    truth, fusion = torch.from_numpy(case.truth), Fusion(shape)
    for item in case.objects:
        around = window_for(item, shape, config.patch, config.isotropic_zoom)
        share = around.crop_label(truth, item.label)
        for where, log_odds in around.paste(torch.logit(share, eps=UNSURE), Box.of(shape)):
            fusion.add(item.label, where, log_odds)
    return by_size(case, fusion.label_map().numpy(), config.patch)[1]


def table(out: Path) -> str:
    """The rows that are done, as Markdown."""
    header = ["", "DSC box", "Final", "NSD Final", "s a run", "no box: DSC 1 click", "Final", "NSD Final", "s a run"]
    lines = []
    for what, cases in _done(out):
        figures = [
            figure
            for boxes in ("True", "False")
            for figure in _means([c for c in cases if c["boxes"] == boxes], FIGURES)
        ]
        lines.append([what, *(f"{figure:.3f}" for figure in figures)])
    return _markdown(header, lines)


def by_modality(out: Path) -> str:
    """DSC and NSD Final of each modality, as Markdown."""
    header, lines = ["DSC / NSD Final"], []
    for what, cases in _done(out):
        groups = sorted({(case["modality"], case["boxes"]) for case in cases}, key=lambda group: group[::-1])
        header[1:] = [_titled(*group) for group in groups]
        figures = [_means([c for c in cases if (c["modality"], c["boxes"]) == group], FIGURES) for group in groups]
        lines.append([what, *(f"{f[1]:.3f} / {f[2]:.3f}" for f in figures)])
    return _markdown(header, lines)


def sizes_table(out: Path) -> str:
    """DSC and NSD Final of the objects of each size, as Markdown: means over modalities of means over cases."""
    groups = [(size, boxes) for size in SIZES for boxes in ("True", "False")]
    header = ["DSC / NSD Final of objects", *(_titled(SIZES[size], boxes) for size, boxes in groups)]
    lines = []
    for what, cases in _done(out):
        figures = [_means([c for c in cases if c["boxes"] == b], (f"dsc_{size}", f"nsd_{size}")) for size, b in groups]
        lines.append([what, *(f"{dsc:.3f} / {nsd:.3f}" for dsc, nsd in figures)])
    return _markdown(header, lines)


def _titled(what: str, boxes: str) -> str:
    return what if boxes == "True" else f"{what}, no box"


def _done(out: Path) -> list[tuple[str, list[dict[str, str]]]]:
    """What each row that is done is called, and its cases."""
    return [(row.what, _read(out / f"{name}.csv")) for name, row in ROWS.items() if (out / f"{name}.csv").exists()]


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]) + "\n"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _means(cases: list[dict[str, str]], columns: tuple[str, ...]) -> list[float]:
    """Means over modalities of means over the cases that have the figures."""
    groups: dict[str, list[list[float]]] = {}
    for case in cases:
        if case[columns[0]]:
            groups.setdefault(case["modality"], []).append([float(case[key]) for key in columns])
    if not groups:
        return [np.nan] * len(columns)
    return np.mean([np.mean(rows, axis=0) for rows in groups.values()], axis=0).tolist()


def main() -> int:
    """Runs what is missing and prints the tables."""
    parser = Parser("python -m benchmarks.inference_ablation", __doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True, help="folder of *.npz with imgs, gts, boxes")
    parser.add_argument("--weights", type=Path, default=Path("weights/default.pt"))
    parser.add_argument("--out", type=Path, default=Path("runs/inference_ablation"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    options = parser.parse_args()
    cases = [read_evaluation_case(path) for path in list_cases(options.cases)]
    segmenter = load_segmenter(options.weights, "cpu")
    cases = [case for case in cases if case.has_boxes]
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        if not (options.out / f"{name}.csv").exists():
            run_row(name, cases, segmenter, options.out)
            print(table(options.out), flush=True)
    print(by_modality(options.out))
    print(sizes_table(options.out))
    large = [
        nsd
        for case in cases
        if any(is_large(item, segmenter.config.patch) for item in case.objects)
        and (nsd := seen_coarsely(case, segmenter)) is not None
    ]
    if large:
        mean, least = np.mean(large), min(large)
        print(f"the truth of large objects, {len(large)} cases, seen coarsely: NSD {mean:.3f}, at least {least:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, CaseError, CheckpointError))
