"""``python -m training.ablation``: short runs from scratch with one thing changed each, on held-out patients.

The choices of :data:`training.config.DEFAULT` are made here and not on the validation set, which waits for the weights
that they lead to. Takes minutes a run and goes on where it stopped; TABLE.md in the output folder grows with each.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from tqdm import tqdm
from training.validation import evaluate_network

from evaluation.cases import EvaluationCase, list_cases, read_evaluation_case, with_boxes, without_boxes
from inference.atomic import replacing
from inference.case import CaseError
from inference.cpu_forward import for_cpu
from inference.network import LogOddsUNet, NetworkConfig, ResidualEncoderUNet
from training.config import DEFAULT, TrainingConfig
from training.dataset import Volume, by_source, load_volumes, source_of
from training.loop import Run, half_precision_pays, train

HELD_OUT = 8
"""Every patient whose number this divides is held out."""

CASES_A_SOURCE = 4
"""Held-out cases of a source that are evaluated."""

OBJECTS = 12
"""Cases of more objects are not evaluated here: they take too long."""

COLUMNS = ("modality", "case", "boxes", "dsc_first", "dsc_final", "nsd_final")


@dataclass(frozen=True)
class Variant:
    """A run.

    Args:
        what: the row's name in the table.
        config: the default's change.
        steps: share of the steps; below 1 for a variant that costs more a step, to take about as long as the others.
        seed: of the run.
        share: of each source's volumes, the first of them, one at least; 1 for all.
        without: source that is left out of training, and is all that is evaluated.
        build: makes the network.
        arrange: what evaluates it, where that is not :func:`inference.cpu_forward.for_cpu`.
    """

    what: str
    config: Callable[[TrainingConfig], TrainingConfig] = lambda config: config
    steps: float = 1.0
    seed: int = 0
    share: float = 1.0
    without: str | None = None
    build: Callable[[NetworkConfig], ResidualEncoderUNet] = ResidualEncoderUNet
    arrange: Callable[[LogOddsUNet], nn.Module] = for_cpu


def _sampling(**changes: object) -> Callable[[TrainingConfig], TrainingConfig]:
    return lambda config: replace(config, sampling=replace(config.sampling, **changes))


def _model(patch: int | None = None, **network: tuple[int, ...]) -> Callable[[TrainingConfig], TrainingConfig]:
    def change(config: TrainingConfig) -> TrainingConfig:
        edges = config.model.patch if patch is None else (patch,) * 3
        model = replace(config.model, patch=edges, network=replace(config.model.network, **network))
        return replace(config, model=model)

    return change


def _with(**changes: object) -> Callable[[TrainingConfig], TrainingConfig]:
    return lambda config: replace(config, **changes)


def strided_stem(config: NetworkConfig) -> ResidualEncoderUNet:
    """A network that works at half the resolution: its first convolution has stride 2, its output is interpolated."""

    def enlarge(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return interpolate(output, scale_factor=2, mode="trilinear", align_corners=False)

    network = ResidualEncoderUNet(config)
    network.encoder.stem.convs[0].conv.stride = (2, 2, 2)
    network.decoder.register_forward_hook(enlarge)
    return network


def strided_stem_for_cpu(network: LogOddsUNet) -> nn.Module:
    """:func:`strided_stem`'s forward: to interpolate the heads' outputs or what the heads are given is the same."""
    return nn.Sequential(for_cpu(network), nn.Upsample(scale_factor=2, mode="trilinear"))


BASE = replace(
    DEFAULT,
    model=replace(DEFAULT.model, finer=1),
    batch=4,
    sampling=replace(DEFAULT.sampling, merged=0, no_box=0.35),
)
"""What each variant changes one thing of; ``boxes-half`` has become the default since."""

LEAVE_OUT = ("CT_ibsi", "MR_msd", "US_deepreg", "PET_ibsi")

VARIANTS = {
    "baseline": Variant("nothing"),
    "seed": Variant("another seed", seed=1),
    "twice-the-steps": Variant("twice the steps", steps=2),
    "half-the-volumes": Variant("half of each source's volumes", share=0.5),
    "lr-1e-3": Variant("peak learning rate 1e-3", _with(learning_rate=1e-3)),
    "lr-constant": Variant("constant learning rate", _with(final_learning_rate=BASE.learning_rate)),
    "lr-5e-3": Variant("peak learning rate 5e-3", _with(learning_rate=5e-3)),
    "adamw": Variant("AdamW for all weights", _with(muon=False)),
    "no-average": Variant("no running average", _with(average=0.0)),
    "no-synthesis": Variant(
        "no synthesis (images, blobs, regions)", _sampling(synthetic=0, procedural=0, shapes=0, regions=0)
    ),
    "merging": Variant("objects joined with their neighbours", _sampling(merged=DEFAULT.sampling.merged)),
    "no-augmentation": Variant("no augmentation", _sampling(augment=False)),
    "boxes-always": Variant("no sample without a box", _sampling(no_box=0, no_prompt=0)),
    "boxes-half": Variant("half of the samples without a box", _sampling(no_box=0.5)),
    "clicks-paper": Variant("at most one simulated click", _sampling(clicks=(0.5, 0.5))),
    "clicks-none": Variant("no simulated clicks", _sampling(clicks=(1.0,))),
    "no-refinement": Variant("no refinement samples", _sampling(refinement=0)),
    "small": Variant("half the channels", _model(features=(8, 16, 32, 64, 96))),
    "large": Variant("1.5 times the channels", _model(features=(24, 48, 96, 192, 288)), steps=0.5),
    "shallow": Variant("a stage less", _model(features=(16, 32, 64, 128), blocks=(1, 2, 2, 3))),
    "patch-64": Variant("patch 64³", _model(64), steps=0.42),
    "strided-stem": Variant(
        "strided stem, patch 96³",
        _model(96, features=(32, 64, 128, 192), blocks=(2, 2, 3, 3)),
        steps=0.3,
        build=strided_stem,
        arrange=strided_stem_for_cpu,
    ),
} | {f"without-{source}": Variant(f"trained without {source}", without=source) for source in LEAVE_OUT}


def held_out(name: str) -> bool:
    """Whether a case's patient, told by the first number of two digits or more in its name, is kept for evaluation."""
    number = re.search(r"\d{2,}", name)
    return number is not None and int(number[0]) % HELD_OUT == 0


