"""A finer look is trained as it is taken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from inference.case import Case, Click, ObjectPrompts
from inference.deadline import Deadline
from inference.geometry import Voxel
from inference.predictor import Predictor
from inference.prompts import BOX, CLICK, CLICK_NEGATIVE, IMAGE, PAPER_STYLE, PREVIOUS, draw_clicks
from inference.refinement import ONE_FORWARD
from inference.segmenter import Segmenter, segment_case
from inference.window import Window
from training.config import TrainingConfig
from training.dataset import Volume, load_volume
from training.interaction import coarser, look_finer
from training.recipe import pack
from training.render import Batch, render
from training.sample import make_finer_sample
from training.stream import Steps
from training.target import Target

FINER = 2


def fine_config(config: TrainingConfig, patch: Voxel, **sampling: float) -> TrainingConfig:
    plain = {"no_box": 0.0, "no_prompt": 0.0, "perfect_window": 1.0, "augment": False, "merged": 0.0, "finer_made": 0.0}
    return replace(
        config,
        model=replace(config.model, patch=patch, finer=FINER),
        sampling=replace(config.sampling, finer_look=1.0, **(plain | sampling)),
    )


def finer_batch(volume: Volume, label: int, config: TrainingConfig, seeds: list[int], any_size: bool = False) -> Batch:
    samples = [make_finer_sample(volume, label, config, np.random.default_rng(seed), any_size) for seed in seeds]
    return render(pack([replace(sample, volume=0) for sample in samples]), [volume])


class Boxes:
    """Takes what is in the box for the object; remembers what it was shown. Both heads, as in training."""

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def __call__(self, channels: Tensor) -> Tensor:
        self.shown.append(channels.clone())
        odds = 6 * channels[:, BOX : BOX + 1] - 3
        return torch.cat((torch.zeros_like(odds), odds), dim=1)


class BoxesAsRun(torch.nn.Module):
    """The same as inference runs it: log-odds."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = Boxes()

    def forward(self, channels: Tensor) -> Tensor:
        heads = self.boxes(channels)
        return heads[:, 1:] - heads[:, :1]


def test_what_is_seen_equals_what_inference_shows(real_volume: Path, config: TrainingConfig) -> None:
    """A real object, a real box: the same image, box and previous mask, at twice the voxels."""
    config = fine_config(config, (32, 32, 32))
    volume = load_volume(real_volume)
    label = next(iter(volume.objects))
    batch = finer_batch(volume, label, config, [5])
    assert batch.truth.shape == (1, 64, 64, 64)
    seen = look_finer(Boxes(), batch, 0, config.model.style, FINER)[0]

    random = np.random.default_rng(5)
    random.random()  # The draw of the kind of prompt.
    prompts = ObjectPrompts(label, box=Target.of(volume, (label,)).box(random))
    with np.load(real_volume) as arrays:
        case = Case("a.npz", arrays["imgs"], (1, 1, 1), (prompts,))
    network = BoxesAsRun()
    model = replace(config.model, temperature=2.5)
    predictor = Predictor(network, model, torch.device("cpu"), {config.model.patch: 1e-4})
    segmenter = Segmenter(predictor, replace(ONE_FORWARD, fine_pass=True))
    segment_case(case, segmenter, Deadline(600))
    coarse, fine = (shown[0] for shown in network.boxes.shown)
    assert coarse.shape[1:] == (32, 32, 32) and fine.shape[1:] == (64, 64, 64)
    for channel in (IMAGE, BOX, CLICK, CLICK_NEGATIVE):
        torch.testing.assert_close(seen[channel], fine[channel], rtol=1e-5, atol=1e-5)
    # A box may be rounded to another voxel of the coarse patch when it was rounded to one of the fine patch before.
    box = fine[BOX][None]
    border = (max_pool3d(box, 7, stride=1, padding=3) + max_pool3d(-box, 7, stride=1, padding=3))[0] > 0
    torch.testing.assert_close(seen[PREVIOUS][~border], fine[PREVIOUS][~border], rtol=1e-5, atol=1e-5)
    assert fine[PREVIOUS].amax() > 0.9 and fine[IMAGE].std() > 0.1
    mean = coarser(batch, FINER).channels[0]
    assert (mean[IMAGE] - coarse[IMAGE]).abs().mean() < 0.1 * coarse[IMAGE].std()


