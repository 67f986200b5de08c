"""The report's diagrams, as SVG: curves over the runs, distributions of the final scores, times, reliability."""

import colorsys
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.typing import RcKeyType

from evaluation.reliability import Calibration
from evaluation.results import RUNS, CaseResult
from evaluation.summary import ALL, MODALITY_ORDER, Measured

COLOURS = {
    "segfm3d": "#0b62a4",
    "ellipsoid": "#d97706",
    "random-walker": "#5b7f7a",
    "image": "#a63d6f",
    "command": "#7a6cc4",
}
"""Of the names that contestants have by default; distinguishable with the common colour vision deficiencies."""

INK, FAINT, RULE = "#1d2733", "#66717d", "#d5dbe1"

RUN_LABELS = ("box", *(f"{click}" for click in range(1, RUNS)))

STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": RULE,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9edf0",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}

POINT_SPREAD = 0.22
"""Half the width over which the points of one column are spread, so that they do not hide each other."""


def colour_of(name: str) -> str:
    """Return the colour of a contestant: always the same for a name, whatever others are in the report."""
    if name in COLOURS:
        return COLOURS[name]
    seed = zlib.crc32(name.encode())
    hue, lightness = seed % 360 / 360, (0.32, 0.42, 0.52)[seed // 360 % 3]
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, 0.6))


def curves(contestants: Sequence[Measured]) -> str:
    """Draw mean DSC and NSD after each run: a column a modality, solid with boxes, dashed without.

    Returns:
        An SVG document.
    """
    modalities = _modalities(contestants)
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(2, len(modalities), width=2.25, height=2.15)
        for column, modality in enumerate(modalities):
            for row, score in enumerate(("dsc", "nsd")):
                axis = axes[row][column]
                for contestant in contestants:
                    for boxes, line in ((True, "-"), (False, (0, (3, 2)))):
                        _curve(axis, _of(contestant, modality, boxes), score, colour_of(contestant.name), line)
                axis.set(ylim=(0, 1.02), xlim=(-0.3, RUNS - 0.7), xticks=range(RUNS), xticklabels=RUN_LABELS)
                axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1f}"))
                if row == 0:
                    axis.set_title(modality)
                    axis.tick_params(labelbottom=False)
                else:
                    axis.set_xlabel("clicks")
            axes[0][0].set_ylabel("DSC")
            axes[1][0].set_ylabel("NSD")
        return _svg(figure)


def distributions(contestants: Sequence[Measured]) -> str:
    """Draw every case's final DSC and NSD as a point, by modality and contestant, with the median as a bar.

    Points of cases with boxes are filled, of cases without boxes open.

    Returns:
        An SVG document.
    """
    modalities = _modalities(contestants)
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(2, 1, width=max(9.5, 2.25 * len(modalities)), height=2.3)
        width = 1 / (len(contestants) + 1)
        for (axis,), score in zip(axes, ("dsc_final", "nsd_final"), strict=True):
            for place, modality in enumerate(modalities):
                for index, contestant in enumerate(contestants):
                    centre = place + (index - (len(contestants) - 1) / 2) * width
                    results = [item for item in contestant.usable if item.modality == modality]
                    _column(axis, centre, width, results, score, colour_of(contestant.name))
                if place:
                    axis.axvline(place - 0.5, color=RULE, linewidth=0.8)
            axis.set(ylim=(-0.04, 1.04), xlim=(-0.5, max(len(modalities), 1) - 0.5), xticks=range(len(modalities)))
            axis.set_xticklabels(modalities, color=INK)
            axis.grid(axis="x", visible=False)
            axis.set_ylabel("final " + score.removesuffix("_final").upper())
        return _svg(figure)


