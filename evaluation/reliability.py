"""Whether predicted probabilities can be believed: reliability curve, calibration error, and the temperature that mends
them (Guo et al. 2017, "On Calibration of Modern Neural Networks").

Everything is computed from histograms of log-odds, so that no voxel has to be kept.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

LOG_ODDS_LIMIT = 16.0
"""Log-odds beyond this (p within 1e-7 of 0 or 1) are counted in the outermost bins."""

LOG_ODDS_BINS = 320
"""Bins of 0.1: a voxel is taken to lie in the middle of its bin."""

CURVE_BINS = 15
"""Bins of p of equal width, for the reliability curve and the expected calibration error, as in Guo et al."""

TEMPERATURE_LIMIT = 10.0
"""Temperatures are sought between this and its inverse."""

_MIDDLES = (np.arange(LOG_ODDS_BINS) + 0.5) * (2 * LOG_ODDS_LIMIT / LOG_ODDS_BINS) - LOG_ODDS_LIMIT


@dataclass(frozen=True)
class ReliabilityCurve:
    """Predicted beside observed frequency of the object, for the bins of p that hold any voxel.

    Args:
        predicted: (bins,) mean p of the voxels in a bin.
        observed: (bins,) share of them that belong to the object.
        share: (bins,) of all voxels, summing to 1.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    share: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """The mean over the voxels of how far observed lies from predicted, bin by bin."""
        return float((self.share * np.abs(self.observed - self.predicted)).sum())


@dataclass(frozen=True)
class LogOddsHistogram:
    """How many voxels have which log-odds, and how many of them belong to the object.

    Args:
        voxels: (LOG_ODDS_BINS,) counts or weights, from the least log-odds to the greatest.
        positives: the part of them where the object is.
    """

    voxels: NDArray
    positives: NDArray

    @classmethod
    def of(cls, log_odds: NDArray[np.floating], truth: NDArray[np.bool_]) -> "LogOddsHistogram":
        """Count voxels.

        Args:
            log_odds: finite, any shape.
            truth: the same shape; true inside the object.

        Raises:
            ValueError: the shapes differ.
        """
        if log_odds.shape != truth.shape:
            raise ValueError(f"log_odds: shape {log_odds.shape} differs from the truth's {truth.shape}")
        scaled = (log_odds.ravel() + LOG_ODDS_LIMIT) * (LOG_ODDS_BINS / (2 * LOG_ODDS_LIMIT))
        bins = np.clip(scaled, 0, LOG_ODDS_BINS - 1).astype(np.int64)
        return cls(
            np.bincount(bins, minlength=LOG_ODDS_BINS),
            np.bincount(bins[truth.ravel()], minlength=LOG_ODDS_BINS),
        )

    def __add__(self, other: "LogOddsHistogram") -> "LogOddsHistogram":
        return LogOddsHistogram(self.voxels + other.voxels, self.positives + other.positives)

    @property
    def total(self) -> float:
        """How many voxels were counted."""
        return float(self.voxels.sum())

    def curve(self, temperature: float = 1.0) -> ReliabilityCurve:
        """Return the reliability curve of p = sigmoid(log-odds / temperature)."""
        p = expit(_MIDDLES / temperature)
        bins = np.minimum((p * CURVE_BINS).astype(np.int64), CURVE_BINS - 1)
        voxels, sums, positives = (
            np.bincount(bins, weights, CURVE_BINS) for weights in (self.voxels, self.voxels * p, self.positives)
        )
        held = voxels > 0
        return ReliabilityCurve(sums[held] / voxels[held], positives[held] / voxels[held], voxels[held] / voxels.sum())

    def negative_log_likelihood(self, temperature: float = 1.0) -> float:
        """Return the mean over the voxels of −log of the probability given to what is true, in nats."""
        inside = np.logaddexp(0, -_MIDDLES / temperature)
        outside = np.logaddexp(0, _MIDDLES / temperature)
        return float((self.positives * inside + (self.voxels - self.positives) * outside).sum() / self.total)

    def best_temperature(self) -> float:
        """Return the temperature of least negative log-likelihood; above 1 where the predictions are too sure."""
        limit = math.log(TEMPERATURE_LIMIT)
        found = minimize_scalar(
            lambda exponent: self.negative_log_likelihood(math.exp(exponent)),
            bounds=(-limit, limit),
            method="bounded",
            options={"xatol": 1e-4},
        )
        return math.exp(found.x)


def mean_histogram(histograms: Iterable[LogOddsHistogram]) -> LogOddsHistogram:
    """Return the mean of histograms that each count for the same, however many voxels they hold.

    Raises:
        ValueError: there are none.
    """
    shares = [LogOddsHistogram(item.voxels / item.total, item.positives / item.total) for item in histograms]
    if not shares:
        raise ValueError("histograms: there are none; expected at least one")
    return LogOddsHistogram(
        np.mean([item.voxels for item in shares], axis=0), np.mean([item.positives for item in shares], axis=0)
    )


@dataclass(frozen=True)
class Calibration:
    """Reliability by group of objects.

    Args:
        groups: by name, such as all cases, a modality or a size.
        temperature: the best one over all cases, on top of the one that the weights have.
    """

    groups: dict[str, LogOddsHistogram]
    temperature: float
