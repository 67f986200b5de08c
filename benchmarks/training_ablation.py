"""``python -m benchmarks.training_ablation``: short runs with one thing changed each, judged on sources left out.

Every run begins from the same weights, or from scratch, and sees the same number of samples; each change has a run a
seed. What judges are samples of the sources of :data:`HELD_OUT`, of which no run sees anything: the same ones for all
runs, seen by the coarse pass, in windows as inference places them, clicked on as the challenge does, on the run's own
device. So a GPU that is lent for minutes is enough. An interrupted table goes on where it stopped: TABLE.md grows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.groups import is_harmful, mean_of_worst
from inference.atomic import replacing
from inference.case import CaseError
from inference.checkpoint import CheckpointError
from inference.command import Parser, run
from inference.geometry import Voxel
from inference.model import load_model
from inference.network import NetworkConfig
from inference.prompts import PromptStyle
from training.config import DEFAULT, PAPER, TrainingConfig
from training.dataset import Volume, by_source, find_cases, load_volume, load_volumes, source_of
from training.interaction import log_odds, simulate
from training.lock import FolderInUseError
from training.loop import Run, half_precision_pays, train
from training.loss import dice
from training.render import Batch
from training.shapes.library import LabelMap, load_shapes
from training.state import ResumeError
from training.stream import Steps

HELD_OUT = (
    "CT_TPTBox",
    "CT_openkbp",
    "MR_JLFslab",
    "MR_STAfetal",
    "MR_dsimouse",
    "MR_mouseTg4510",
    "Microscopy_vesselNN",
)
"""Bones, organs, tissue, folds, vessels. Weights to begin with must not have seen them either."""

RELATIVES = ("MR_TPTBox", "MR_mouseDSURQE", "MR_mouseFVB", "neat_mouse")
"""Sources, of volumes and of label maps, whose labels are drawn as those of one that is held out: no run sees them."""

CLICKS = 5
"""Of the simulated user, as in the challenge."""

JUDGING_SEED = 2**20

Change = Callable[[TrainingConfig], TrainingConfig]


def _sampling(**changes: object) -> Change:
    return lambda config: replace(config, sampling=replace(config.sampling, **changes))


def _wider(config: TrainingConfig) -> TrainingConfig:
    return replace(config, model=replace(config.model, network=scaled(config.model.network, 1.5)))


def _larger(config: TrainingConfig) -> TrainingConfig:
    depth, height, width = config.model.patch
    return replace(config, model=replace(config.model, patch=(depth + 16, height + 16, width + 16)))


VARIANTS: dict[str, tuple[str, Change]] = {
    "default": ("nothing", lambda config: config),
    "no-made": (
        "no made samples (procedural, shapes, regions)",
        _sampling(procedural=0.0, shapes=0.0, regions=0.0, finer_made=0.0),
    ),
    "no-shapes": ("no label maps without images", _sampling(shapes=0.0)),
    "no-procedural": ("no procedural shapes", _sampling(procedural=0.0)),
    "no-regions": ("no regions", _sampling(regions=0.0)),
    "no-synthesis": ("no images made anew from their labels", _sampling(synthetic=0.0)),
    "one-click": ("at most one round of clicks", _sampling(clicks=(0.5, 0.5))),
    "hard-clicks": ("a further round for the worse half of a batch", _sampling(hard_clicks=1)),
    "challenge-clicks": ("clicks always as the challenge places them", _sampling(human_clicks=0.0)),
    "no-merged": ("no merged objects", _sampling(merged=0.0)),
    "click-windows": ("without a box, windows around the first click only", _sampling(extent_windows=0.0)),
    "fewer-boxes": ("two thirds of the samples without a box", _sampling(no_box=2 / 3)),
    "files-alike": ("all files alike, sources not balanced", _sampling(modalities=())),
    "wider": ("1.5 times the channels", _wider),
    "larger-patch": ("a patch 16 voxels wider", _larger),
}
"""Name -> what is changed, and the change."""

INIT = "init"
"""The weights that the runs begin with, which are only judged."""


@dataclass(frozen=True)
class Figures:
    """What weights reach on the samples that judge, all with boxes or all without: means of sources.

    Args:
        first: Dice in the patch just after the box, or after the first click.
        final: after five clicks.
        worst_tenth: mean of the tenth of the samples that are lowest after five clicks.
        harmful: share of clicks after which the Dice was lower by more than 0.01.
    """

    first: float
    final: float
    worst_tenth: float
    harmful: float


Samples = dict[str, list[list[Batch]]]
"""``boxes`` and ``no boxes`` -> the batches of each source."""


def judging_samples(config: TrainingConfig, volumes: Sequence[Volume], samples: int) -> Samples:
    """The samples of a configuration's patch that judge, so many a source, on the CPU."""
    return {
        kind: [
            Steps(each, _judging(config, samples, no_box), JUDGING_SEED)[0].batches
            for each in by_source(volumes, lambda volume: volume.source).values()
        ]
        for kind, no_box in (("boxes", 0.0), ("no boxes", 1.0))
    }


