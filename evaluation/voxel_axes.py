"""Voxel coordinates along the edges of a picture, as they are typed in a box or a click."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

TICKS = 8
"""Intervals along an edge, at most."""

GREY = "0.65"


def draw_voxel_numbers(view: Axes, rows: int, columns: int) -> None:
    """Draws numbers along the left and the lower edge of a plane, and nothing else of its frame.

    Args:
        view: with the plane's image in it, a voxel a unit, the first one at 0.
        rows, columns: the axes of the array that run down and along the plane: 0 is z, 1 is y, 2 is x.
    """
    for axis, number, shape in zip((view.yaxis, view.xaxis), (rows, columns), view.images[0].get_size()):
        axis.set_major_locator(MaxNLocator(TICKS, integer=True, steps=[1, 2, 5, 10]))
        axis.set_ticks([tick for tick in axis.get_majorticklocs() if 0 <= tick < shape])
        axis.set_label_text("zyx"[number], color=GREY, fontsize=11)
    view.tick_params(colors=GREY, labelsize=8, length=3)
    view.set_frame_on(False)
