"""Images made for scenes: contrast both ways, padding, normalization, the same for the same generator."""

import numpy as np
import torch

from training.appearance import make_image
from training.shapes import Scene, procedural


def test_contrast_is_both_ways_and_from_faint_to_plain():
    ratios = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        image, truth = make_image(procedural((24, 24, 24), random, "blob"), random)
        inside, outside = image[truth], image[~truth & (image != 0)]
        ratios.append(float((inside.mean() - outside.mean()) / inside.std().clamp_min(1e-3)))
    assert sum(ratio > 0.3 for ratio in ratios) > 12 and sum(ratio < -0.3 for ratio in ratios) > 12
    assert min(map(abs, ratios)) < 0.5 and max(map(abs, ratios)) > 3


def test_images_are_normalized_and_zero_exactly_in_the_padding():
    padded = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        image, truth = make_image(procedural((24, 24, 24), random), random)
        assert image.dtype == torch.float32 and torch.isfinite(image).all()
        padding = image == 0
        if padding.sum() > 24 * 24:
            padded += 1
            slices = [padding.movedim(axis, 0).flatten(1).all(dim=1) for axis in range(3)]
            assert any(bool(each[0] or each[-1]) for each in slices)
        assert not bool((truth & padding).any())
        assert int(truth.sum()) >= 4
        inside = image[~padding]
        assert abs(float(inside.mean())) < 1e-3 and abs(float(inside.std()) - 1) < 1e-2
    assert 2 <= padded <= 20


def test_an_image_is_the_generator_s():
    scene = procedural((16, 16, 16), np.random.default_rng(0))
    for seed in range(12):
        first, again, other = (make_image(scene, np.random.default_rng(s))[0] for s in (seed, seed, seed + 100))
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_object_among_many_small_neighbours():
    """None of eight takes up as much of the object's surroundings as one that it must differ from for sure."""
    octant = sum(
        (axis >= 12) * 2**place for place, axis in enumerate(torch.meshgrid([torch.arange(24)] * 3, indexing="ij"))
    )
    truth = torch.zeros(24, 24, 24, dtype=torch.bool)
    truth[8:16, 8:16, 8:16] = True
    labels = torch.where(truth, 1, octant + 2)
    for seed in range(10):
        image, seen = make_image(Scene(labels, truth), np.random.default_rng(seed))
        assert torch.isfinite(image).all() and seen.any()
