"""The loop: resumed runs, skipped gradients, several processes, what it leaves on disk."""

import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import checkpoint
from inference.model import load_model
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.segmenter import load_segmenter
from training import loop
from training.__main__ import main
from training.config import DEFAULT, PAPER, TrainingConfig
from training.dataset import Volume, load_volume
from training.lock import FolderInUseError, held
from training.log import Log, read_log
from training.loop import Run, begin, learning_rate, train
from training.state import ResumeError
from training.step import accumulate, update
from training.stream import Step, Steps

ROOT = Path(__file__).resolve().parents[2]

PROCESSES = multiprocessing.get_context("forkserver")
"""Not forked from here: where a test before has computed in several threads, a forked process waits for them for ever.
The server imports PyTorch once for all processes, and computes nothing."""
PROCESSES.set_forkserver_preload(["training.__main__"])


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in read_log(run.out / "log.csv")]


def test_a_resumed_run_has_the_same_losses_and_weights(
    volumes: list[Volume], config: TrainingConfig, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture
):
    whole = train(config, volumes, run)
    assert capsys.readouterr().out.startswith("first step: 1, on cpu\nstep "), "said before it is made"
    parts = replace(run, out=tmp_path / "parts", steps=2)
    # The schedule is that of the whole run: only the loop ends early, as when it is killed.
    killed = replace(config, final_learning_rate=config.learning_rate)
    straight = train(killed, volumes, replace(run, out=tmp_path / "straight"))
    train(killed, volumes, parts)
    resumed = train(killed, volumes, replace(parts, steps=4))
    assert "goes on at step 2\nfirst step: 3, on cpu\n" in capsys.readouterr().out
    assert losses(parts) == pytest.approx(losses(replace(run, out=tmp_path / "straight")), rel=1e-6)
    for a, b in zip(straight.weights.parameters(), resumed.weights.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert any(
        not torch.equal(a, b) for a, b in zip(whole.weights.parameters(), straight.weights.parameters(), strict=True)
    )


def test_a_folder_that_another_run_writes_into_is_left_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["--dry-run", "--data", str(folder), "--out", str(out), "--device", "cpu", "--workers", "0"]
    with held(out):
        assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"error: {out}: another run writes into it; wait for it, end it, or give another folder with --out\n"
    )
    assert not list(out.iterdir())
    assert main(arguments) == 0


def test_a_worker_that_outlives_its_run_does_not_hold_the_folder(tmp_path: Path):
    """A run that is killed leaves its workers behind for some seconds."""
    fork = multiprocessing.get_context("fork")
    runs, ends = fork.Event(), fork.Event()
    worker = fork.Process(target=lambda: (runs.set(), ends.wait(60)))
    with held(tmp_path):
        worker.start()
        assert runs.wait(60)
        with pytest.raises(FolderInUseError), held(tmp_path):
            pass
    with held(tmp_path):
        assert worker.is_alive()
    ends.set()
    worker.join()


@pytest.mark.parametrize("kind", ["another optimizer", "another network", "an older layout", "no checkpoint"])
def test_a_run_that_cannot_go_on_from_its_checkpoint_says_so(
    volumes: list[Volume], config: TrainingConfig, run: Run, kind: str
):
    train(config, volumes, replace(run, steps=1))
    changed, last = config, run.out / "last.pt"
    if kind == "another optimizer":
        changed = replace(config, muon=not config.muon)
    elif kind == "another network":
        network = replace(config.model.network, features=tuple(2 * n for n in config.model.network.features))
        changed = replace(config, model=replace(config.model, network=network))
    elif kind == "an older layout":
        content = torch.load(last, weights_only=True)
        content["optimizer"] = content.pop("optimizers")[0]
        torch.save(content, last)
    else:
        last.write_bytes(b"half a file")
    with pytest.raises(ResumeError, match=r"last\.pt: this run cannot go on from it \(.+\); give .* --out$") as caught:
        train(changed, volumes, run)
    assert "\n" not in str(caught.value)


