"""The timing loop: in turns, warmed up, and what it gives."""

import pytest
import torch

from benchmarks import timing


def test_actions_take_turns_and_warm_up_rounds_do_not_count() -> None:
    called = []

    def action(name: str) -> int:
        called.append(name)
        return len(called)

    given = timing.in_turns({"a": lambda: action("a"), "b": lambda: action("b")}, 2, warm_up=1)
    assert called == ["a", "b"] * 3
    assert given == {"a": [3, 5], "b": [4, 6]}


def test_seconds_are_those_of_each_action(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(timing, "perf_counter", lambda: now)
    durations = iter((9.0, 1.0, 4.0, 2.0))
    actions = {"varied": lambda: passes(next(durations)), "even": lambda: passes(0.5)}
    measured = timing.seconds_in_turns(actions, 3)
    assert measured["varied"].each == (1.0, 4.0, 2.0)
    assert (measured["varied"].median, measured["varied"].least, measured["varied"].most) == (2.0, 1.0, 4.0)
    assert measured["even"].each == (0.5,) * 3


def test_a_gpu_is_waited_for_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(device.type))
    assert timing.timed(lambda: order.append("action") or 7, torch.device("cuda"))[1] == 7
    assert order == ["cuda", "action", "cuda"]
    assert timing.timed(lambda: order.append("action"), torch.device("cpu")) and len(order) == 4
