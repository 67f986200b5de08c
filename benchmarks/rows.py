"""Measurements in rows: within a budget of seconds, each printed and written as it is there, none in another's way."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from inference.atomic import replacing

Value = float | int | str | None


class Unavailable(Exception):
    """A row that cannot be measured here, which is no failure; the message says why."""


@dataclass(frozen=True)
class Row:
    """What one measurement found.

    Args:
        name: of what was measured.
        values: quantity, with its unit -> value.
        seconds: that the measurement took, warm-up included.
        skipped: why it was not made; None if it was.
        error: how it failed; None if it did not.
    """

    name: str
    values: dict[str, Value] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name:<34} FAILED: {self.error}"
        if self.skipped is not None:
            return f"{self.name:<34} skipped: {self.skipped}"
        return f"{self.name:<34} " + "  ".join(f"{name} {_short(value)}" for name, value in self.values.items())


def measure(
    plan: Sequence[tuple[str, Callable[[], dict[str, Value]]]],
    out: Path,
    about: dict[str, object],
    budget: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Goes through a plan; prints each row, and writes all rows so far to ``out``, whole or not at all.

    Args:
        plan: name and measurement of each row, in order.
        out: the JSON file: ``about`` and ``rows``.
        about: what it was measured on and with.
        budget: seconds after which no row is begun.

    Returns:
        a row for each of the plan.
    """
    began, rows = clock(), []
    for name, measurement in plan:
        before = clock()
        if before - began >= budget:
            row = Row(name, skipped=f"{before - began:.0f} s of {budget:.0f} s are spent")
        else:
            try:
                row = Row(name, measurement(), clock() - before)
            except Unavailable as reason:
                row = Row(name, seconds=clock() - before, skipped=str(reason))
            except Exception as error:  # Whatever it is, the other rows are measured.
                traceback.print_exc()
                text = " ".join(str(error).split())[:300]
                row = Row(name, seconds=clock() - before, error=f"{type(error).__name__}: {text}")
        print(row, flush=True)
        rows.append(row)
        with replacing(out) as unfinished:
            unfinished.write_text(json.dumps({**about, "rows": [asdict(each) for each in rows]}, indent=1) + "\n")
    return rows


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