def test_clicks_of_the_coarse_look_are_drawn_where_they_were_made(volumes: list[Volume], config: TrainingConfig):
    config = fine_config(config, (8, 8, 8), no_box=1.0)
    batch = finer_batch(volumes[0], 1, config, [0, 1], any_size=True)
    network = Boxes()
    seen = look_finer(network, batch, 2, config.model.style, FINER)
    coarse, shape = network.shown[-1], tuple(batch.truth.shape[1:])
    assert coarse.shape[2:] == (8, 8, 8) and len(network.shown) == 3
    for index in range(2):
        assert seen[index, CLICK].any()
        for channel in (CLICK, CLICK_NEGATIVE):
            if not coarse[index, channel].any():
                assert not seen[index, channel].any()
            else:
                # A ball of the same radius in voxels of either patch: of half the size, in the same place.
                wide = seen[index, channel].nonzero().float().mean(dim=0) / (shape[0] - 1)
                narrow = coarse[index, channel].nonzero().float().mean(dim=0) / 7
                assert (wide - narrow).abs().max() < 0.3


def test_the_first_click_lies_in_the_object(volumes: list[Volume], config: TrainingConfig) -> None:
    config = fine_config(config, (8, 8, 8), no_box=1.0)
    batch = finer_batch(volumes[0], 1, config, [0], any_size=True)
    assert batch.first_click.all()
    style = replace(config.model.style, radius=0)
    seen = look_finer(Boxes(), batch, 0, style, FINER)[0]
    assert seen[CLICK].sum() == 1 and batch.truth[0, seen[CLICK] > 0].all()
    assert not seen[CLICK_NEGATIVE].any()


def test_only_what_is_larger_than_the_patch_is_drawn(volumes: list[Volume], config: TrainingConfig) -> None:
    """The balls have nine voxels across."""
    for edge, larger in ((8, True), (16, False)):
        small = fine_config(config, (edge,) * 3)
        sample = make_finer_sample(volumes[0], 1, small, np.random.default_rng(0))
        assert (sample is not None) == larger
    anyway = finer_batch(volumes[0], 1, fine_config(config, (16,) * 3), [0], any_size=True)
    assert anyway.channels.shape == (1, 8, 32, 32, 32)
    assert Steps(volumes, fine_config(config, (16,) * 3), seed=0)[0].batches[0].channels.shape[2:] == (32, 32, 32)


def test_weights_that_look_once_are_never_trained_to_look_again(volumes: list[Volume], config: TrainingConfig) -> None:
    config = replace(fine_config(config, (8, 8, 8)), model=replace(config.model, patch=(8, 8, 8), finer=1))
    assert not any(Steps(volumes, config, seed=0)[step].finer_look for step in range(4))


def test_a_coarser_batch_is_the_mean(volumes: list[Volume], config: TrainingConfig) -> None:
    config = fine_config(config, (8, 8, 8))
    batch = finer_batch(volumes[0], 1, config, [0])
    coarse = coarser(batch, FINER)
    assert coarse.channels.shape == (1, 8, 8, 8, 8)
    mean = batch.channels[0, IMAGE, 6:8, 8:10, 10:12].mean()
    torch.testing.assert_close(coarse.channels[0, IMAGE, 3, 4, 5], mean)
    assert set(coarse.channels[0, BOX].unique().tolist()) == {0.0, 1.0}
    share = batch.truth.float().mean()
    assert abs(coarse.truth.float().mean() - share) < 0.3 * share


def test_what_is_thinner_than_a_coarse_voxel_is_still_there_to_be_clicked() -> None:
    truth = torch.zeros((2, 8, 8, 8), dtype=torch.bool)
    truth[0, 3, 3] = True  # A line, of which a coarse voxel is a quarter.
    truth[1, 2:6, 2:6, 2:6] = True
    coarse = coarser(Batch(torch.zeros((2, 8, 8, 8, 8)), truth, torch.ones(2, dtype=torch.bool)), 2).truth
    assert coarse[0].nonzero().tolist() == [[1, 1, x] for x in range(4)]
    assert coarse[1].sum() == 8


def test_a_click_at_the_patch_s_corner_stays_inside() -> None:
    drawn = torch.zeros((2, 16, 16, 16))
    draw_clicks(*drawn, (Click((7, 7, 7), True),), Window((0, 0, 0), (8, 8, 8), (16, 16, 16)), PAPER_STYLE)
    assert drawn[0, 15, 15, 15] and not drawn[1].any()
