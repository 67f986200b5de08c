"""The log: a row a step in the file, a line now and then on stdout."""

import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from training.log import Log, draw_curves, read_log


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def note(log: Log, step: int, loss: float = 2.0, dice: float = 0.5) -> None:
    row = {"step": step, "samples": 8 * step, "seconds": 1.5 * step, "learning_rate": 1e-3}
    log.step(row, torch.tensor(loss), torch.tensor(dice), waited=0.25)


def test_a_line_says_how_fast_it_goes_since_the_last_one(tmp_path: Path, capsys: pytest.CaptureFixture):
    clock = Clock()
    with Log(tmp_path / "log.csv", 0, every=10.0, clock=clock) as log:
        note(log, 1)
        clock.now = 9.0
        assert not log.due
        note(log, 2, loss=4.0, dice=0.7)
        clock.now = 10.0
        assert log.due
        log.report(skipped=3)
        assert not log.due
        assert capsys.readouterr().out == (
            "step 2  0.1 min  0.20 steps/s  1.6 samples/s  loss 3.000  Dice 0.600  rate 0.001  skipped 3  waiting 5%\n"
        )
        clock.now = 12.0
        note(log, 3)
        log.report(skipped=3)
        assert capsys.readouterr().out.startswith("step 3  0.1 min  0.50 steps/s  4.0 samples/s")
        log.report(skipped=3)
        assert capsys.readouterr().out == ""
    rows = read_log(tmp_path / "log.csv")
    assert [(row["step"], row["loss"], row["skipped"]) for row in rows] == [(1, 2.0, 3), (2, 4.0, 3), (3, 2.0, 3)]
    assert rows[1]["dice"] == pytest.approx(0.7)


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path: Path):
    with Log(tmp_path / "log.csv", 0) as log:
        for step in range(1, 6):
            note(log, step)
        log.report(0)
    with Log(tmp_path / "log.csv", 3) as log:
        note(log, 4, loss=9.0)
        log.report(0)
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path / "log.csv")] == [
        (1, 2.0), (2, 2.0), (3, 2.0), (4, 9.0),
    ]  # fmt: skip


def test_without_matplotlib_there_is_no_picture_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'curves.png'}: not drawn")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("losses", "scale"), [((6.0, 3.0, 2.2), "linear"), ((2.9, 3.0, 2.9), "linear"), ((40.0, 10.0, 2.0), "log")]
)
def test_the_loss_has_an_axis_with_numbers_enough(
    losses: tuple[float, ...], scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Log(tmp_path / "log.csv", 0) as log:
        for step, loss in enumerate(losses, start=1):
            note(log, step, loss=loss)
        log.report(0)
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    ticks = [tick.get_text() for tick in axes.get_yticklabels() if low <= tick.get_position()[1] <= high]
    assert axes.get_yscale() == scale
    assert len(ticks) >= 4 and all(low <= float(text) <= high for text in ticks)
    assert not any(tick.get_text() for tick in axes.get_yticklabels(minor=True))
