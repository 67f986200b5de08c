"""Boxes and clicks, against a slow reference that follows the challenge's description over the whole volume."""

import cc3d
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, gaussian_filter

from evaluation import simulated_user
from evaluation.simulated_user import box_from_mask, click_from_error


def reference_click(prediction, truth, halving_limit=60_000_000):
    """The challenge's rule without any short cut: whole-volume components, a margin of 25 %, all voxels compared."""
    error = prediction ^ truth
    if not error.any():
        return None
    labels = cc3d.connected_components(error.astype(np.uint8), connectivity=26)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    component = labels == sizes.argmax()
    where = np.argwhere(component)
    lower, shape = where.min(0), np.ptp(where, axis=0) + 1
    margin = np.maximum(shape // 4, 1)
    padded = np.zeros(shape + 2 * margin, np.uint8)
    padded[tuple((where - lower + margin).T)] = 1
    if padded.size > halving_limit:
        even = np.pad(padded, [(0, size % 2) for size in padded.shape])
        blocks = [even[z::2, y::2, x::2] for z in (0, 1) for y in (0, 1) for x in (0, 1)]
        halved = np.max(blocks, axis=0)
        # A crop without background has no distances. It takes edges below 8 voxels, far from the real limit.
        assume(not halved.all())
        distance = np.kron(distance_transform_edt(halved), np.ones((2, 2, 2)))
    else:
        distance = distance_transform_edt(padded)
    depths = distance[tuple((where - lower + margin).T)]
    deepest = where[depths == depths.max()]
    position = tuple(int(v) for v in deepest[np.random.RandomState(42).choice(len(deepest))])
    return position, bool(truth[position])


def blobs(seed, shape):
    rng = np.random.default_rng(seed)
    return [gaussian_filter(rng.normal(size=shape), rng.uniform(0, 3)) > 0 for _ in range(2)]


shapes = st.tuples(*[st.integers(1, 24)] * 3)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), shape=shapes)
def test_click_is_the_challenges(seed, shape):
    prediction, truth = blobs(seed, shape)
    assert click_from_error(prediction, truth) == reference_click(prediction, truth)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), shape=shapes, whole=st.booleans())
def test_click_in_a_halved_component_is_the_challenges(seed, shape, whole):
    prediction, truth = blobs(seed, shape)
    if whole:
        prediction, truth = np.zeros(shape, bool), np.ones(shape, bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_user, "HALVING_LIMIT", 300)
        assert click_from_error(prediction, truth) == reference_click(prediction, truth, halving_limit=300)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), shape=shapes, halved=st.booleans(), order=st.sampled_from("CF"))
def test_click_is_the_same_without_cc3d_and_edt(seed, shape, halved, order):
    prediction, truth = (mask.copy(order=order) for mask in blobs(seed, shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_user, "HALVING_LIMIT", 300 if halved else simulated_user.HALVING_LIMIT)
        expected = click_from_error(prediction, truth)
        patch.setattr(simulated_user, "cc3d", None)
        patch.setattr(simulated_user, "edt", None)
        assert click_from_error(prediction, truth) == expected


@pytest.mark.parametrize("library", [True, False])
def test_of_equal_components_the_first_in_memory_order_is_clicked(library, monkeypatch):
    if not library:
        monkeypatch.setattr(simulated_user, "cc3d", None)
    truth = np.zeros((4, 9, 9), bool)
    truth[1, 1, 7] = truth[2, 7, 1] = True
    nothing = np.zeros_like(truth)
    assert click_from_error(nothing, truth) == ((1, 1, 7), True)
    assert click_from_error(np.asfortranarray(nothing), np.asfortranarray(truth)) == ((2, 7, 1), True)


def test_click_says_whether_the_object_was_missed_or_exceeded():
    block = np.zeros((7, 7, 7), bool)
    block[2:5, 2:5, 2:5] = True
    assert click_from_error(np.zeros_like(block), block) == ((3, 3, 3), True)
    assert click_from_error(block, np.zeros_like(block)) == ((3, 3, 3), False)
    assert click_from_error(block, block) is None


def test_diagonal_neighbours_are_one_component():
    truth = np.zeros((9, 9, 9), bool)
    truth[1, 1, 1] = truth[2, 2, 2] = truth[3, 3, 3] = True
    truth[7, 7, 6:8] = True
    position, _ = click_from_error(np.zeros_like(truth), truth)
    assert position in {(1, 1, 1), (2, 2, 2), (3, 3, 3)}


def test_a_line_one_voxel_thick_is_clicked():
    truth = np.ones((1, 6, 1), bool)
    truth[0, 3, 0] = False
    assert click_from_error(np.zeros_like(truth), truth) == reference_click(np.zeros_like(truth), truth)


def test_the_global_random_state_is_left_alone():
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    click_from_error(*blobs(0, (8, 8, 8)))
    box_from_mask(blobs(0, (8, 8, 8))[0], np.random.default_rng(0))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 2, 2), bool), np.zeros((2, 2, 3), bool), "differs"),
        (np.zeros((2, 2), bool), np.zeros((2, 2), bool), "2 dimensions"),
        (np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), bool), "prediction: dtype uint8"),
        (np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), np.uint8), "truth: dtype uint8"),
    ],
)
def test_masks_that_do_not_fit_are_refused(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        click_from_error(prediction, truth)


class Jitter:
    """Stands for a generator that draws one number."""

    def __init__(self, value):
        self.value = value

    def integers(self, low, high):
        assert (low, high) == (0, 6)
        return self.value


def test_box_has_the_objects_depth_and_its_middle_slices_extent():
    mask = np.zeros((20, 512, 256), bool)
    mask[3, 0, 0] = True
    mask[9, 100:200, 50:60] = True
    mask[17, 511, 255] = True
    assert box_from_mask(mask, Jitter(3)) == {
        "z_min": 3,
        "z_max": 17,
        "z_mid": 9,
        "z_mid_x_min": 50 - 3,
        "z_mid_x_max": 59 + 3,
        "z_mid_y_min": 100 - 6,
        "z_mid_y_max": 199 + 6,
    }


def test_jitter_stays_in_the_image_and_is_rounded_down():
    mask = np.zeros((4, 200, 300), bool)
    mask[0] = mask[2, 1:199, 5:295] = True
    box = box_from_mask(mask, Jitter(5))
    assert box["z_mid"] == 2  # of the slices 0 and 2, the second
    assert (box["z_mid_y_min"], box["z_mid_y_max"]) == (0, 199)  # 5 * 200 / 256 = 3.9, taken as 3
    assert (box["z_mid_x_min"], box["z_mid_x_max"]) == (0, 299)
    assert all(type(value) is int for value in box.values())


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty"):
        box_from_mask(np.zeros((3, 3, 3), bool), np.random.default_rng(0))