def judge(network: nn.Module, style: PromptStyle, samples: Samples) -> dict[str, Figures]:
    """Judges a network, which is on its device; returns figures of ``boxes`` and ``no boxes``."""
    device = next(network.parameters()).device
    figures = {}
    for kind, sources in samples.items():
        dices = [np.concatenate([_dices(network, batch, style, device) for batch in source]) for source in sources]
        changes = np.concatenate([np.diff(each).ravel() for each in dices])
        figures[kind] = Figures(
            float(np.mean([each[:, 0].mean() for each in dices])),
            float(np.mean([each[:, -1].mean() for each in dices])),
            mean_of_worst(np.concatenate(dices)[:, -1]),
            float(np.mean([is_harmful(change) for change in changes])),
        )
    return figures


def _judging(config: TrainingConfig, samples: int, no_box: float) -> TrainingConfig:
    """Labelled objects as they are, in forwards of few samples."""
    batch = min(samples, 8)
    sampling = replace(PAPER.sampling, no_box=no_box)
    return replace(config, sampling=sampling, batch=batch, accumulate=math.ceil(samples / batch))


@torch.no_grad()
def _dices(network: nn.Module, batch: Batch, style: PromptStyle, device: torch.device) -> np.ndarray:
    """The Dice (N, runs) of each sample after the box, if it has one, and after each click."""
    batch = Batch(batch.channels.to(device), batch.truth.to(device), batch.first_click)
    masks: list[Tensor] = []

    def remembered(channels: Tensor) -> Tensor:
        logits = network(channels)
        masks.append(log_odds(logits) > 0)
        return logits

    rounds = CLICKS - bool(batch.first_click.all())
    remembered(simulate(remembered, batch, rounds, style))
    return torch.stack([dice(mask, batch.truth) for mask in masks], dim=1).cpu().numpy()


def scaled(network: NetworkConfig, width: float) -> NetworkConfig:
    """A network of so many times the channels."""
    return replace(network, features=tuple(max(round(width * n), 4) for n in network.features))


def run_variant(
    name: str,
    seed: int,
    options: argparse.Namespace,
    volumes: Sequence[Volume],
    shapes: Sequence[LabelMap],
    judging: Callable[[Voxel], Samples],
) -> None:
    """Trains and judges a variant; what is done already is left as it is."""
    out = options.out / f"{name}-{seed}"
    if (out / "figures.json").exists():
        return
    base, initial = _begun(options)
    config = VARIANTS[name][1](base)
    device = torch.device(options.device)
    # A step of either kind counts as the mean of both, so that all runs see about as many samples.
    share = config.sampling.finer_look
    steps = round(options.samples / (share * config.finer_batch + (1 - share) * config.batch))
    half = half_precision_pays(device)
    limits = Run(out, device, steps, seed=seed, mixed_precision=half, workers=options.workers, checkpoint_every=300)
    outcome = train(config, volumes, limits, initial, shapes)
    if outcome.signal is not None:
        raise KeyboardInterrupt
    _write_figures(out, judge(outcome.weights.eval(), config.model.style, judging(config.model.patch)))
    (out / "last.pt").unlink()


def _begun(options: argparse.Namespace) -> tuple[TrainingConfig, dict[str, Tensor] | None]:
    """The configuration of all runs before anything is changed, and the weights that they begin with."""
    sampling = replace(DEFAULT.sampling, finer_look=options.finer_look)
    config = replace(DEFAULT, sampling=sampling, learning_rate=options.learning_rate, warmup=20, batch=options.batch)
    config = replace(config, model=replace(config.model, patch=_cube(options.patch)))
    if options.init is None:
        network = scaled(config.model.network, options.width)
        return replace(config, model=replace(config.model, network=network)), None
    weights, model = load_model(options.init)
    return replace(config, model=replace(config.model, network=model.network)), weights.state_dict()


def _cube(edge: int) -> Voxel:
    return edge, edge, edge


