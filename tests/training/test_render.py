"""Recipes made batches: the content is that of inference's own functions, however it is packed and turned."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from inference.case import ObjectPrompts
from inference.geometry import Box
from inference.prompts import BOX, IMAGE, PREVIOUS, encode
from inference.window import Window
from training.augment import Intensities, Turn, change_intensities, draw_turn
from training.config import TrainingConfig
from training.dataset import Volume, load_volume
from training.recipe import Coarse, Recipe, pack
from training.render import render
from training.stream import Steps
from training.target import Target


def table(volume: Volume, labels: tuple[int, ...]) -> torch.Tensor:
    return torch.isin(torch.arange(volume.largest_label + 1), torch.tensor(labels)).float()


@pytest.mark.parametrize("labels", [(1,), (1, 2)])
def test_window_box_and_turn_equal_those_of_inference(volumes: list[Volume], config: TrainingConfig, labels: tuple):
    random = np.random.default_rng(0)
    patch = config.model.patch
    for index, volume in enumerate(volumes * 4):
        size = tuple(int(n) for n in random.integers(8, 40, 3))
        window = Window(tuple(int(n) for n in random.integers(-12, 12, 3)), size, patch)
        lower = tuple(int(n) for n in random.integers(0, 10, 3))
        box = Box(lower, tuple(n + int(random.integers(0, 9)) for n in lower))
        turn = draw_turn(patch, random)
        several = table(volume, labels) if len(labels) > 1 else None
        recipe = Recipe(window, box, False, index % 3, labels, turn=turn, table=several)
        batch = render(pack([recipe]), volumes)
        expected = encode(volume.image.crop(window), None, ObjectPrompts(1, box), window, config.model.style)
        mask = torch.isin(volume.labels, torch.tensor(labels)).int()
        assert torch.equal(batch.channels[0], turn.of(expected))
        assert torch.equal(batch.truth[0], turn.of(window.crop_label(mask, 1) > 0.5))


def test_a_turned_block_lies_where_its_voxels_do():
    random = np.random.default_rng(0)
    for _ in range(60):
        shape = (6, 7, 7) if random.random() < 0.5 else (6, 6, 6)
        turn = draw_turn(shape, random)
        first = random.integers(0, 12, 3)
        slices = tuple(slice(int(a), int(a + random.integers(0, 9))) for a in first)
        block, expected = torch.zeros(shape), torch.zeros(shape)
        expected[slices] = 1
        block[turn.of_slices(slices, shape)] = 1
        assert torch.equal(block, turn.of(expected))


def test_a_coarse_mask_lacks_detail_and_is_wrong_here_and_there(volumes: list[Volume], config: TrainingConfig):
    volume, patch = volumes[0], config.model.patch
    extent = volume.objects[1]
    window = Window(extent.lower, patch, patch)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 5, 5), dtype=np.float32))
    recipe = Recipe(window, None, False, 0, (1,), coarse=Coarse((8, 6, 5), 0.3), noise=noise)
    shown = render(pack([recipe]), volumes).channels[0, PREVIOUS]
    truth = window.crop_label(volume.labels, 1)[None, None]
    smooth = interpolate(interpolate(truth, (8, 6, 5), mode="area"), patch, mode="trilinear", align_corners=False)
    wrong = 0.3 * interpolate(noise[None, None], patch, mode="trilinear", align_corners=True)
    assert torch.equal(shown, (smooth + wrong > 0.5).float()[0, 0])
    assert shown.any()


def test_a_given_image_and_truth_are_shown(config: TrainingConfig):
    patch = config.model.patch
    image, truth = torch.randn(patch).half(), torch.rand(patch) > 0.5
    turn = Turn((-1, -3), ((-1, -2),))
    recipe = Recipe(Window((0, 0, 0), patch, patch), Box((1, 2, 3), (4, 5, 6)), True, image=image, truth=truth)
    batch = render(pack([replace(recipe, turn=turn), recipe]), [])
    assert torch.equal(batch.channels[0, IMAGE], turn.of(image.float()))
    assert torch.equal(batch.truth[0], turn.of(truth)) and torch.equal(batch.truth[1], truth)
    assert batch.channels[1, BOX].sum() == 64 and batch.first_click.all()


def test_a_batch_is_its_samples(volumes: list[Volume], config: TrainingConfig):
    recipes = [Steps(volumes, config, seed=2).recipe(0, place) for place in range(24)]
    whole = render(pack(recipes), volumes)
    for index, recipe in enumerate(recipes):
        alone = render(pack([recipe]), volumes)
        assert torch.equal(alone.channels[0], whole.channels[index])
        assert torch.equal(alone.truth[0], whole.truth[index])


def test_changes_in_a_batch_as_a_gpu_makes_them_equal_those_one_by_one(volumes: list[Volume], config: TrainingConfig):
    """But for noise, which each device draws by itself."""
    from training import augment

    random = np.random.default_rng(0)
    changes = [replace(augment.draw_intensities(random), noise=0.0) for _ in range(30)]
    images = torch.randn(30, 8, 8, 8)
    images[:, :2] = 0
    numbers = torch.tensor([change.numbers for change in changes])
    together = augment._changed(images, changes, numbers)
    torch.testing.assert_close(together, change_intensities(images, changes, numbers), rtol=1e-4, atol=1e-5)
    assert sum(change.gamma != 1 for change in changes) > 3 and sum(change.blur > 0 for change in changes) > 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Intensities(scale=-2.0, offset=0.5), lambda image: -2 * image + 0.5),
        (Intensities(gamma=2.0), lambda image: ((image + 1) / 3) ** 2 * 3 - 1),
    ],
)
def test_what_a_change_does(change: Intensities, expected):
    image = torch.rand(6, 6, 6) * 3 - 1
    image[0, 0, :2] = torch.tensor([-1.0, 2.0])
    changed = change_intensities(image[None], [change], torch.tensor([change.numbers]))[0]
    torch.testing.assert_close(changed, expected(image))


def test_noise_is_that_of_its_seed():
    image = torch.ones(1, 16, 16, 16)
    drawn = [Intensities(noise=0.2, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (change_intensities(image, [c], torch.tensor([c.numbers])) for c in drawn)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float((first - image).std()) == pytest.approx(0.2, rel=0.1)


def test_a_labelled_sample_s_recipe_is_small(real_volume: Path, config: TrainingConfig):
    config = replace(config, model=replace(config.model, patch=(96, 96, 96)))
    config = replace(config, sampling=replace(config.sampling, procedural=0, shapes=0, regions=0, synthetic=0))
    steps = Steps([load_volume(real_volume)], replace(config, sampling=replace(config.sampling, modalities=())), 0)
    assert all(len(pickle.dumps(steps.recipe(0, place))) < 20_000 for place in range(8))


def test_a_border_voxel_is_at_the_border(volumes: list[Volume]):
    volume = volumes[0]
    target = Target.of(volume, (1,))
    mask = volume.labels == 1
    seen = set()
    for seed in range(50):
        z, y, x = target.border_voxel(np.random.default_rng(seed))
        around = mask[max(z - 1, 0) : z + 2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert around.any() and not around.all()
        seen.add((z, y, x))
    assert len(seen) > 20


def test_a_target_s_box_is_the_challenge_s(volumes: list[Volume]):
    from evaluation.simulated_user import box_from_mask

    volume = volumes[1]
    for labels in ((1,), (2,), (1, 2)):
        mask = torch.isin(volume.labels, torch.tensor(labels)).numpy()
        for seed in range(4):
            expected = box_from_mask(mask, np.random.default_rng(seed))
            box = Target.of(volume, labels).box(np.random.default_rng(seed))
            assert box == Box.from_entry(expected)