def test_samples_are_counted_over_steps_of_either_kind_and_over_a_pause(
    volumes: list[Volume], config: TrainingConfig, run: Run
):
    sampling = replace(config.sampling, clicks=(1.0,), finer_look=0.5)
    config = replace(config, batch=2, finer_batch=1, accumulate=2, sampling=sampling)
    steps = Steps(volumes, config, run.seed)
    train(config, volumes, replace(run, steps=2))
    train(config, volumes, replace(run, steps=5))
    kinds = [steps[step].finer_look for step in range(5)]
    assert 0 < sum(kinds) < 5
    counts = np.cumsum([2 if finer else 4 for finer in kinds])
    assert [row["samples"] for row in read_log(run.out / "log.csv")] == counts.tolist()


@pytest.mark.usefixtures("curves")
def test_the_weights_are_what_inference_reads(volumes: list[Volume], config: TrainingConfig, run: Run):
    average = train(config, volumes, run).weights
    segmenter = load_segmenter(run.out / "weights.pt", "cpu")
    assert segmenter.config == config.model
    for name, tensor in load_model(run.out / "weights.pt")[0].state_dict().items():
        torch.testing.assert_close(tensor, average.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert (run.out / "curves.png").stat().st_size > 1000
    assert not list(run.out.glob(".*"))


def test_gradients_that_are_not_finite_are_skipped_and_counted(volumes: list[Volume], config: TrainingConfig, run: Run):
    state = begin(config, run, None)
    before = [parameter.clone() for parameter in state.network.parameters()]
    accumulate(state.network, state, Steps(volumes, config, 0)[0], config, run)
    next(state.network.parameters()).grad[0] = float("nan")
    update(state, config)
    assert state.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))
    accumulate(state.network, state, Steps(volumes, config, 0)[0], config, run)
    update(state, config)
    assert state.skipped == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))


@pytest.mark.parametrize("finer_look", [0.0, 1.0])
def test_accumulated_batches_give_the_gradient_of_one_large_batch(
    volumes: list[Volume], config: TrainingConfig, run: Run, finer_look: float
):
    gradients = []
    for batch, times in ((4, 1), (2, 2)):
        sampling = replace(config.sampling, finer_look=finer_look, human_clicks=0.0)
        shared = replace(config, sampling=sampling, batch=batch, finer_batch=batch, accumulate=times)
        state = begin(shared, replace(run, out=run.out / str(times)), None)
        state.network.load_state_dict(gradients[0][0]) if gradients else None
        weights = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
        accumulate(state.network, state, Steps(volumes, shared, 7)[1], shared, run)
        gradients.append((weights, [p.grad for p in state.network.parameters() if p.grad is not None]))
    for a, b in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_learning_rate_schedules():
    assert learning_rate(PAPER, 0, 0.0) == learning_rate(PAPER, 999, 0.999) == PAPER.learning_rate == 1e-4
    assert learning_rate(DEFAULT, 0, 0.0) == DEFAULT.learning_rate / DEFAULT.warmup
    assert learning_rate(DEFAULT, 99, 0.0) == DEFAULT.learning_rate
    middle = (DEFAULT.learning_rate + DEFAULT.final_learning_rate) / 2
    assert learning_rate(DEFAULT, 500, 0.5) == pytest.approx(middle)
    assert learning_rate(DEFAULT, 1000, 1.0) == pytest.approx(DEFAULT.final_learning_rate)


def test_the_paper_s_run():
    assert (PAPER.batch, PAPER.accumulate, PAPER.epochs, PAPER.model.patch) == (2, 8, 25, (192, 192, 192))
    assert PAPER.steps(volumes=160) == 250
    assert PAPER.sampling.clicks == (0.5, 0.5)


def test_the_command_s_dry_run_has_a_step_of_each_kind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps: list[Step] = []

    def recorded(forward, state, step: Step, *rest):
        steps.append(step)
        return accumulate(forward, state, step, *rest)

    monkeypatch.setattr(loop, "accumulate", recorded)
    out = tmp_path / "dry"
    assert main(["--data", str(folder), "--out", str(out), "--dry-run", "--workers", "1", "--device", "cpu"]) == 0
    assert [(step.finer_look, step.clicks) for step in steps] == [(True, 1), (False, 1)]
    assert len(read_log(out / "log.csv")) == 2
    load_model(out / "weights.pt")


