"""The clock, and the worker that it is held against."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.deadline import Deadline, DeadlineExceeded, Watchdog

LONG = 60.0
"""Seconds that no test here waits for, unless what it tests is broken."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a blocked computation waits for; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


class TestDeadline:
    def test_it_counts_from_its_construction(self, clock: Clock) -> None:
        deadline = Deadline(15)
        assert deadline.remaining() == 15
        clock.now += 4
        assert deadline.remaining() == 11

    def test_it_goes_below_zero(self, clock: Clock) -> None:
        deadline = Deadline(15)
        clock.now += 20
        assert deadline.remaining() == -5

    def test_seconds_already_spent_are_gone(self, clock: Clock) -> None:
        assert Deadline(15, spent=6).remaining() == 9

    def test_a_process_is_as_old_as_its_start_and_not_as_its_imports(self) -> None:
        code = "import time; time.sleep(0.5); from inference.deadline import process_age; print(process_age())"
        root = Path(__file__).parents[2]
        before = time.monotonic()
        printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        # The system's clock ticks every hundredth of a second.
        assert 0.48 < float(printed.stdout) < time.monotonic() - before + 0.05


class TestWatchdog:
    def test_it_gives_the_result(self) -> None:
        assert Watchdog().run(lambda: 42, LONG) == 42

    def test_an_error_comes_through(self) -> None:
        with pytest.raises(ZeroDivisionError):
            Watchdog().run(lambda: 1 / 0, LONG)

    def test_a_timeout_of_the_computation_itself_is_not_the_deadline(self) -> None:
        def compute() -> None:
            raise TimeoutError("of its own")

        with pytest.raises(TimeoutError, match="of its own") as error:
            Watchdog().run(compute, LONG)
        assert not isinstance(error.value, DeadlineExceeded)

    def test_no_time_at_all(self, release: threading.Event) -> None:
        with pytest.raises(DeadlineExceeded, match="no time was left"):
            Watchdog().run(lambda: release.wait(LONG), -2.7)

    def test_it_stops_waiting_while_the_computation_still_runs(self, release: threading.Event) -> None:
        with pytest.raises(DeadlineExceeded, match=r"no result within 0\.1 s"):
            Watchdog().run(lambda: release.wait(LONG), 0.1)
        assert not release.is_set()

    def test_the_next_one_waits_for_one_that_overran(self, release: threading.Event) -> None:
        watchdog, order = Watchdog(), []

        def blocked() -> None:
            release.wait(LONG)
            order.append("first")

        with pytest.raises(DeadlineExceeded):
            watchdog.run(blocked, 0.05)
        release.set()
        watchdog.run(lambda: order.append("second"), LONG)
        assert order == ["first", "second"]

    def test_one_that_never_began_is_not_begun_later(self, release: threading.Event) -> None:
        watchdog, began = Watchdog(), []
        with pytest.raises(DeadlineExceeded):
            watchdog.run(lambda: release.wait(LONG), 0.05)
        with pytest.raises(DeadlineExceeded):
            watchdog.run(lambda: began.append("too late"), 0.05)
        release.set()
        watchdog.run(lambda: None, LONG)
        assert began == []

    def test_no_time_is_no_computation_waited_for(self, release: threading.Event) -> None:
        with pytest.raises(DeadlineExceeded):
            Watchdog().run(lambda: release.wait(LONG), -3)

    def test_told_to_stop_it_stops_waiting(self, release: threading.Event) -> None:
        watchdog = Watchdog()
        threading.Timer(0.3, watchdog.stop).start()
        with pytest.raises(DeadlineExceeded, match="told to stop"):
            watchdog.run(lambda: release.wait(LONG), LONG)
        assert not release.is_set()

    def test_told_to_stop_it_begins_nothing(self) -> None:
        watchdog, began = Watchdog(), []
        watchdog.stop()
        with pytest.raises(DeadlineExceeded, match="told to stop"):
            watchdog.run(lambda: began.append("too late"), LONG)
        assert began == []
