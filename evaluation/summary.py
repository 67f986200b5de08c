"""A contestant with its results, and means of scores."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np

from evaluation.modality import MODALITIES, OTHER
from evaluation.results import CaseResult, Scores

MODALITY_ORDER = (*(item.title for item in MODALITIES.values()), OTHER)

ALL = "All cases"


@dataclass(frozen=True)
class Measured:
    """A contestant and its results, as the report shows them."""

    name: str
    results: tuple[CaseResult, ...]

    @property
    def usable(self) -> tuple[CaseResult, ...]:
        """The cases that could be evaluated, failures of the contestant included."""
        return tuple(result for result in self.results if result.scorable)

    @property
    def as_provided(self) -> tuple[CaseResult, ...]:
        """The usable cases as their files are: without those from which the boxes were taken."""
        return tuple(result for result in self.usable if not result.boxes_dropped)


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Return the mean of each score."""
    return Scores(*(float(value) for value in np.mean([astuple(item) for item in scores], axis=0)))