def test_errors_of_use_are_one_line(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture):
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert main(["--data", str(folder), "--out", str(tmp_path / "out"), "--init", str(tmp_path / "none.pt")]) == 2
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "last.pt").write_bytes(b"half a file")
    assert main(["--data", str(folder), "--out", str(tmp_path / "broken"), "--dry-run"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 3 and "last.pt" in lines[2] and "no usable case" in lines[0] and "none.pt" in lines[1]


class FakeClock:
    """Every look at it takes a while."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 1000.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.fixture
def simple(config: TrainingConfig) -> TrainingConfig:
    """Steps that take the least time, for tests of many: no click, no fine pass."""
    return replace(config, batch=1, sampling=replace(config.sampling, clicks=(1.0,), finer_look=0.0))


def test_a_run_of_minutes_ends_in_time_and_brings_the_rate_down(
    volumes: list[Volume], simple: TrainingConfig, run: Run
):
    clock = FakeClock(1.5)
    run = replace(run, steps=None, minutes=2.0, clock=clock, elapsed=20.0)
    began = clock.now
    outcome = train(simple, volumes, run)
    rows = read_log(run.out / "log.csv")
    assert outcome.signal is None and outcome.step == len(rows) > 3
    assert rows[0]["seconds"] > 20.0
    assert 0.6 * 120 < rows[-1]["seconds"] <= clock.now - began + 20.0 <= 120.0
    assert rows[-1]["learning_rate"] < 0.1 * max(row["learning_rate"] for row in rows)


def test_a_resumed_run_of_minutes_keeps_its_clock(volumes: list[Volume], simple: TrainingConfig, run: Run):
    run = replace(run, steps=None, minutes=1.0, clock=FakeClock(1.5))
    first = train(simple, volumes, run)
    resumed = train(simple, volumes, replace(run, minutes=2.0))
    rows = read_log(run.out / "log.csv")
    assert 0 < first.step < resumed.step == len(rows)
    assert rows[first.step]["seconds"] > rows[first.step - 1]["seconds"] > 20.0
    assert rows[-1]["seconds"] <= 120.0
    assert train(simple, volumes, replace(run, minutes=1.0)).step == resumed.step


def test_a_run_has_either_steps_or_minutes(tmp_path: Path):
    with pytest.raises(ValueError, match="either steps or minutes"):
        Run(tmp_path, torch.device("cpu"))
    with pytest.raises(ValueError, match="either steps or minutes"):
        Run(tmp_path, torch.device("cpu"), steps=1, minutes=1.0)


def impatient(arguments: list[str], out: Path, errors: Path) -> None:
    """``python -m training`` twice, as a terminal starts it, with a line after each step."""
    os.setsid()
    sys.stdout, sys.stderr = out.open("w", buffering=1), errors.open("w", buffering=1)
    loop.Log = partial(Log, every=0.0)
    loop.draw_curves = lambda log, picture: None
    for _ in range(2):
        print(f"ended with {main(arguments)}")


def test_a_signal_ends_the_step_saves_and_the_run_goes_on_later(folder: Path, config: TrainingConfig, tmp_path: Path):
    """SIGINT, and then SIGTERM of the run that goes on from there."""
    out, small = tmp_path / "out", tmp_path / "small.pt"
    checkpoint.save(small, config.model, ResidualEncoderUNet(config.model.network).state_dict())
    arguments = ["--data", str(folder), "--out", str(out), "--patch", "16", "--init", str(small), "--batch", "1"]
    arguments += ["--finer-batch", "1", "--device", "cpu", "--workers", "1", "--minutes", "30"]
    said, errors = tmp_path / "said", tmp_path / "errors"
    process = PROCESSES.Process(target=impatient, args=(arguments, said, errors))
    process.start()

    def wait_for(pattern: str) -> None:
        for _ in range(2400):
            if said.exists() and re.search(pattern, said.read_text(), re.DOTALL):
                return
            assert process.is_alive(), errors.read_text() if errors.exists() else "it did not begin"
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} was not said")

    try:
        wait_for("\nstep ")
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to the workers too.
        wait_for("goes on at step .*\nstep ")
        first = torch.load(out / "last.pt", weights_only=True)["step"]
        assert f"goes on at step {first}\nfirst step: {first + 1}," in said.read_text()
        os.killpg(process.pid, signal.SIGTERM)
        process.join(60)
    finally:
        process.kill()
    assert process.exitcode == 0, errors.read_text()
    lines = said.read_text().splitlines()
    assert [line for line in lines if line.startswith("ended with")] == ["ended with 130", "ended with 143"]
    assert sum("the same command resumes" in line for line in lines) == 2
    assert errors.read_text().count("\n") <= 6 and "Traceback" not in errors.read_text()
    step = torch.load(out / "last.pt", weights_only=True)["step"]
    assert first < step == read_log(out / "log.csv")[-1]["step"]
    load_model(out / "weights.pt")


def test_a_state_from_a_cpu_without_scaler_is_accepted(volumes: list[Volume], config: TrainingConfig, run: Run):
    train(config, volumes, replace(run, steps=1))
    content = torch.load(run.out / "last.pt", weights_only=True)
    torch.save(content | {"scaler": {}}, run.out / "last.pt")
    assert train(config, volumes, replace(run, steps=2)).step == 2


def half(config: TrainingConfig, batch: int) -> TrainingConfig:
    """A configuration whose samples two processes with a batch of 1 share as one with a batch of 2 draws them."""
    model = replace(config.model, finer=1)
    sampling = replace(DEFAULT.sampling, modalities=(), human_clicks=0.0)
    return replace(config, model=model, sampling=sampling, batch=batch, accumulate=2)


@pytest.fixture
def losses_alone(volumes: list[Volume], config: TrainingConfig, run: Run) -> list[float]:
    run = replace(run, out=run.out / "one", steps=3)
    train(half(config, 2), volumes, run)
    return losses(run)


def train_as(rank: int, port: int, *arguments: object) -> None:
    """Trains as one of two processes, with what torchrun sets."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    loop.draw_curves = lambda log, picture: None
    train(*arguments)


def test_two_processes_have_the_loss_of_one_with_the_doubled_batch(
    volumes: list[Volume], config: TrainingConfig, run: Run, losses_alone: list[float]
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = replace(run, out=run.out / "two", steps=3)
    processes = [
        PROCESSES.Process(target=train_as, args=(rank, port, half(config, 1), volumes, both)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert losses(both) == pytest.approx(losses_alone, rel=1e-4)


LAUNCHED = """
import pickle, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {root!r})
from training.loop import train
with open({arguments!r}, "rb") as file:
    train(*pickle.load(file))
"""


@pytest.mark.slow
def test_torchrun_starts_two_processes(
    volumes: list[Volume], config: TrainingConfig, run: Run, losses_alone: list[float], tmp_path: Path
):
    both, arguments, script = replace(run, out=run.out / "two", steps=3), tmp_path / "arguments", tmp_path / "script.py"
    arguments.write_bytes(pickle.dumps((half(config, 1), volumes, both)))
    script.write_text(LAUNCHED.format(root=str(ROOT), arguments=str(arguments)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(launcher, check=True, capture_output=True, timeout=300)
    assert losses(both) == pytest.approx(losses_alone, rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU wants a C++ compiler")
def test_a_compiled_run_has_the_losses_of_a_plain_one(
    volumes: list[Volume], config: TrainingConfig, run: Run, tmp_path: Path
):
    plain = replace(run, mixed_precision=False)
    train(config, volumes, plain)
    compiled = replace(plain, out=tmp_path / "compiled", compile=True)
    train(config, volumes, replace(compiled, steps=2))
    train(config, volumes, compiled)  # Goes on from its checkpoint.
    assert losses(compiled)[0] == pytest.approx(losses(plain)[0], rel=1e-4)
    assert len(losses(compiled)) == run.steps
    load_model(compiled.out / "weights.pt")


@pytest.mark.slow
def test_one_real_volume_is_learnt(real_volume: Path, tmp_path: Path):
    """A small network overfits one real tumour to a Dice above 0.95."""
    model = replace(DEFAULT.model, network=NetworkConfig((16, 32, 64), (1, 1, 1)), patch=(24, 24, 24))
    sampling = replace(PAPER.sampling, clicks=(1.0,))
    config = replace(DEFAULT, model=model, sampling=sampling, batch=2, learning_rate=4e-3, warmup=30, average=0.0)
    run = Run(tmp_path, torch.device("cpu"), steps=200, mixed_precision=False, workers=0)
    train(config, [load_volume(real_volume)], run)
    assert np.mean([row["dice"] for row in read_log(tmp_path / "log.csv")][-10:]) > 0.95
