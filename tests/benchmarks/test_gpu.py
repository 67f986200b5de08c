"""The rows of the GPU benchmark, on the CPU: forward, whole run, training."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, training_throughput
from benchmarks.rows import Unavailable
from inference.network import ResidualEncoderUNet
from inference.predictor import DeviceError
from tests.inference.factories import TINY, write_weights
from training.doctor import write_synthetic

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("gpu") / "data")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(TINY, finer=2)
    monkeypatch.setattr(gpu, "DEFAULT", replace(gpu.DEFAULT, model=small))


@pytest.mark.parametrize("command", [gpu.main, training_throughput.main], ids=lambda main: main.__module__)
@pytest.mark.parametrize(
    ("device", "said"), [("gpu7", "expected cpu, cuda or cuda:N"), ("mps", "finds no such device")]
)
def test_a_device_that_is_not_there(
    command: Callable[[], int], device: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    words = ["--out", str(tmp_path / "new" / "a.json")] if command is gpu.main else []
    monkeypatch.setattr("sys.argv", ["", "--data", str(tmp_path), "--device", device, *words])
    with pytest.raises(DeviceError, match=f"^--device {device}: .*{said}"):
        command()
    assert list(tmp_path.iterdir()) == []


def test_a_forward_is_compared_with_the_plain_one():
    values = gpu.forward_row(lambda: ResidualEncoderUNet(TINY.network).eval(), 16, CPU, 2)
    assert values["ms"] > 0 and values["float32 ms"] > 0 and values["GiB"] is None
    assert values["difference"] < 1e-4 and values["other sign"] < 1e-2


def test_a_whole_run_leaves_an_object(tmp_path: Path):
    values = gpu.whole_run_row(write_weights(tmp_path / "weights.pt"), CPU, tmp_path / "run", 2)
    assert values["s an object"] == values["s"] / 2 and values["voxels"] > 0


def test_a_whole_run_that_fails_says_why(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1: .*no such file"):
        gpu.whole_run_row(tmp_path / "none.pt", CPU, tmp_path / "run", 1)


def test_steps_of_both_kinds_are_measured(tiny: None, data: Path, tmp_path: Path):
    plan = dict(gpu.training_plan([data], CPU, 0, True, tmp_path))
    for name, batch in (("plain, batch 1", 1), ("fine pass, batch 2", 2)):
        values = plan[f"training, {name}"]()
        assert values["samples/s"] == pytest.approx(values["steps/s"] * batch)
    assert plan["loader, fine pass"]()["samples/s"] > 0


def test_the_loader_is_measured_from_when_all_workers_are_busy(monkeypatch):
    """Three workers of a step in six seconds, four samples each, which all come together."""
    now = 0.0

    def drawn(steps: object, first: int, last: int, workers: int, device: torch.device):
        nonlocal now
        for number in range(first, last):
            now = 6.0 * (number // workers + 1)
            yield SimpleNamespace(samples=4)

    monkeypatch.setattr(gpu, "stream", drawn)
    monkeypatch.setattr(gpu, "Steps", lambda *_, **__: None)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now)
    assert gpu.loader_row(gpu.DEFAULT, [], CPU, 3) == {"samples/s": 3 * 4 / 6}


def test_without_data_training_is_skipped(tmp_path: Path):
    for _, row in gpu.training_plan(None, CPU, 0, False, tmp_path):
        with pytest.raises(Unavailable, match="no --data"):
            row()


def test_what_does_not_fit_into_memory_is_no_failure(tiny: None, data: Path, tmp_path: Path, monkeypatch):
    asked = []

    def measured(config, *_):
        asked.append((config.sampling.finer_look, config.batch))
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "training_row", measured)
    for name, row in gpu.training_plan([data], CPU, 0, True, tmp_path):
        if name.startswith("training"):
            with pytest.raises(Unavailable, match="memory"):
                row()
    assert asked == [(0.0, 1), (1.0, 1)], "a larger batch of the same kind is not tried"


def test_a_failed_row_is_the_exit_code(tmp_path: Path, monkeypatch, capsys):
    def broken() -> dict:
        raise RuntimeError("no kernel")

    for plan in ("whole_run_plan", "training_plan"):
        monkeypatch.setattr(gpu, plan, lambda *_: [])
    command = ["--out", str(tmp_path / "gpu.json"), "--device", "cpu", "--quick"]
    monkeypatch.setattr(gpu, "forward_plan", lambda *_: [("good", partial(dict, ms=1.0)), ("bad", broken)])
    assert gpu.main(command) == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"][1]["error"] == "RuntimeError: no kernel"
    monkeypatch.setattr(gpu, "forward_plan", lambda *_: [("good", partial(dict, ms=1.0))])
    assert gpu.main(command) == 0
    assert "1 rows, 0 skipped, 0 failed" in capsys.readouterr().out