def held_out_cases(folder: Path, of_a_source: int = CASES_A_SOURCE) -> list[EvaluationCase]:
    """The first cases of each source whose patients are held out, with boxes made as the challenge's are.

    Raises:
        CaseError: a case cannot be used.
    """
    kept = (path for path in list_cases(folder) if held_out(path.stem))
    chosen = [path for paths in by_source(kept, source_of).values() for path in paths[:of_a_source]]
    cases = [with_boxes(read_evaluation_case(path), np.random.default_rng(0)) for path in chosen]
    return [case for case in cases if case.classes <= OBJECTS]


def run_variant(name: str, volumes: list[Volume], cases: list[EvaluationCase], out: Path, steps: int) -> None:
    """Trains and evaluates a variant, unless that is done; writes ``out/name/scores.csv``."""
    variant, scores = VARIANTS[name], out / name / "scores.csv"
    if scores.exists():
        return
    config = variant.config(BASE)
    # A run of fewer steps must not spend them all on its way to the peak learning rate.
    config = replace(config, warmup=round(config.warmup * min(variant.steps, 1)))
    steps = round(steps * variant.steps)
    device = torch.device("cpu")
    run = Run(out / name, steps, device, variant.seed, half_precision_pays(device), workers=0)
    network = train(config, selected(volumes, variant), run, build=variant.build)
    evaluated = [case for case in cases if variant.without in (None, source_of(Path(case.name)))]
    rows = []
    for case in tqdm(evaluated, desc=name, unit="case", disable=None):
        for boxes, each in ((True, case), (False, without_boxes(case))):
            score = evaluate_network(network, config.model, each, run.device, variant.arrange)
            rows.append((score.modality, case.name, boxes, score.first, score.dsc, score.nsd))
    with replacing(scores) as unfinished, unfinished.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def selected(volumes: list[Volume], variant: Variant) -> list[Volume]:
    """What a variant is trained on."""
    kept = (volume for volume in volumes if volume.source != variant.without)
    groups = by_source(kept, lambda volume: volume.source).values()
    return [volume for group in groups for volume in group[: math.ceil(len(group) * variant.share)]]


def table(out: Path) -> str:
    """All variants that are done, as Markdown: means of modalities; a source that is left out beside the baseline.

    Only cases that all of them (but those without a source) were evaluated on count.
    """
    scores = {name: out / name / "scores.csv" for name in VARIANTS if (out / name / "scores.csv").exists()}
    whole = [_cases(path) for name, path in scores.items() if VARIANTS[name].without is None]
    common = set.intersection(*whole) if whole else set()
    lines = [
        "| changed | steps | minutes | DSC box | DSC Final | NSD Final | no box: DSC Final | NSD Final |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, path in scores.items():
        variant = VARIANTS[name]
        lines.append(_row(variant.what, path.parent, common if variant.without is None else _cases(path)))
        if variant.without and "baseline" in scores:
            lines.append(_row(f"{variant.without}, trained with it", out / "baseline", _cases(path)))
    return "\n".join(lines) + "\n"


def _cases(scores: Path) -> set[str]:
    with scores.open(newline="") as file:
        return {row["case"] for row in csv.DictReader(file)}


def _row(what: str, folder: Path, cases: set[str]) -> str:
    with (folder / "log.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    by_group: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with (folder / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["case"] in cases:
                scores = tuple(float(row[key]) for key in COLUMNS[3:])
                by_group.setdefault((row["boxes"], row["modality"]), []).append(scores)
    means = {
        boxes: np.mean([np.mean(rows, axis=0) for (b, _), rows in by_group.items() if b == boxes], axis=0)
        for boxes in ("True", "False")
    }
    figures = [*means["True"], *means["False"][1:]]
    return (
        f"| {what} | {last['step']} | {float(last['seconds']) / 60:.1f} | "
        + " | ".join(f"{v:.3f}" for v in figures)
        + " |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the variants; errors of use end it with one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m training.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, scores and TABLE.md")
    parser.add_argument("--steps", type=int, default=350, help="of 4 samples each")
    parser.add_argument("--cases", type=int, default=CASES_A_SOURCE, help="of each source to evaluate on, at most")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    options = parser.parse_args(arguments)
    try:
        cases = held_out_cases(options.data, options.cases)
        volumes = [volume for volume in load_volumes(options.data) if not held_out(volume.name)]
    except (OSError, CaseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(volumes)} volumes to train on, {len(cases)} cases to evaluate")
    for name in options.only:
        run_variant(name, volumes, cases, options.out, options.steps)
        with replacing(options.out / "TABLE.md") as unfinished:
            unfinished.write_text(table(options.out))
    print(table(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
