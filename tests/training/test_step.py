"""A step that waits for nothing: skipped gradients, the loss scaler, states of other runs."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.config import TrainingConfig
from training.dataset import Volume
from training.loop import Run, State, begin
from training.step import LossScaler, accumulate, adamw, clip, update
from training.stream import Steps

CPU = torch.device("cpu")


def numbers(state: State) -> Iterator[Tensor]:
    """Copies of all that a step of the optimizer changes."""
    for network in (state.network, state.average):
        yield from (parameter.detach().clone() for parameter in network.parameters())
    for optimizer in state.optimizers:
        for values in optimizer.state_dict()["state"].values():
            yield from (value.clone() for value in values.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_change_nothing_but_the_count(
    volumes: list[Volume], config: TrainingConfig, run: Run, bad: float
):
    state = begin(config, run, None)
    drawn = Steps(volumes, config, 0)[0]

    def step(spoil: bool) -> None:
        accumulate(state.network, state, drawn, config, run)
        if spoil:
            list(state.network.parameters())[3].grad.view(-1)[0] = bad
        update(state, config)
        state.step += 1

    step(spoil=False)
    before = list(numbers(state))
    step(spoil=True)
    assert state.skipped == 1
    for a, b in zip(before, numbers(state), strict=True):
        assert torch.equal(a, b)
    step(spoil=False)
    assert state.skipped == 1
    changed = [not torch.equal(a, b) for a, b in zip(before, numbers(state), strict=True)]
    assert sum(changed) > 0.9 * len(changed)  # A bias before a normalization may stay where it is.


def test_a_step_is_that_of_pytorch_s_clipping_and_adamw(volumes: list[Volume], config: TrainingConfig, run: Run):
    """The running average too."""
    config = replace(config, muon=False, clip=0.5)
    state = begin(config, run, None)
    state.step = 50
    plain = [p.detach().clone() for p in state.network.parameters()]
    reference = torch.optim.AdamW(
        [nn.Parameter(p) for p in plain], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    for number in range(2):
        accumulate(state.network, state, Steps(volumes, config, 0)[number], config, run)
        parameters = reference.param_groups[0]["params"]
        for parameter, trained in zip(parameters, state.network.parameters()):
            parameter.grad = None if trained.grad is None else trained.grad.clone()
        norm = nn.utils.clip_grad_norm_(parameters, config.clip)
        assert norm > config.clip
        reference.step()
        before = [p.detach().clone() for p in state.average.parameters()]
        update(state, config)
        for parameter, trained in zip(parameters, state.network.parameters(), strict=True):
            torch.testing.assert_close(parameter.detach(), trained.detach(), rtol=1e-5, atol=1e-6)
        shares = [
            ((now - then).norm() / (trained.detach() - then).norm()).item()
            for now, then, trained in zip(state.average.parameters(), before, state.network.parameters())
            if (trained.detach() - then).norm() > 1e-3
        ]
        assert shares and max(shares) - min(shares) < 1e-3 and 0 < shares[0] < 1


def test_gradients_are_divided_by_the_scale_before_they_are_clipped():
    for scale, length in ((1.0, 1.0), (8.0, 0.625)):
        parameter = nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([3.0, 4.0])
        assert clip([parameter], torch.tensor(scale), 1.0) == 0
        torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]) * length, rtol=1e-5, atol=0)
        assert clip([parameter], torch.tensor(1.0), float("inf")) == 0
        torch.testing.assert_close(parameter.grad.norm(), torch.tensor(length), rtol=1e-5, atol=0)


def test_the_scale_follows_pytorch_s():
    ours, theirs = LossScaler(CPU, enabled=True), torch.amp.GradScaler("cpu", growth_interval=LossScaler.INTERVAL)
    assert ours.scale == theirs.get_scale()
    ours.update(torch.ones(()))
    assert ours.scale == 2.0**15
    for _ in range(LossScaler.INTERVAL):
        ours.update(torch.zeros(()))
    assert ours.scale == 2.0**16
    assert ours.skipped == 1
    ours.update(torch.zeros(()))
    theirs.load_state_dict(theirs.state_dict() | ours.state_dict())
    again = LossScaler(CPU, enabled=True)
    again.load_state_dict(theirs.state_dict())
    assert again.state_dict() == ours.state_dict() == {"scale": 2.0**16, "_growth_tracker": 1}


def test_a_scaler_that_is_off_has_no_state_and_an_empty_one_is_accepted():
    off, on = LossScaler(CPU, enabled=False), LossScaler(CPU, enabled=True)
    off.update(torch.ones(()))
    assert off.scale == 1 and off.skipped == 1 and off.state_dict() == {}
    on.load_state_dict(off.state_dict())
    assert on.scale == 2.0**16
    off.load_state_dict(on.state_dict())
    assert off.scale == 1


def test_a_state_of_a_plain_adamw_is_taken_over():
    """It counts its steps elsewhere than a fused one."""
    plain, fused = ([nn.Parameter(torch.ones(3))] for _ in range(2))
    old, new = torch.optim.AdamW(plain, lr=0.1), adamw(fused, lr=0.1)
    plain[0].grad, fused[0].grad = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, -1.0])
    old.step()
    fused[0].data.copy_(plain[0].data)
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    assert new.param_groups[0]["fused"]
    plain[0].grad = fused[0].grad.clone()
    old.step()
    new.step()
    torch.testing.assert_close(plain[0].detach(), fused[0].detach())


def test_skipped_steps_are_saved(config: TrainingConfig, run: Run, tmp_path: Path):
    state = begin(config, run, None)
    state.scaler.update(torch.ones(()))
    state.save(tmp_path / "last.pt")
    again = begin(config, run, None)
    again.load(tmp_path / "last.pt", run.device)
    assert again.skipped == 1
