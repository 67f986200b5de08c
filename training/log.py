"""What a run leaves for people: a CSV of every step, a line now and then, and a picture of its curves."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FIELDS = ("step", "samples", "seconds", "loss", "dice", "learning_rate", "skipped")


class Log:
    """A CSV file, a row a step, and a flushed line on stdout every ``every`` seconds.

    Losses stay on their device until a line is due: to read each at its step would make the host wait for a GPU.
    A resumed run drops the rows after its checkpoint, since those steps are run again.

    Args:
        path: of the CSV.
        first: the step that the run goes on from.
        every: seconds between two lines.
        clock: tells the time in seconds.
    """

    def __init__(
        self, path: Path, first: int, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        kept = [row for row in read_log(path) if row["step"] <= first] if first and path.exists() else []
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, FIELDS, restval="")
        self._writer.writeheader()
        for row in kept:
            self._writer.writerow(row | {name: int(row[name]) for name in ("step", "samples", "skipped")})
        self._file.flush()
        self._every, self._clock = every, clock
        self._since, self._waited = clock(), 0.0
        self._rows: list[dict[str, float]] = []
        self._values: list[Tensor] = []
        self._samples = int(kept[-1]["samples"]) if kept else 0

    def step(self, row: dict[str, float], loss: Tensor, dice: Tensor, waited: float) -> None:
        """Notes a step.

        Args:
            row: step, samples, seconds and learning rate.
            loss, dice: of the step, scalars on any device.
            waited: seconds until the step's samples were there.
        """
        self._rows.append(row)
        self._values.append(torch.stack((loss.detach().float(), dice.detach().float())))
        self._waited += waited

    @property
    def due(self) -> bool:
        """Whether it is time for a line."""
        return self._clock() - self._since >= self._every

    def report(self, skipped: int) -> None:
        """Writes the rows that have gathered, and says how it goes since the last line."""
        if not self._rows:
            return
        values = torch.stack(self._values).tolist()
        for row, (loss, dice) in zip(self._rows, values, strict=True):
            self._writer.writerow(row | {"loss": loss, "dice": dice, "skipped": skipped})
        self._file.flush()
        last, passed = self._rows[-1], max(self._clock() - self._since, 1e-9)
        print(
            f"step {last['step']}  {last['seconds'] / 60:.1f} min  {len(values) / passed:.2f} steps/s  "
            f"{(last['samples'] - self._samples) / passed:.1f} samples/s  "
            f"loss {sum(v[0] for v in values) / len(values):.3f}  Dice {sum(v[1] for v in values) / len(values):.3f}  "
            f"rate {last['learning_rate']:.2g}  skipped {skipped}  waiting {self._waited / passed:.0%}",
            flush=True,
        )
        self._samples = int(last["samples"])
        self._rows, self._values = [], []
        self._since, self._waited = self._clock(), 0.0

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """Returns the rows of a log; a value that was not measured at a step is missing from its row."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [{name: float(value) for name, value in row.items() if value} for row in rows]


def draw_curves(log: Path, picture: Path) -> None:
    """Draws loss and Dice of the training samples over the steps, means of a fiftieth of the run.

    The axis of the loss is logarithmic if the loss has fallen tenfold: with less, it would have hardly a number.

    Without matplotlib it says so, and draws nothing: a run is not to end with an error for want of a picture.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError as error:
        print(f"{picture}: not drawn ({error})", file=sys.stderr)
        return
    rows = read_log(log)
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    window = max(len(rows) // 50, 1)
    steps = [row["step"] for row in rows][window - 1 :]
    for axes, name in ((above, "loss"), (below, "dice")):
        means = np.convolve([row[name] for row in rows], np.full(window, 1 / window), mode="valid")
        axes.plot(steps, means, label=f"{name}, training samples, mean of {window} steps")
    lowest, highest = above.dataLim.intervaly
    above.set(ylabel="loss")
    if 0 < 10 * lowest <= highest:
        above.set_yscale("log")
        above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        above.yaxis.set_major_formatter("{x:g}")
        above.yaxis.set_minor_formatter(NullFormatter())
    below.set(ylabel="Dice", xlabel="step", ylim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=100)
