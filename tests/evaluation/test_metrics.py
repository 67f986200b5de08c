"""The scores, against figures that can be worked out by hand and against the published package."""

import numpy as np
import pytest
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from evaluation.metrics import area_under_curve, score_segmentation
from evaluation.surface import surface_dice


def block(shape, *ranges):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*edge) for edge in ranges)] = True
    return mask


def test_dsc_is_the_mean_over_the_objects():
    truth = np.zeros((4, 4, 8), np.uint8)
    truth[:, :, :2], truth[:, :, 4:6] = 1, 2
    found = truth.copy()
    found[:, :, 5] = 0  # half of object 2: DSC 2/3
    assert score_segmentation(truth, found, (1, 1, 1)).dsc == pytest.approx((1 + 2 / 3) / 2)


def test_a_label_that_the_truth_lacks_only_costs_what_it_covers():
    truth = np.zeros((4, 4, 8), np.uint8)
    truth[:, :, :2] = 1
    found = truth.copy()
    found[:, :, 6] = 3
    assert score_segmentation(truth, found, (1, 1, 1)).dsc == 1


def test_nsd_is_not_computed_at_a_dsc_of_a_fifth():
    truth = block((4, 4, 12), (0, 4), (0, 4), (0, 5)).astype(np.uint8)
    found = block((4, 4, 12), (0, 4), (0, 4), (4, 9)).astype(np.uint8)
    scores = score_segmentation(truth, found, (1, 1, 0.1))
    assert scores.dsc == pytest.approx(0.2)
    assert scores.nsd == 0
    assert surface_dice(truth == 1, found == 1, (1, 1, 0.1), 2.0) == 1


def test_an_object_that_was_not_found_scores_zero():
    truth = np.zeros((6, 6, 12), np.uint8)
    truth[1:5, 1:5, 1:5], truth[1:5, 1:5, 7:11] = 1, 2
    scores = score_segmentation(truth, np.where(truth == 2, 0, truth), (1, 1, 1))
    assert (scores.dsc, scores.nsd) == (0.5, 0.5)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="differs"):
        score_segmentation(np.ones((2, 2, 2), np.uint8), np.ones((2, 2, 3), np.uint8), (1, 1, 1))


def test_tolerance_is_in_millimetres_along_the_right_axis():
    truth = block((40, 40, 40), (10, 30), (10, 30), (10, 30))
    moved = np.roll(truth, 3, axis=0)
    assert surface_dice(truth, moved, (0.5, 1, 1), 2.0) == 1
    assert surface_dice(truth, moved, (1, 1, 1), 2.0) < 1


def test_a_surface_just_beyond_the_tolerance_is_beyond_it():
    # Three voxels of this size are 2.0000001 mm: in single precision that would be 2.
    edge = float(np.float32(2 / 3))
    truth = block((30, 30, 30), (8, 20), (8, 20), (8, 20))
    moved = np.roll(truth, 3, axis=0)
    assert 2.0 < 3 * edge < 2.000001
    assert surface_dice(truth, moved, (edge,) * 3, 2.0) < surface_dice(truth, moved, (2 / 3,) * 3, 2.0) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(12))
def test_surface_dice_is_the_published_packages(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 20, 3)
    truth, found = (rng.random(shape) < level for level in rng.uniform(0.1, 1, 2))
    spacing = rng.choice([0.4, 0.7949, 1.0, 3.27, 5.0], 3)
    truth[0, 0, 0] = found[-1, -1, -1] = True
    expected = compute_surface_dice_at_tolerance(compute_surface_distances(truth, found, spacing), 2.0)
    assert surface_dice(truth, found, spacing, 2.0) == pytest.approx(expected, abs=1e-12)


def test_auc_is_the_trapezoid_of_the_runs_with_clicks():
    assert area_under_curve([0.9, 0, 0.2, 0.4, 0.6, 1.0]) == pytest.approx(0.1 + 0.3 + 0.5 + 0.8)
    assert area_under_curve([1] * 5) == 4