def _write_figures(out: Path, figures: dict[str, Figures]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "figures.json") as unfinished:
        unfinished.write_text(json.dumps({kind: asdict(each) for kind, each in figures.items()}), encoding="utf-8")


def table(out: Path) -> str:
    """Returns all runs that are done, as Markdown; a change that has several seeds has a row of their mean, too."""
    lines = [
        "| changed | seed | boxes: first | final | worst tenth | harmful clicks "
        "| no boxes: first | final | worst tenth | harmful clicks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    runs = [("the weights that the runs begin with", out / INIT)]
    for name, (what, _) in VARIANTS.items():
        runs += [(what, folder) for folder in sorted(out.glob(f"{name}-[0-9]*"))]
    rows: dict[str, list[np.ndarray]] = {}
    for what, folder in runs:
        if (folder / "figures.json").exists():
            content = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
            values = np.array([list(content[kind].values()) for kind in ("boxes", "no boxes")])
            rows.setdefault(what, []).append(values)
            seed = "–" if folder.name == INIT else folder.name.rpartition("-")[2]
            lines.append(f"| {what} | {seed} | {_cells(values)} |")
            if len(rows[what]) > 1:
                mean = np.mean(rows[what], axis=0)
                lines.append(f"| **{what}** | mean of {len(rows[what])} | {_cells(mean)} |")
    return "\n".join(lines) + "\n"


def _cells(values: np.ndarray) -> str:
    return " | ".join(" | ".join([*(f"{value:.3f}" for value in row[:3]), f"{row[3]:.1%}"]) for row in values)


def _write_table(out: Path) -> None:
    with replacing(out / "TABLE.md") as unfinished:
        unfinished.write_text(table(out), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Runs the variants."""
    parser = Parser("python -m benchmarks.training_ablation", __doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of *.npz with imgs and gts")
    parser.add_argument("--shapes", type=Path, nargs="+", required=True, help="folders of *.npz with gts only")
    parser.add_argument("--init", type=Path, help="weights that never saw what is held out (default: from scratch)")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, figures and TABLE.md")
    parser.add_argument("--samples", type=int, default=12_800, help="of a run (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="samples a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="(default: %(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="of the network, from scratch (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=48, help="edge in voxels, a multiple of 16 (default: %(default)s)")
    parser.add_argument("--finer-look", type=float, default=0.0, help="share of steps (default: %(default)s)")
    parser.add_argument("--judging", type=int, default=24, help="samples a source that judge (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1), help="(default: 0 1)")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw samples (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    names = (INIT, *VARIANTS)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="VARIANT", help=f"some of: {', '.join(names)}"
    )
    options = parser.parse_args(arguments)
    if options.patch < 16 or options.patch % 16:
        parser.error(f"--patch {options.patch}: expected a multiple of 16")
    judges = held_out_volumes(options.data)

    @cache
    def judging(patch: Voxel) -> Samples:
        """Made once for each size of patch."""
        config = replace(DEFAULT, model=replace(DEFAULT.model, patch=patch))
        return judging_samples(config, judges, options.judging)

    if INIT in options.only and options.init is not None:
        network, model = load_model(options.init)
        samples = judging(_cube(options.patch))
        _write_figures(options.out / INIT, judge(network.to(options.device), model.style, samples))
    volumes = load_volumes(options.data, exclude=(*HELD_OUT, *RELATIVES))
    shapes = [each for folder in options.shapes for each in load_shapes(folder) if not each.name.startswith(RELATIVES)]
    for seed in options.seeds:  # All with one seed first: a table that is cut short compares like with like.
        for name in (name for name in options.only if name != INIT):
            run_variant(name, seed, options, volumes, shapes, judging)
            _write_table(options.out)
    _write_table(options.out)
    print(table(options.out))
    return 0


def held_out_volumes(data: Sequence[Path]) -> list[Volume]:
    """The volumes that judge: up to four of each source, apart from each other in their order.

    Raises:
        CaseError: a source is missing.
    """
    found = by_source([path for path in find_cases(data) if source_of(path) in HELD_OUT], source_of)
    if missing := set(HELD_OUT) - found.keys():
        folders, names = (", ".join(map(str, each)) for each in (data, sorted(missing)))
        raise CaseError(f"{folders}: no case of {names}; expected the sources that are held out")
    # Neighbours are often of one subject.
    chosen = [path for paths in found.values() for path in paths[:: max(len(paths) // 4, 1)][:4]]
    return [load_volume(path) for path in chosen]


if __name__ == "__main__":
    sys.exit(run(main, CaseError, CheckpointError, FolderInUseError, ResumeError))
