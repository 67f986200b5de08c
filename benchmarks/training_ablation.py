"""``python -m benchmarks.training_ablation``: short runs with one thing changed each, judged on sources left out.

Every run begins from the same weights and sees the same number of samples, with two seeds. What is judged is a few
cases of each source of ``HELD_OUT``, of which no run sees anything: the mean over cases of the Dice after the last
click, with boxes and without. The weights that the runs begin with have a row of their own. Takes minutes a run and
goes on where it stopped; TABLE.md in the output folder grows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.__main__ import main as evaluation
from evaluation.groups import GroupFigures, group_figures
from evaluation.results import ResultsFolder
from evaluation.simulated_user import box_from_mask
from inference import checkpoint
from inference.atomic import replacing
from inference.case import CaseError
from inference.command import Parser, run
from inference.model import load_model
from inference.npz import read_array
from training.config import DEFAULT, TrainingConfig
from training.dataset import SMALLEST_OBJECT, by_source, load_volumes, source_of
from training.lock import FolderInUseError
from training.loop import Run, half_precision_pays, train
from training.shapes.library import load_shapes
from training.state import ResumeError

HELD_OUT = (
    "CT_TPTBox",
    "CT_openkbp",
    "MR_JLFslab",
    "MR_STAfetal",
    "MR_dsimouse",
    "MR_mouseTg4510",
    "Microscopy_vesselNN",
)
"""Sources that the weights which the runs begin with have never seen: bones, organs, tissue, folds, vessels."""

OBJECTS = 4
"""Of a case."""

SEEDS = (0, 1)

Change = Callable[[TrainingConfig], TrainingConfig]


def _sampling(**changes: object) -> Change:
    return lambda config: replace(config, sampling=replace(config.sampling, **changes))


VARIANTS: dict[str, tuple[str, Change]] = {
    "default": ("nothing", lambda config: config),
    "no-made": (
        "no made samples (procedural, shapes, regions)",
        _sampling(procedural=0.0, shapes=0.0, regions=0.0, finer_made=0.0),
    ),
    "no-shapes": ("no label maps without images", _sampling(shapes=0.0)),
    "no-procedural": ("no procedural shapes", _sampling(procedural=0.0)),
    "no-regions": ("no regions", _sampling(regions=0.0)),
    "one-click": ("at most one round of clicks", _sampling(clicks=(0.5, 0.5))),
    "challenge-clicks": ("clicks always as the challenge places them", _sampling(human_clicks=0.0)),
    "files-alike": ("all files alike, sources not balanced", _sampling(modalities=())),
    "patch-64": (
        "patch 64³, as many voxels",
        lambda config: replace(config, batch=3, finer_batch=1, model=replace(config.model, patch=(64, 64, 64))),
    ),
}
"""Name -> what is changed, and the change."""

INIT = "init"
"""The weights that the runs begin with, which are only evaluated."""


def held_out_cases(data: Path, out: Path) -> None:
    """Writes the cases that judge: two of each source, a few objects each, with boxes as the challenge makes them.

    Raises:
        CaseError: a case cannot be used.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = by_source(sorted(path for path in data.glob("*.npz") if source_of(path) in HELD_OUT), source_of)
    if missing := set(HELD_OUT) - found.keys():
        raise CaseError(f"{data}: no case of {', '.join(sorted(missing))}; expected the sources that are held out")
    for paths in found.values():
        # The first and one from the middle: neighbours are often of one subject.
        for path in dict.fromkeys((paths[0], paths[len(paths) // 2])):
            if not (out / path.name).exists():
                _write_case(path, out / path.name)


def _write_case(path: Path, target: Path) -> None:
    random = np.random.default_rng(0)
    labels = read_array(path, "gts")
    counts = np.bincount(labels.ravel())
    known = [label for label in range(1, len(counts)) if counts[label] >= SMALLEST_OBJECT]
    chosen = sorted(random.choice(known, min(OBJECTS, len(known)), replace=False).tolist())
    numbers = np.zeros(len(counts), np.uint8)
    numbers[chosen] = range(1, len(chosen) + 1)
    content: dict[str, Any] = {
        "imgs": read_array(path, "imgs"),
        "gts": numbers[labels],
        "spacing": read_array(path, "spacing"),
    }
    content["boxes"] = np.array([box_from_mask(content["gts"] == label, random) for label in range(1, len(chosen) + 1)])
    with replacing(target) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **content)


def run_variant(name: str, seed: int, options: argparse.Namespace, cases: Path) -> None:
    """Trains and evaluates a variant; what is done already is left as it is."""
    out = options.out / f"{name}-{seed}"
    if not (out / "done").exists():
        config = VARIANTS[name][1](replace(DEFAULT, learning_rate=options.learning_rate, warmup=20))
        network, model = load_model(options.init)
        config = replace(config, model=replace(config.model, network=model.network))
        device = torch.device("cpu")
        # A step of either kind counts as the mean of both, so that all runs see about as many samples.
        share = config.sampling.finer_look
        steps = round(options.samples / (share * config.finer_batch + (1 - share) * config.batch))
        run = Run(out, device, steps, seed=seed, mixed_precision=half_precision_pays(device))
        volumes = load_volumes(options.data, exclude=HELD_OUT)
        train(config, volumes, run, network.state_dict(), load_shapes(options.shapes))
        (out / "done").touch()
    evaluate(f"{name}-{seed}", out / "weights.pt", options.out, cases)


def evaluate(name: str, weights: Path, out: Path, cases: Path) -> None:
    """Evaluates weights with boxes and without.

    Raises:
        CaseError: the evaluation failed; it has said why.
    """
    arguments = ["run", "--cases", str(cases), "--results", str(out / "results"), "--name", name]
    arguments += ["--weights", str(weights), "--seconds-per-class", "3600"]
    for drop in ([], ["--drop-boxes"]):
        if evaluation([*arguments, *drop]):
            raise CaseError(f"{weights}: the evaluation failed, see above")


def table(out: Path) -> str:
    """Returns all runs that are done, as Markdown: means over modalities of what is held out."""
    lines = [
        "| changed | seed | boxes: DSC Final | NSD Final | worst tenth | harmful clicks "
        "| no boxes: DSC Final | NSD Final | worst tenth | harmful clicks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    runs = [("the weights that the runs begin with", "–", INIT)]
    runs += [(what, str(seed), f"{name}-{seed}") for name, (what, _) in VARIANTS.items() for seed in SEEDS]
    for what, seed, name in runs:
        folder = out / "results" / name
        results = ResultsFolder(folder).read_all() if folder.exists() else []
        by_boxes = [[result for result in results if result.has_boxes is boxes] for boxes in (True, False)]
        if all(by_boxes):
            cells = " | ".join(_cells(group_figures(each)) for each in by_boxes)
            lines.append(f"| {what} | {seed} | {cells} |")
    return "\n".join(lines) + "\n"


def _write_table(out: Path) -> None:
    with replacing(out / "TABLE.md") as unfinished:
        unfinished.write_text(table(out), encoding="utf-8")


def _cells(figures: GroupFigures) -> str:
    values = (figures.scores.dsc_final, figures.scores.nsd_final, figures.worst_tenth)
    return " | ".join(f"{value:.3f}" for value in values) + f" | {figures.harmful_share:.1%}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the variants."""
    parser = Parser("python -m benchmarks.training_ablation", __doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--shapes", type=Path, required=True, help="folder of *.npz with gts only")
    parser.add_argument("--init", type=Path, default=Path("weights/default.pt"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, scores and TABLE.md")
    parser.add_argument("--samples", type=int, default=1600, help="of a run (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=4e-4, help="(default: %(default)s)")
    names = (INIT, *VARIANTS)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="VARIANT", help=f"some of: {', '.join(names)}"
    )
    options = parser.parse_args(arguments)
    cases = options.out / "held_out"
    held_out_cases(options.data, cases)
    if INIT in options.only:
        evaluate(INIT, options.init, options.out, cases)
        _write_table(options.out)
    for seed in SEEDS:  # All with one seed first: a table that is cut short compares like with like.
        for name in (name for name in options.only if name != INIT):
            run_variant(name, seed, options, cases)
            _write_table(options.out)
    print(table(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(run(main, CaseError, checkpoint.CheckpointError, FolderInUseError, ResumeError))