def running_times(contestants: Sequence[Measured]) -> str:
    """Draw every case's running time as a part of what it may take: a row a contestant, and a line at the limit.

    Returns:
        An SVG document.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(1, 1, width=9.5, height=0.62 + 0.42 * len(contestants))
        axis = axes[0][0]
        spread = np.random.default_rng(0)
        used = [_time_used(contestant) for contestant in contestants]
        for index, (contestant, times) in enumerate(zip(contestants, used, strict=True)):
            heights = index + spread.uniform(-POINT_SPREAD, POINT_SPREAD, len(times))
            axis.scatter(times, heights, s=18, color=colour_of(contestant.name), alpha=0.7, linewidths=0)
        lowest = min([time for times in used for time in times if time > 0], default=0.01)
        highest = max([time for times in used for time in times], default=1.0)
        axis.axvline(1, color="#b3261e", linewidth=1.4)
        axis.set(
            xscale="log", xlim=(min(lowest / 1.5, 0.05), max(highest * 1.5, 2.0)), ylim=(len(contestants) - 0.5, -0.5)
        )
        axis.set_yticks(range(len(contestants)), [contestant.name for contestant in contestants], color=INK)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axis.set_xlabel("running time of all runs of a case, as a part of the limit (logarithmic)")
        axis.grid(axis="y", visible=False)
        return _svg(figure)


def reliability(calibrations: Mapping[str, Calibration]) -> str:
    """Draw how many voxels belong to the object beside how probable that was called: a panel a modality.

    Solid as predicted, dashed at the temperature that suits all cases best.

    Args:
        calibrations: by contestant.

    Returns:
        An SVG document.
    """
    with matplotlib.rc_context(STYLE):
        return _svg(_reliability(calibrations))


def reliability_picture(contestant: str, calibration: Calibration) -> bytes:
    """Draw the same of one contestant, as the content of a PNG file."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        _reliability({contestant: calibration}).savefig(content, format="png", dpi=150)
    return content.getvalue()


def _reliability(calibrations: Mapping[str, Calibration]) -> Figure:
    present = {title for calibration in calibrations.values() for title in calibration.groups}
    titles = [title for title in (ALL, *MODALITY_ORDER) if title in present]
    figure, axes = _grid(1, len(titles), width=2.25, height=2.6)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.plot([0, 1], [0, 1], color=RULE, linewidth=1)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="p", title=title)
        for place, (name, calibration) in enumerate(calibrations.items()):
            if title in calibration.groups:
                histogram = calibration.groups[title]
                colour = colour_of(name)
                as_is, at_best = histogram.curve(), histogram.curve(calibration.temperature)
                axis.plot(as_is.predicted, as_is.observed, color=colour, marker="o", markersize=3)
                axis.plot(at_best.predicted, at_best.observed, color=colour, linestyle=(0, (3, 2)))
                errors = [f"{curve.expected_calibration_error:.3f}" for curve in (as_is, at_best)]
                axis.text(0.04, 0.92 - 0.08 * place, "ECE " + " → ".join(errors), fontsize=7.5, color=colour)
    axes[0][0].set_ylabel("part that is the object")
    return figure


def _curve(axis: Axes, results: list[CaseResult], score: str, colour: str, line) -> None:
    if not results:
        return
    mean = np.mean([np.zeros(RUNS) if item.counts_zero else getattr(item, score) for item in results], axis=0)
    runs = range(RUNS) if results[0].has_boxes else range(1, RUNS)
    axis.plot(runs, mean[list(runs)], color=colour, linestyle=line, linewidth=1.8, marker="o", markersize=3)


def _column(axis: Axes, centre: float, width: float, results: list[CaseResult], score: str, colour: str) -> None:
    if not results:
        return
    values = np.array([getattr(item.scores, score) for item in results])
    # Spread evenly in the order of the values: neighbours in value lie apart, and the picture is always the same.
    offsets = np.empty(len(values))
    offsets[np.argsort(values)] = (np.arange(len(values)) * 0.618 % 1 - 0.5) * 2 * POINT_SPREAD * width
    filled = np.array([item.has_boxes for item in results])
    axis.scatter(centre + offsets[filled], values[filled], s=16, color=colour, alpha=0.65, linewidths=0)
    axis.scatter(
        centre + offsets[~filled],
        values[~filled],
        s=14,
        facecolors="none",
        edgecolors=colour,
        alpha=0.8,
        linewidths=0.9,
    )
    for boxes, style in ((True, "-"), (False, ":")):
        if (filled == boxes).any():
            median = np.median(values[filled == boxes])
            axis.hlines(
                median, centre - 0.36 * width, centre + 0.36 * width, color=colour, linewidth=1.8, linestyle=style
            )


def _time_used(contestant: Measured) -> list[float]:
    return [item.total_seconds / item.limit_seconds for item in contestant.usable]


def _modalities(contestants: Sequence[Measured]) -> list[str]:
    present = {item.modality for contestant in contestants for item in contestant.usable}
    return [modality for modality in MODALITY_ORDER if modality in present]


def _of(contestant: Measured, modality: str, boxes: bool) -> list[CaseResult]:
    return [item for item in contestant.usable if item.modality == modality and item.has_boxes == boxes]


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    columns = max(columns, 1)  # Of no case there is an empty one.
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row")


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()
