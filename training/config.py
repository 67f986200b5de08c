"""What a run of the trainer is: every number that shapes it, in one frozen place."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.modality import MODALITIES
from inference.checkpoint import ModelConfig
from inference.network import FULL, NetworkConfig
from inference.prompts import PAPER_STYLE


@dataclass(frozen=True)
class Sampling:
    """Which samples are drawn, and how they are prompted.

    Args:
        clicks: probability of 0, 1, 2, … rounds of prediction and simulated click (equation 5), a draw a batch.
        hard_clicks: further rounds for the samples of a batch whose Dice is not above its median.
        human_clicks: share of steps whose clicks lie as people place them (:data:`training.device_clicks.HUMAN`): not
            always at the deepest voxel, nor always on the largest error.
        no_box: share of samples without a box; their first click comes before any prediction.
        no_prompt: share of samples with neither box nor first click.
        modalities: relative frequency of each modality, by the first word of a case's name, balanced over sources
            within it; empty for all files alike.
        perfect_window: share of windows placed just as inference places them; the others are shifted and scaled.
        augment: whether samples are flipped, turned and changed in their intensities.
        synthetic: share of real samples whose image is made anew from the label map (:mod:`training.synthesis`).
        procedural: share of samples whose object and image are drawn (:mod:`training.shapes`).
        shapes: share of samples of a label map without an image (:mod:`training.shapes.library`); added to
            ``procedural`` where there are no label maps.
        regions: share of samples whose object is a region that the image shows and no label knows
            (:mod:`training.regions`).
        merged: share of samples of labelled objects with a box whose object is joined with its neighbours or with all
            others, for each time that the image's number of objects halves on the way to one; at most four fifths. A
            click alone says one object: with those of unions it would come to mean the larger thing.
        extent_windows: share of the windows without a box that lie about around the object, and not around the first
            click.
        refinement: share of samples of labelled objects that look at a part of the border at native resolution, with
            a coarse mask of the object as the previous one.
        finer_look: share of steps whose samples, objects larger than the patch, are looked at again,
            ``ModelConfig.finer`` times as finely, with the coarse look's probabilities as the previous mask.
        finer_made: share of those samples that are of no labelled object of an image, but procedural, of label maps or
            regions, in proportion to the three shares above. What is thin, branching or scattered is rare otherwise.
    """

    clicks: tuple[float, ...]
    hard_clicks: int
    human_clicks: float
    no_box: float
    no_prompt: float
    modalities: tuple[tuple[str, float], ...]
    perfect_window: float
    augment: bool
    synthetic: float
    procedural: float
    shapes: float
    regions: float
    merged: float
    extent_windows: float
    refinement: float
    finer_look: float
    finer_made: float


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Args:
        model: network, patch and prompt style.
        sampling: what the network is shown.
        batch: samples a forward, in each process.
        finer_batch: the same where they get a finer look.
        accumulate: forwards a step of the optimizer.
        epochs: of as many samples as there are volumes.
        learning_rate: reached after ``warmup`` steps.
        final_learning_rate: reached on a cosine at the last step; equal to ``learning_rate`` for a constant one.
        warmup: steps.
        weight_decay: as a share of the learning rate.
        muon: whether inner kernels are updated by Muon (:mod:`training.muon`); the rest is by AdamW.
        clip: largest norm of the gradient; infinite for none.
        average: steps that the running average of the weights reaches back over, as a share of the steps so far: it
            follows the run, however long that is. The average is what is shipped; 0 ships the weights themselves.
    """

    model: ModelConfig
    sampling: Sampling
    batch: int
    finer_batch: int
    accumulate: int
    epochs: float
    learning_rate: float
    final_learning_rate: float
    warmup: int
    weight_decay: float
    muon: bool
    clip: float
    average: float

    def steps(self, volumes: int, processes: int = 1) -> int:
        """Steps of the optimizer for that many volumes."""
        return max(round(self.epochs * volumes / (self.batch * self.accumulate * processes)), 1)


PAPER = TrainingConfig(
    model=ModelConfig(network=FULL, patch=(192, 192, 192), style=PAPER_STYLE, isotropic_zoom=True),
    sampling=Sampling(
        clicks=(0.5, 0.5),
        hard_clicks=0,
        human_clicks=0.0,
        no_box=0.0,
        no_prompt=0.0,
        modalities=(),
        perfect_window=1.0,
        augment=False,
        synthetic=0.0,
        procedural=0.0,
        shapes=0.0,
        regions=0.0,
        merged=0.0,
        extent_windows=0.0,
        refinement=0.0,
        finer_look=0.0,
        finer_made=0.0,
    ),
    batch=2,
    finer_batch=2,
    accumulate=8,
    epochs=25,
    learning_rate=1e-4,
    final_learning_rate=1e-4,
    warmup=0,
    weight_decay=1e-2,
    muon=False,
    clip=float("inf"),
    average=0.0,
)
"""The paper (sections 2.3 to 2.6 and 3.2, table 2), to be begun from nnInteractive v1.0 weights."""

DEFAULT = TrainingConfig(
    model=ModelConfig(
        network=NetworkConfig(features=(16, 32, 64, 128, 192), blocks=(1, 2, 2, 3, 3)),
        patch=(48, 48, 48),
        style=PAPER_STYLE,
        isotropic_zoom=False,
        finer=2,
    ),
    sampling=Sampling(
        clicks=(0.3, 0.25, 0.15, 0.12, 0.1, 0.08),
        hard_clicks=0,
        human_clicks=0.25,
        no_box=0.5,
        no_prompt=0.02,
        modalities=tuple((key, item.frequency) for key, item in MODALITIES.items()),
        perfect_window=0.5,
        augment=True,
        synthetic=0.2,
        procedural=0.15,
        shapes=0.15,
        regions=0.15,
        merged=0.15,
        extent_windows=0.5,
        refinement=0.15,
        finer_look=0.65,
        finer_made=0.4,
    ),
    batch=8,
    finer_batch=2,
    accumulate=1,
    epochs=65,
    learning_rate=2e-3,
    final_learning_rate=1e-5,
    warmup=100,
    weight_decay=1e-2,
    muon=True,
    clip=1.0,
    average=0.1,
)
"""The embedded weights: a network that two CPU cores run in a second."""

CONFIGS = {"default": DEFAULT, "paper": PAPER}
