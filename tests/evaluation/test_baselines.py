"""The baselines do what they say."""

import numpy as np
import pytest

from evaluation.baselines import BASELINES, inscribed_ellipsoid, random_walk
from evaluation.metrics import dice
from inference.case import Case, Click, ObjectPrompts
from inference.geometry import Box

SHAPE = (24, 40, 40)


def ball(centre, radius):
    axes = np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij", sparse=True)
    return sum((axis - middle) ** 2 for axis, middle in zip(axes, centre)) <= radius**2


def case_of(*objects, image=None):
    return Case("CT_a.npz", np.zeros(SHAPE, np.uint8) if image is None else image, (1.0, 1.0, 1.0), objects)


def noisy(mask):
    return (np.random.default_rng(0).normal(60, 8, SHAPE) + 90 * mask).clip(0, 255).astype(np.uint8)


def test_an_ellipsoid_touches_its_boxs_faces_and_fills_half_of_it():
    box = Box((2, 5, 4), (21, 34, 35))
    labels = inscribed_ellipsoid(case_of(ObjectPrompts(1, box)))
    where = np.argwhere(labels)
    assert (tuple(where.min(0)), tuple(where.max(0))) == (box.lower, box.upper)
    assert labels.sum() / np.prod(box.size) == pytest.approx(np.pi / 6, abs=0.02)


def test_without_a_box_the_ellipsoid_is_in_the_central_third():
    where = np.argwhere(inscribed_ellipsoid(case_of(ObjectPrompts(1))))
    assert (tuple(where.min(0)), tuple(where.max(0))) == ((8, 13, 13), (16, 26, 26))


def test_where_ellipsoids_overlap_the_nearer_centre_wins():
    boxes = Box((0, 0, 0), (23, 39, 29)), Box((0, 0, 10), (23, 39, 39))
    labels = inscribed_ellipsoid(case_of(*(ObjectPrompts(i + 1, box) for i, box in enumerate(boxes))))
    assert labels[12, 20, 16] == 1
    assert labels[12, 20, 23] == 2


def test_the_random_walker_finds_an_edge_that_the_ellipsoid_ignores():
    box = Box((4, 8, 8), (19, 31, 31))
    truth = np.zeros(SHAPE, bool)
    truth[box.slices] = True
    case = case_of(ObjectPrompts(1, box), image=noisy(truth))
    walked = dice(truth, random_walk(case) == 1)
    assert walked > 0.9
    assert walked > dice(truth, inscribed_ellipsoid(case) == 1) + 0.2


def test_the_random_walker_heeds_clicks():
    truth = ball((12, 16, 16), 8)
    image = noisy(truth | ball((12, 28, 28), 5))
    box = Box((3, 6, 6), (21, 34, 34))
    without = random_walk(case_of(ObjectPrompts(1, box), image=image)) == 1
    click = Click((12, 28, 28), positive=False)
    with_click = random_walk(case_of(ObjectPrompts(1, box, (click,)), image=image)) == 1
    assert without[12, 28, 28]
    assert not with_click[12, 28, 28]
    assert dice(truth, with_click) > dice(truth, without)


def test_the_random_walker_needs_no_box_but_a_click():
    truth = ball((12, 20, 20), 8)
    click = Click((12, 20, 20), positive=True)
    assert dice(truth, random_walk(case_of(ObjectPrompts(1, None, (click,)), image=noisy(truth))) == 1) > 0.6
    assert not random_walk(case_of(ObjectPrompts(1), image=noisy(truth))).any()


@pytest.mark.parametrize("name", BASELINES)
def test_a_constant_image_and_a_box_of_one_voxel_are_no_trouble(name):
    labels = BASELINES[name](case_of(ObjectPrompts(1, Box((3, 3, 3), (3, 3, 3)))))
    assert labels[3, 3, 3] == 1
    assert (labels.shape, labels.dtype) == (SHAPE, np.uint8)
