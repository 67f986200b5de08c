"""What is trained is what runs: samples against what inference builds for the same prompts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import training.sample
from evaluation.simulated_user import box_from_mask, click_from_error, middle_slice_box
from inference.case import Click, ObjectPrompts, read_case
from inference.geometry import Box
from inference.normalization import NormalizedImage
from inference.placement import window_for
from inference.prompts import BOX, CLICK, CLICK_NEGATIVE, IMAGE, PREVIOUS, encode
from inference.window import Window
from training.augment import change_intensities, draw_intensities
from training.config import PAPER, TrainingConfig
from training.dataset import Volume, load_volume, source_of
from training.interaction import simulate
from training.recipe import Recipe, pack
from training.render import Batch, render
from training.sample import file_probabilities, make_drawn_sample, make_region_sample, make_sample
from training.shapes import procedural
from training.stream import Steps
from training.synthesis import synthesize


def made(recipes: list[Recipe], volumes: list[Volume]) -> Batch:
    return render(pack(recipes), volumes)


def challenge_file(source: Path, path: Path) -> Path:
    """The case as the evaluator hands it out: without truth, with boxes."""
    with np.load(source) as arrays:
        image, truth = arrays["imgs"], arrays["gts"]
    boxes = [box_from_mask(truth == label, np.random.default_rng(0)) for label in np.unique(truth)[1:]]
    np.savez_compressed(path, imgs=image, spacing=np.ones(3), boxes=np.array(boxes))
    return path


@pytest.mark.parametrize("isotropic_zoom", [True, False])
def test_channels_equal_what_inference_builds(
    real_volume: Path, tmp_path: Path, config: TrainingConfig, isotropic_zoom: bool
):
    model = replace(config.model, patch=(48, 48, 48), isotropic_zoom=isotropic_zoom)
    volume = load_volume(real_volume)
    case = read_case(challenge_file(real_volume, tmp_path / "case.npz"))
    prompts = case.objects[0]
    window = window_for(prompts, case.image.shape, model.patch, isotropic_zoom)
    expected = encode(NormalizedImage.of(case.image).crop(window), None, prompts, window, model.style)
    recipe = Recipe(window, prompts.box, first_click=False, volume=0, labels=(prompts.label,))
    batch = render(pack([recipe]), [volume])
    assert torch.equal(batch.channels[0], expected)
    assert torch.equal(batch.truth[0], window.crop_label(volume.labels, prompts.label) > 0.5)
    assert batch.channels[0, BOX].any() and batch.channels[0, IMAGE].std() > 0.1


def test_a_perfect_window_is_the_one_of_inference(volumes: list[Volume], config: TrainingConfig):
    config = replace(config, sampling=PAPER.sampling)
    volume = volumes[0]
    recipe = make_sample(volume, 1, config, np.random.default_rng(5))
    random = np.random.default_rng(5)
    random.random()  # The draw of the kind of prompt.
    box = box_from_mask((volume.labels == 1).numpy(), random)
    shape = tuple(volume.labels.shape)
    prompts = ObjectPrompts(
        1,
        Box.from_entry(box),
    )
    window = window_for(prompts, shape, config.model.patch, config.model.isotropic_zoom)
    assert recipe == Recipe(window, prompts.box, first_click=False, labels=(1,))


def test_simulated_clicks_are_those_of_inference(volumes: list[Volume], config: TrainingConfig):
    """A click that training draws in the patch, read back as a click in the image, is encoded as the same ball."""
    batch = made([Steps(volumes, config, seed=1).recipe(0, place) for place in range(3)], volumes)
    batch = replace(batch, first_click=torch.tensor([False] * 3))
    wrong = torch.zeros(3, 2, *config.model.patch)
    wrong[:, 0] = 1  # Head 0 is larger everywhere: nothing is predicted.
    channels = simulate(lambda x: wrong, batch, clicks=1, style=config.model.style)
    whole = Window((0, 0, 0), config.model.patch, config.model.patch)
    for index, truth in enumerate(batch.truth):
        position, positive = click_from_error(np.zeros(truth.shape, bool), truth.numpy())
        assert positive
        prompts = ObjectPrompts(1, clicks=(Click(position, positive),))
        expected = encode(batch.channels[index, IMAGE], None, prompts, whole, config.model.style)
        assert torch.equal(channels[index, [CLICK, CLICK_NEGATIVE]], expected[[CLICK, CLICK_NEGATIVE]])
        assert not channels[index, PREVIOUS].any()
    assert not batch.channels[:, CLICK].any(), "the batch itself must stay as it was"


def test_a_false_positive_gets_a_background_click_and_the_prediction_as_previous_mask(
    volumes: list[Volume], config: TrainingConfig
):
    batch = made([Steps(volumes, config, seed=1).recipe(0, 0)], volumes)
    everything = torch.zeros(1, 2, *config.model.patch)
    everything[:, 1] = 1
    channels = simulate(lambda x: everything, batch, clicks=1, style=config.model.style)
    assert channels[0, CLICK_NEGATIVE].any() and channels[0, PREVIOUS].all()


def test_a_sample_without_a_box_gets_its_first_click_before_any_prediction(
    volumes: list[Volume], config: TrainingConfig
):
    sampling = replace(
        config.sampling,
        no_box=1.0,
        no_prompt=0.0,
        synthetic=0,
        procedural=0,
        shapes=0,
        regions=0,
        merged=0,
        refinement=0,
    )
    batch = made([Steps(volumes, replace(config, sampling=sampling), seed=0).recipe(0, 0)], volumes)
    assert batch.first_click.all() and not batch.channels[:, BOX].any()

    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no prediction is wanted")

    channels = simulate(never, batch, clicks=0, style=config.model.style)
    assert channels[0, CLICK].any()


def test_modalities_weigh_what_the_configuration_says(volumes: list[Volume], config: TrainingConfig):
    probabilities = file_probabilities(volumes, config.sampling)
    by_name = dict(zip((volume.name for volume in volumes), probabilities, strict=True))
    assert by_name["CT_a_b_1"] == pytest.approx(0.5)
    assert by_name["MR_a_b_1"] == by_name["MR_c_d_2"] == pytest.approx(0.25)
    assert file_probabilities(volumes, PAPER.sampling) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no volume of the modalities"):
        file_probabilities(volumes, replace(config.sampling, modalities=(("US", 1.0),)))


def test_intensity_changes_and_synthesis_leave_padding_at_zero():
    random = np.random.default_rng(0)
    image = torch.randn(16, 16, 16)
    image[:5] = 0
    labels = procedural((16, 16, 16), random, "blob").labels.int()
    changes = [draw_intensities(random) for _ in range(20)]
    numbers = torch.tensor([change.numbers for change in changes])
    images = change_intensities(image.expand(20, -1, -1, -1), changes, numbers)
    for changed in (*images, *(synthesize(image, labels, random) for _ in range(20))):
        assert not changed[:5].any() and torch.isfinite(changed).all() and changed[5:].std() > 0.05


@pytest.mark.parametrize("finer", [1, 2])
def test_a_drawn_object_is_in_a_box_that_its_middle_slice_gives(config: TrainingConfig, finer: int):
    sampling = replace(config.sampling, no_box=0.0, augment=False)
    batch = made([make_drawn_sample([], replace(config, sampling=sampling), np.random.default_rng(0), finer)], [])
    channels, truth = batch.channels[0], batch.truth[0]
    assert channels.shape == (8, *(n * finer for n in config.model.patch))
    slices = truth.flatten(1).any(dim=1).nonzero().ravel()
    middle = slices[len(slices) // 2]
    assert not (truth[middle] & (channels[BOX, middle] == 0)).any()
    assert torch.equal(channels[BOX].flatten(1).any(dim=1).nonzero().ravel(), torch.arange(slices[0], slices[-1] + 1))


def test_boxes_of_drawn_objects_are_as_loose_as_those_of_images(config: TrainingConfig):
    model = replace(config.model, patch=(48, 48, 48))
    config = replace(config, model=model, sampling=replace(config.sampling, no_box=0.0, augment=False))
    loose = []
    for seed in range(12):
        recipe = make_drawn_sample([], config, np.random.default_rng(seed))
        exact = middle_slice_box(recipe.truth.numpy())
        loose.append((exact["z_mid_x_min"] - recipe.box.lower[2], recipe.box.upper[2] - exact["z_mid_x_max"]))
        assert (recipe.box.lower[0], recipe.box.upper[0]) == (exact["z_min"], exact["z_max"])
    assert min(map(min, loose)) >= 0 and 2 <= max(map(max, loose)) <= 8


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (2, 0.15), (4, 0.3), (60, 0.8)])
def test_the_more_objects_an_image_has_the_more_often_they_are_merged(
    volumes: list[Volume], config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, count: int, expected: float
):
    config = replace(config, sampling=replace(config.sampling, merged=0.15, no_box=0.0, no_prompt=0.0))
    volume = replace(volumes[0], objects=dict.fromkeys(range(1, count + 1), volumes[0].objects[1]))
    calls = []
    monkeypatch.setattr(training.sample, "merged", lambda volume, label, random: calls.append(label) or (label,))
    for seed in range(200):
        make_sample(volume, 1, config, np.random.default_rng(seed))
    assert len(calls) / 200 == pytest.approx(expected, abs=0.1)


def test_without_a_box_a_click_is_on_one_object(
    volumes: list[Volume], config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
):
    config = replace(config, sampling=replace(config.sampling, merged=1.0, no_box=1.0, no_prompt=0.0))
    monkeypatch.setattr(training.sample, "merged", lambda volume, label, random: tuple(volume.objects))
    assert len(volumes[0].objects) > 1
    for seed in range(5):
        recipe = make_sample(volumes[0], 1, config, np.random.default_rng(seed))
        assert recipe.box is None and recipe.labels == (1,)


def test_a_region_sample_has_the_region_in_its_box(real_volume: Path, config: TrainingConfig):
    config = replace(config, model=replace(config.model, patch=(48, 48, 48)))
    config = replace(config, sampling=replace(config.sampling, no_box=0.0, augment=False))
    volume = load_volume(real_volume)
    samples = [make_region_sample(volume, config, np.random.default_rng(seed)) for seed in range(12)]
    samples = [sample for sample in samples if sample is not None]
    assert samples
    batch = made(samples, [])
    for channels, truth in zip(batch.channels, batch.truth):
        middle = truth.flatten(1).any(dim=1).nonzero().ravel()
        middle = middle[len(middle) // 2]
        assert not (truth[middle] & (channels[BOX, middle] == 0)).any()


def test_a_source_of_32_files_weighs_as_two_files_though_each_is_of_another_patient(
    volumes: list[Volume], config: TrainingConfig
):
    volume = next(volume for volume in volumes if volume.modality == "MR")
    names = [f"MR_heart_patient{n}_frame1" for n in range(32)] + ["MR_brain_1"]
    many = [replace(volume, name=name, source=source_of(Path(f"{name}.npz"))) for name in names]
    probabilities = file_probabilities(many, config.sampling)
    assert probabilities[:32] == pytest.approx(2 / 3 / 32)
    assert probabilities[32] == pytest.approx(1 / 3)
