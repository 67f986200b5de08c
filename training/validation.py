"""How good the weights are on cases that they were not trained on: the challenge's own protocol, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.cases import EvaluationCase, list_cases, read_evaluation_case
from evaluation.contestants import InProcess
from evaluation.protocol import evaluate_case
from inference.checkpoint import ModelConfig
from inference.deadline import Deadline
from inference.network import LogOddsUNet, ResidualEncoderUNet
from inference.segmenter import Segmenter, segment_case

SECONDS = 3600.0
"""A run's time limit here: validation measures what the weights can, not how fast this machine is."""


@dataclass(frozen=True)
class Scores:
    """Means over modalities of the means over their cases, after the last click."""

    dsc: float
    nsd: float

    @property
    def mean(self) -> float:
        return (self.dsc + self.nsd) / 2


def load_cases(folder: Path) -> list[EvaluationCase]:
    """The cases to validate on.

    Raises:
        CaseError: a case cannot be used; here, unlike in training, none may be left out unseen.
    """
    return [read_evaluation_case(path) for path in list_cases(folder)]


def validate(
    network: ResidualEncoderUNet, config: ModelConfig, cases: list[EvaluationCase], device: torch.device
) -> Scores:
    """Runs the challenge's steps on each case."""
    was_training = network.training
    segmenter = Segmenter(LogOddsUNet(network).eval(), config, device)
    contestant = InProcess(
        "training", {}, lambda case: segment_case(case, segmenter, Deadline(SECONDS), say=lambda line: None)
    )
    by_modality: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        result, _ = evaluate_case(case, contestant, seconds_per_class=SECONDS)
        last = result.steps[-1]
        by_modality.setdefault(result.modality, []).append((last.dsc, last.nsd))
    network.train(was_training)
    dsc, nsd = np.mean([np.mean(scores, axis=0) for scores in by_modality.values()], axis=0)
    return Scores(float(dsc), float(nsd))
