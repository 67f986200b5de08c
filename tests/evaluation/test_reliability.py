"""Reliability, calibration error and temperature, where the truth is drawn from known probabilities."""

import numpy as np
import pytest
from scipy.special import expit

from evaluation.reliability import LogOddsHistogram, mean_histogram


def drawn(temperature: float, voxels: int = 200_000) -> LogOddsHistogram:
    """Voxels whose log-odds are `temperature` times what the truth is drawn with."""
    rng = np.random.default_rng(0)
    log_odds = rng.normal(-0.5, 2.0, voxels)
    truth = rng.random(voxels) < expit(log_odds)
    return LogOddsHistogram.of(log_odds * temperature, truth)


def test_predictions_that_come_true_as_often_as_they_say_need_no_temperature():
    histogram = drawn(1.0)
    assert histogram.curve().expected_calibration_error < 0.005
    assert histogram.best_temperature() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 3.5])
def test_the_temperature_that_was_put_in_is_found_and_mends_the_curve(temperature):
    histogram = drawn(temperature)
    found = histogram.best_temperature()
    assert found == pytest.approx(temperature, rel=0.03)
    assert histogram.curve().expected_calibration_error > 0.03
    assert histogram.curve(found).expected_calibration_error < 0.006
    assert histogram.negative_log_likelihood(found) < histogram.negative_log_likelihood()


def test_the_curve_holds_what_a_few_voxels_say():
    log_odds = np.log(np.array([0.9, 0.9, 0.9, 0.9, 0.1]) / np.array([0.1, 0.1, 0.1, 0.1, 0.9]))
    truth = np.array([True, True, True, False, False])
    curve = LogOddsHistogram.of(log_odds, truth).curve()
    assert curve.predicted == pytest.approx([0.1, 0.9], abs=0.005)
    assert curve.observed == pytest.approx([0.0, 0.75])
    assert curve.share == pytest.approx([0.2, 0.8])
    assert curve.expected_calibration_error == pytest.approx(0.2 * 0.1 + 0.8 * 0.15, abs=0.005)


def test_the_likelihood_is_that_of_every_voxel():
    log_odds = np.random.default_rng(1).normal(0, 3, 5000)
    truth = np.random.default_rng(2).random(5000) < 0.3
    p = expit(log_odds / 2)
    expected = -np.log(np.where(truth, p, 1 - p)).mean()
    assert LogOddsHistogram.of(log_odds, truth).negative_log_likelihood(2.0) == pytest.approx(expected, rel=1e-3)


def test_log_odds_beyond_the_bins_are_counted_in_the_last_ones():
    histogram = LogOddsHistogram.of(np.array([-1e6, 1e6]), np.array([False, True]))
    assert (histogram.voxels[0], histogram.voxels[-1], histogram.positives[-1]) == (1, 1, 1)


def test_in_a_mean_a_large_window_counts_for_no_more_than_a_small_one():
    right = LogOddsHistogram.of(np.full(10, 2.05), np.ones(10, bool))
    wrong = LogOddsHistogram.of(np.full(1000, 2.05), np.zeros(1000, bool))
    assert mean_histogram([right, wrong]).curve().observed == pytest.approx([0.5])
    assert (right + wrong).curve().observed == pytest.approx([10 / 1010])
    with pytest.raises(ValueError, match="there are none"):
        mean_histogram([])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differs"):
        LogOddsHistogram.of(np.zeros((2, 3)), np.zeros((3, 2), bool))
