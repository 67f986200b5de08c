"""What a run of the trainer is: every number that shapes it, in one frozen place."""

from __future__ import annotations

from dataclasses import dataclass

from inference.checkpoint import ModelConfig
from inference.network import NetworkConfig
from inference.prompts import PAPER_STYLE


@dataclass(frozen=True)
class Sampling:
    """Which sample is drawn, and how it is prompted.

    Args:
        clicks: probability of 0, 1, 2, … simulated clicks.
        no_box: share of samples without a box; their first click comes before any prediction.
        no_prompt: share of samples with neither box nor first click.
        modalities: relative frequency of each modality, by the prefix of a case's name.
        perfect_window: share of windows placed just as inference places them; the others are shifted and scaled.
        augment: whether images are flipped, turned and changed in their intensities.
    """

    clicks: tuple[float, ...]
    no_box: float
    no_prompt: float
    modalities: tuple[tuple[str, float], ...]
    perfect_window: float
    augment: bool


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Args:
        model: network, patch and prompt style.
        sampling: what the network is shown.
        batch: samples a forward.
        accumulate: forwards a step of the optimizer.
        learning_rate: of AdamW, reached after ``warmup`` steps.
        final_learning_rate: reached on a cosine at the last step; equal to ``learning_rate`` for a constant one.
        steps: of the optimizer.
        clip: largest norm of the gradient.
        ema: decay of the running average of the weights, which is what is shipped; 0 ships the weights themselves.
    """

    model: ModelConfig
    sampling: Sampling
    batch: int
    accumulate: int
    learning_rate: float
    final_learning_rate: float
    warmup: int
    steps: int
    weight_decay: float
    clip: float
    ema: float


DEFAULT = TrainingConfig(
    model=ModelConfig(
        network=NetworkConfig(features=(16, 32, 64, 128, 192), blocks=(1, 2, 2, 3, 3)),
        patch=(64, 64, 64),
        style=PAPER_STYLE,
        keep_proportions=False,
    ),
    sampling=Sampling(
        clicks=(0.4, 0.25, 0.15, 0.1, 0.05, 0.05),
        no_box=0.3,
        no_prompt=0.02,
        modalities=(("CT", 1.0), ("MR", 2.0), ("PET", 1.0), ("US", 0.7), ("Microscopy", 1.0)),
        perfect_window=0.5,
        augment=True,
    ),
    batch=4,
    accumulate=1,
    learning_rate=1e-3,
    final_learning_rate=1e-5,
    warmup=100,
    steps=6000,
    weight_decay=1e-2,
    clip=1.0,
    ema=0.998,
)
"""The embedded weights: a network that two CPU cores run in a second."""

CONFIGS = {"default": DEFAULT}
