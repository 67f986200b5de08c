"""What a run leaves for people: a CSV of every step, and a picture of its curves."""

from __future__ import annotations

import csv
from pathlib import Path

FIELDS = ("step", "samples", "seconds", "loss", "dice", "learning_rate", "skipped", "validation_dsc", "validation_nsd")


class Log:
    """A CSV file, a row a step. A resumed run drops the rows after its checkpoint, since those steps are run again."""

    def __init__(self, path: Path, first: int) -> None:
        kept = [row for row in read_log(path) if row["step"] <= first] if first and path.exists() else []
        self._file = path.open("w", newline="", buffering=1)
        self._writer = csv.DictWriter(self._file, FIELDS, restval="")
        self._writer.writeheader()
        for row in kept:
            self.write(
                {**row, "step": int(row["step"]), "samples": int(row["samples"]), "skipped": int(row["skipped"])}
            )

    def write(self, row: dict[str, float]) -> None:
        self._writer.writerow(row)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log; a value that was not measured at a step is missing from its row."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [{name: float(value) for name, value in row.items() if value} for row in rows]


def draw_curves(log: Path, picture: Path) -> None:
    """Draws loss, Dice of the training samples and validation scores over the steps."""
    from matplotlib.figure import Figure  # Only here: a trainer without pictures needs no matplotlib.

    rows = read_log(log)
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    window = max(len(rows) // 50, 1)
    steps = [row["step"] for row in rows][window - 1 :]
    for axes, name in ((above, "loss"), (below, "dice")):
        values = [row[name] for row in rows]
        means = [sum(values[i - window + 1 : i + 1]) / window for i in range(window - 1, len(values))]
        axes.plot(steps, means, label=f"{name}, training samples, mean of {window} steps")
    for name in ("validation_dsc", "validation_nsd"):
        measured = [(row["step"], row[name]) for row in rows if name in row]
        if measured:
            below.plot(*zip(*measured), "o-", label=name.replace("_", " ").replace("dsc", "DSC").replace("nsd", "NSD"))
    above.set(ylabel="loss", yscale="log")
    below.set(ylabel="score", xlabel="step", ylim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=100)
