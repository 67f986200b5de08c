"""A process, measured from outside."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import in_turns

REPOSITORY = Path(__file__).resolve().parent.parent

WITHOUT_FORWARD = {"PYTHONPATH": str(Path(__file__).parent / "without_forward")}
"""The variables with which a run of ours or of the authors' does all but the network's forward."""


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Args:
        seconds: of the wall's clock, from its start to its end.
        cpu_seconds: of the processor, in user and system mode.
        peak: bytes that it had resident at most.
    """

    seconds: float
    cpu_seconds: float
    peak: int


class ProcessError(RuntimeError):
    """A process that failed; the message ends with what it said last."""


def run(
    command: Sequence[str | Path],
    folder: Path = REPOSITORY,
    variables: Mapping[str, str] | None = None,
    memory: int | None = None,
) -> Cost:
    """Runs a command to its end.

    Args:
        folder: where it runs.
        variables: of its environment, beside those of this process.
        memory: bytes that it may have of its own.

    Raises:
        ProcessError: its exit code is not 0.
    """

    def limit() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | (variables or {}), stdout=said, stderr=said, preexec_fn=limit
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
            raise ProcessError(f"{' '.join(map(str, command))} ended with {process.returncode}: {words[-2000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def median_costs(runs: int, commands: Mapping[str, Callable[[], Cost]]) -> dict[str, Cost]:
    """Medians of several runs of each command, in turns; the file cache is warm."""
    return {
        name: Cost(
            statistics.median(cost.seconds for cost in each),
            statistics.median(cost.cpu_seconds for cost in each),
            int(statistics.median(cost.peak for cost in each)),
        )
        for name, each in in_turns(commands, runs).items()
    }
