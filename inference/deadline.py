"""90 seconds an object: a clock, and a worker that the clock can be held against."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

LONGEST_WAIT = 0.2
"""Seconds until a watchdog that was told to stop notices it."""


class DeadlineExceeded(TimeoutError):
    """A computation did not end in time; it may still be running."""


class Deadline:
    """Seconds that may be spent, counted from construction.

    Args:
        seconds: the budget.
        spent: seconds of it that are gone already, for example :func:`process_age`.
    """

    def __init__(self, seconds: float, spent: float = 0.0) -> None:
        self._end = time.monotonic() + seconds - spent

    def remaining(self) -> float:
        """Seconds left; negative once the deadline has passed."""
        return self._end - time.monotonic()


def process_age() -> float:
    """Seconds since this process was started by the operating system, imports included; 0 where that is not known."""
    try:
        # The command's name stands in parentheses and may hold blanks; the start time is field 22, in clock ticks.
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(float(Path("/proc/uptime").read_text().split()[0]) - started, 0.0)
    except OSError:
        return 0.0


class Watchdog:
    """Runs one computation at a time in a thread, and stops waiting when the deadline passes.

    A thread cannot be killed: a computation that overran is left to itself, and the next one waits for it, within its
    own deadline.

    Attributes:
        stopped: every deadline has passed (see :meth:`stop`).
    """

    def __init__(self) -> None:
        self.stopped = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="segmenter")

    def stop(self) -> None:
        """Makes every deadline pass, now and from now on. Safe in a signal handler: it takes no lock."""
        self.stopped = True

    def run(self, compute: Callable[[], Result], seconds: float) -> Result:
        """The result of ``compute``.

        Raises:
            DeadlineExceeded: it did not end within ``seconds``, or before :meth:`stop`.
        """
        if self.stopped:
            raise DeadlineExceeded("told to stop")
        end = time.monotonic() + seconds
        future: Future[Result] = self._executor.submit(compute)
        while True:
            # In pieces: a signal's handler runs in this thread, and could not wake it from one long wait.
            wait([future], timeout=min(max(end - time.monotonic(), 0.0), LONGEST_WAIT))
            if future.done():
                return future.result()
            if self.stopped or time.monotonic() >= end:
                future.cancel()
                late = f"no result within {seconds:.1f} s" if seconds > 0 else "no time was left"
                raise DeadlineExceeded("told to stop" if self.stopped else late)
