"""The timing loop of all benchmarks: actions in turns, after a round that warms up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import torch
from tqdm import tqdm

T = TypeVar("T")


@dataclass(frozen=True)
class Seconds:
    """How long each repetition of an action took, by the wall's clock."""

    each: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    @property
    def least(self) -> float:
        return min(self.each)

    @property
    def most(self) -> float:
        return max(self.each)


def timed(action: Callable[[], T], device: torch.device | None = None) -> tuple[float, T]:
    """Runs an action once.

    Args:
        device: what it computes on; a GPU is waited for before and after.

    Returns:
        the seconds that it took, and what it gave.
    """
    wait_for(device)
    began = perf_counter()
    given = action()
    wait_for(device)
    return perf_counter() - began, given


def in_turns(actions: Mapping[str, Callable[[], T]], repeats: int, warm_up: int = 1) -> dict[str, list[T]]:
    """Runs several actions one after another, over and over, so that all see the same machine; says how far it is.

    Args:
        actions: by name.
        repeats: rounds that count.
        warm_up: rounds before them, which fill caches.

    Returns:
        by name, what an action gave in each round that counts.
    """
    given: dict[str, list[T]] = {name: [] for name in actions}
    with tqdm(total=(warm_up + repeats) * len(actions), unit="run", leave=False) as progress:
        for number in range(warm_up + repeats):
            for name, action in actions.items():
                progress.set_description(name.strip())
                result = action()
                if number >= warm_up:
                    given[name].append(result)
                progress.update()
    return given


def seconds_in_turns(
    actions: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1, device: torch.device | None = None
) -> dict[str, Seconds]:
    """Times several actions in turns; ``device`` as in :func:`timed`."""
    measured = in_turns(
        {name: lambda action=action: timed(action, device)[0] for name, action in actions.items()}, repeats, warm_up
    )
    return {name: Seconds(tuple(each)) for name, each in measured.items()}


def wait_for(device: torch.device | None) -> None:
    """Until a GPU has done what it was told to."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
