"""How good the weights are on cases that they were not trained on: the challenge's own protocol, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evaluation.cases import EvaluationCase, list_cases, read_evaluation_case
from evaluation.contestants import UNHURRIED, unhurried
from evaluation.protocol import evaluate_case
from inference.checkpoint import ModelConfig
from inference.cpu_forward import for_cpu
from inference.network import LogOddsUNet, ResidualEncoderUNet
from inference.predictor import Predictor
from inference.refinement import RefinementConfig
from inference.segmenter import Segmenter


@dataclass(frozen=True)
class Scores:
    """Means over modalities of the means over their cases, after the last click."""

    dsc: float
    nsd: float

    @property
    def mean(self) -> float:
        return (self.dsc + self.nsd) / 2


@dataclass(frozen=True)
class Evaluated:
    """A case's scores: DSC after the first run, DSC and NSD after the last one."""

    modality: str
    first: float
    dsc: float
    nsd: float


def load_cases(folder: Path) -> list[EvaluationCase]:
    """The cases to validate on.

    Raises:
        CaseError: a case cannot be used; here, unlike in training, none may be left out unseen.
    """
    return [read_evaluation_case(path) for path in list_cases(folder)]


def evaluate_network(
    network: ResidualEncoderUNet,
    config: ModelConfig,
    case: EvaluationCase,
    device: torch.device,
    arrange: Callable[[LogOddsUNet], nn.Module] = for_cpu,
) -> Evaluated:
    """Runs the challenge's steps on a case.

    Args:
        arrange: makes the same forward faster, on a CPU.
    """
    was_training = network.training
    log_odds = LogOddsUNet(network).eval()
    forward = arrange(log_odds) if device.type == "cpu" else log_odds
    segmenter = Segmenter(Predictor(forward, config, device), RefinementConfig.for_weights(config))
    result, _ = evaluate_case(case, unhurried(segmenter), seconds_per_class=UNHURRIED)
    network.train(was_training)
    first, last = result.steps[0], result.steps[-1]
    return Evaluated(result.modality, first.dsc, last.dsc, last.nsd)


def validate(
    network: ResidualEncoderUNet, config: ModelConfig, cases: list[EvaluationCase], device: torch.device
) -> Scores:
    """Runs the challenge's steps on each case."""
    by_modality: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        result = evaluate_network(network, config, case, device)
        by_modality.setdefault(result.modality, []).append((result.dsc, result.nsd))
    dsc, nsd = np.mean([np.mean(scores, axis=0) for scores in by_modality.values()], axis=0)
    return Scores(float(dsc), float(nsd))
