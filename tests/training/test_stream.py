"""The stream of samples: reproducible, and the same however it is shared out."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

import training.stream
from inference.window import Window
from training.config import TrainingConfig
from training.dataset import Volume
from training.recipe import Recipe
from training.stream import Steps, stream

RECIPE = Recipe(Window((0, 0, 0), (16, 16, 16), (16, 16, 16)), None, first_click=True)


def test_the_same_with_workers_and_from_any_step(volumes: list[Volume], config: TrainingConfig):
    steps = Steps(volumes, config, seed=3)
    alone = list(stream(steps, 0, 4, 0, torch.device("cpu")))
    helped = list(stream(steps, 2, 4, 2, torch.device("cpu")))
    for a, b in zip(alone[2:], helped, strict=True):
        assert a.clicks == b.clicks
        assert torch.equal(a.batches[0].channels, b.batches[0].channels)
    assert not torch.equal(alone[0].batches[0].channels, alone[1].batches[0].channels)


@pytest.mark.parametrize("finer_look", [0.0, 1.0])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_draw_what_one_with_the_doubled_batch_draws(
    volumes: list[Volume], config: TrainingConfig, accumulate: int, finer_look: float
):
    config = replace(config, accumulate=accumulate, sampling=replace(config.sampling, finer_look=finer_look))
    doubled = replace(config, batch=2 * config.batch, finer_batch=2 * config.finer_batch)
    whole = Steps(volumes, doubled, seed=3)[5]
    assert whole.finer_look == (finer_look == 1)
    halves = [Steps(volumes, config, 3, rank, processes=2)[5] for rank in range(2)]
    assert {half.clicks for half in halves} == {whole.clicks}
    for forward, batch in enumerate(whole.batches):
        joined = torch.cat([half.batches[forward].channels for half in halves])
        assert torch.equal(joined, batch.channels)


def test_kinds_come_in_their_shares_coarse_and_fine(
    volumes: list[Volume], config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
):
    """Without label maps, their share is procedural; a finer look is at made objects as often as it should."""
    calls: list[tuple[str, int]] = []

    def drawn(maps, config, random, finer=1):
        calls.append(("shapes" if maps else "procedural", finer))
        return RECIPE

    monkeypatch.setattr(training.stream, "make_drawn_sample", drawn)
    monkeypatch.setattr(
        training.stream, "make_region_sample", lambda v, c, r, finer=1: calls.append(("regions", finer)) or RECIPE
    )
    monkeypatch.setattr(training.stream, "make_sample", lambda *_: calls.append(("real", 1)) or RECIPE)
    monkeypatch.setattr(training.stream, "make_finer_sample", lambda *_: calls.append(("real", 2)) or RECIPE)
    shares = {"procedural": 0.1, "shapes": 0.2, "regions": 0.3, "finer_made": 0.5}
    config = replace(config, sampling=replace(config.sampling, **shares))
    for shapes, expected in (([], (0.3, 0.0, 0.3, 0.4)), (["map"], (0.1, 0.2, 0.3, 0.4))):
        steps = Steps(volumes, config, seed=0, shapes=shapes)
        for draw, finer, share in ((steps.recipe, 1, 1.0), (steps.finer_recipe, 2, 0.5 / 0.6)):
            calls.clear()
            for step in range(400):
                draw(step, 0)
            wanted = [part * share for part in expected[:3]]
            for kind, part in zip(("procedural", "shapes", "regions", "real"), (*wanted, 1 - sum(wanted))):
                assert calls.count((kind, finer)) / 400 == pytest.approx(part, abs=0.07)


def test_a_sample_that_cannot_be_made_does_not_end_a_run(
    volumes: list[Volume], config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    steps = Steps(volumes, replace(config, sampling=replace(config.sampling, finer_look=0.0)), seed=3)
    whole = steps[5].batches[0].channels

    def fails_first(step: int, place: int) -> Recipe:
        if place == 1:
            raise ValueError("of two\nlines")
        return Steps.recipe(steps, step, place)

    monkeypatch.setattr(steps, "recipe", fails_first)
    mended = steps[5].batches[0].channels
    assert torch.equal(mended[0], whole[0]) and not torch.equal(mended[1], whole[1])
    assert capfd.readouterr().err == "step 5, sample 1: ValueError: of two lines; another is drawn\n"

    def fails(step: int, place: int) -> Recipe:
        raise ValueError("always")

    monkeypatch.setattr(steps, "recipe", fails)
    with pytest.raises(ValueError, match="always"):
        steps[5]


def test_a_worker_outlives_its_group_and_ends_when_it_is_told_to(volumes: list[Volume], config: TrainingConfig):
    """What waits for it at the end of a run that crashed would else wait for ever."""
    drawn = iter(stream(Steps(volumes, config, seed=0), 0, 100, workers=1, device=torch.device("cpu")))
    next(drawn)
    (worker,) = drawn._workers
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises when a worker is killed.
    try:
        worker.terminate()
        worker.join(30)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert worker.exitcode == -signal.SIGTERM


def test_a_run_without_an_end_can_be_begun(volumes: list[Volume], config: TrainingConfig):
    endless = stream(Steps(volumes, config, seed=3), 5, 10**15, 0, torch.device("cpu"))
    assert len(list(islice(iter(endless), 2))) == 2


WITHOUT_LIBRARIES = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cc3d", "edt", "surface_distance", "SimpleITK", "nilearn", "skimage"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refused())
import dataclasses
import pathlib
import torch
from inference.checkpoint import ModelConfig
from inference.network import NetworkConfig
from inference.prompts import PAPER_STYLE
from training.config import DEFAULT
from training.dataset import load_volumes
from training.interaction import simulate
from training.stream import Steps

model = ModelConfig(NetworkConfig((8, 16), (1, 1)), (16, 16, 16), PAPER_STYLE, isotropic_zoom=False, finer=2)
for regions, finer_look in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0)):
    sampling = dataclasses.replace(
        DEFAULT.sampling, modalities=(), no_box=1.0, regions=regions, finer_look=finer_look
    )
    config = dataclasses.replace(DEFAULT, model=model, sampling=sampling, batch=4)
    batch = Steps(load_volumes(pathlib.Path(sys.argv[1])), config, seed=0)[0].batches[0]
    clicked = simulate(lambda channels: torch.zeros(len(channels), 2, *channels.shape[2:]), batch, 0, PAPER_STYLE)
    assert clicked[:, 4].any()
"""


def test_samples_are_made_where_only_torch_numpy_and_scipy_are_installed(folder: Path):
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT_LIBRARIES, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
