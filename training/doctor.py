"""``segfm3d doctor``: whether training would work on this machine, in half a minute.

One line a check: ``ok``, ``note`` for what costs something, ``FAIL`` for what would end a run, with what to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from inference.command import Parser, run

OPTIONAL = {
    "matplotlib": "no curves.png",
    "cc3d": "evaluation and conversion do not run here",
    "edt": "evaluation does not run here",
    "surface_distance": "evaluation does not run here",
    "skimage": "the random-walker baseline does not run here",
    "SimpleITK": "images other than .npz are not read here",
    "nilearn": "make demo does not run here",
    "blosc2": "all volumes must fit into memory: there is no store",
}
"""Package -> what is lost without it. Training itself wants torch, numpy, scipy and tqdm."""

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "default.pt"

SHARED_BY_WORKER = 2**28
"""Bytes of /dev/shm that a worker may fill: four steps ahead, of 64 samples of the fine pass, of 0.8 MB on average."""

LEAST_SHARED = 16 * SHARED_BY_WORKER

LEAST_AGREEMENT = 0.98
"""Dice of a device's mask and the CPU's in float32."""

SHAPE = (40, 72, 72)
"""Of the synthetic image: its larger object is larger than a patch of 48³."""


class Failure(Exception):
    """A check that failed; the message is one line: what is wrong, and what to do."""


class Note(Exception):
    """A check that found something which costs, but would not end a run."""


Check = tuple[str, Callable[[], str]]


def main(arguments: list[str] | None = None, prog: str = "segfm3d doctor") -> int:
    """Makes the checks; returns 0, or 1 if one failed."""
    parser = Parser(prog, f"Says {__doc__.split(': ')[1].splitlines()[0]}", "", "--data DATA --device cuda")
    parser.add_argument("--data", type=Path, nargs="+", help="folders of *.npz to try with (default: synthetic ones)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="to begin with")
    options = parser.parse_args(arguments)
    try:
        device = torch.device(options.device)
    except RuntimeError:
        parser.error(f"--device {options.device}: expected cpu, cuda or cuda:N")
    return run(lambda: _examine_all(options, device))


def _examine_all(options: argparse.Namespace, device: torch.device) -> int:
    with tempfile.TemporaryDirectory() as folder:
        failed = examine(_checks(options.data, device, options.weights, Path(folder)))
    if failed:
        print(f"{len(failed)} check(s) failed: {', '.join(failed)}", flush=True)
        return 1
    print("training would run here", flush=True)
    return 0


def examine(checks: Iterator[Check]) -> list[str]:
    """Makes one check after another, a line each; returns the names of those that failed."""
    failed = []
    for name, check in checks:
        began = time.monotonic()
        try:
            with redirect_stdout(io.StringIO()):  # What the checked code says would part the lines.
                verdict, found = "ok", check()
        except Note as note:
            verdict, found = "note", str(note)
        except Failure as failure:
            verdict, found = "FAIL", str(failure)
        except Exception as error:  # What no check foresaw: the others are made all the same.
            verdict, found = "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if verdict == "FAIL":
            failed.append(name)
        print(f"{verdict:<5} {name:<18} {time.monotonic() - began:5.1f} s  {found}", flush=True)
    return failed


def _checks(data: Sequence[Path] | None, device: torch.device, weights: Path, folder: Path) -> Iterator[Check]:
    yield "versions", versions
    yield "imports", imports
    for package, loss in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            yield package, lambda loss=loss: _raise(Note(f"not installed: {loss}"))
    yield "device", lambda: device_found(device)
    yield "cores and memory", cores_and_memory
    yield "/dev/shm", shared_memory
    yield "disk", lambda: disk(folder)
    if data is None:
        data = [write_synthetic(folder / "data")]
    yield "data", lambda: data_found(data)
    yield "inference", lambda: agreement(data[0], weights, device)
    for name, fine in (("plain step", False), ("fine pass step", True)):
        yield name, lambda name=name, fine=fine: step(data, weights, device, folder / name, fine)
    yield "pieces, resume", lambda: resumed(data, weights, device, folder / "plain step")


def _raise(exception: Exception) -> str:
    raise exception


def versions() -> str:
    found = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Note(f"{found}; tried with Python 3.11 to 3.13 only")
    if not (2, 11) <= tuple(map(int, torch.__version__.split(".")[:2])) <= (2, 14):
        raise Note(f"{found}; tried with torch 2.11 to 2.14 only")
    return found


def imports() -> str:
    """Imports all that a run imports."""
    try:
        import training.__main__
        import training.pieces  # noqa: F401
    except ImportError as error:
        raise Failure(f"{error}; install it, or bring its wheel along: pip install --no-deps FILE.whl") from error
    return "the trainer's modules"


def device_found(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads (give --device cuda to examine a GPU)"
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        raise Failure(f"{device}: no such device; {built}; see nvidia-smi and pip show torch")
    properties = torch.cuda.get_device_properties(device)
    free = torch.cuda.mem_get_info(device)[0] / 2**30
    found = f"{properties.name}, {free:.1f} of {properties.total_memory / 2**30:.1f} GiB free"
    found += f", compute capability {properties.major}.{properties.minor}, cuDNN {torch.backends.cudnn.version()}"
    if free < 0.9 * properties.total_memory / 2**30:
        raise Note(f"{found}; another process takes the rest")
    return found


def cores_and_memory() -> str:
    from inference.memory import available_memory

    cores, memory = len(os.sched_getaffinity(0)), available_memory() / 2**30
    found = f"{cores} cores, {memory:.0f} GiB free"
    if memory < 16:
        raise Note(f"{found}; what does not fit goes into a store on disk; --workers 2 takes less")
    return found


def shared_memory() -> str:
    if not Path("/dev/shm").is_dir():
        raise Note("there is none; give --workers 0 if workers end with a bus error")
    free = shutil.disk_usage("/dev/shm").free
    if free < LEAST_SHARED:
        workers = free // SHARED_BY_WORKER
        raise Note(f"{free / 2**20:.0f} MiB; with batches of 64, give --workers {workers}: more may end in a bus error")
    return f"{free / 2**30:.0f} GiB"


def disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free < 2**30:
        raise Failure(f"{folder}: {free / 2**20:.0f} MiB free; a run writes up to 1 GiB; set TMPDIR, make room")
    return f"{free / 2**30:.0f} GiB free in {folder.parent}"


def data_found(data: Sequence[Path]) -> str:
    counts = []
    for folder in data:
        count = len(list(folder.glob("*.npz")))
        if not count:
            raise Failure(f"{folder}: no *.npz in it; unpack the data there, or give another --data")
        counts.append(f"{folder}: {count} cases")
    return ", ".join(counts)


def write_synthetic(folder: Path, count: int = 2) -> Path:
    """Writes cases of noise with a small and a large bright ellipsoid."""
    folder.mkdir()
    for seed in range(count):
        modality, random = ("CT", "MR")[seed % 2], np.random.default_rng(seed)
        image, labels = random.normal(80, 15, SHAPE), np.zeros(SHAPE, np.uint8)
        axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
        for label, centre, radii in ((1, (20, 36, 40), (15, 30, 28)), (2, (10, 10, 10), (5, 6, 7))):
            inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii)) <= 1
            labels[inside] = label
            image[inside] += 50 * label
        path, image = folder / f"{modality}_synthetic_{seed}.npz", image.clip(0, 255).astype(np.uint8)
        np.savez_compressed(path, imgs=image, gts=labels, spacing=np.ones(3))
    return folder


def agreement(folder: Path, weights: Path, device: torch.device) -> str:
    """Segments the largest object of a case here, and on the CPU in float32."""
    from inference.case import Case, ObjectPrompts
    from inference.deadline import Deadline
    from inference.geometry import Box
    from inference.npz import read_array
    from inference.segmenter import load_segmenter, segment_case
    from training.dataset import load_volume

    path = min(folder.glob("*.npz"), key=lambda path: path.stat().st_size)
    volume = load_volume(path)
    label, box = max(volume.objects.items(), key=lambda item: item[1].voxels)
    case = Case(path.name, read_array(path, "imgs"), (1.0, 1.0, 1.0), (ObjectPrompts(1, box=box),))
    masks, said = [], []
    for where in dict.fromkeys((device, torch.device("cpu"))):
        segmenter = load_segmenter(weights, str(where))
        masks.append(segment_case(case, segmenter, Deadline(600), log=said.append) > 0)
        if segmenter.failures or segmenter.predictor.device.type != where.type:  # A failing GPU turns to the CPU.
            raise Failure(f"{path.name}: failed on {where}: {' '.join(said)[-300:]}")
    return f"{path.name}: {compared(masks, (volume.labels[Box.of(volume.shape).slices] == label).numpy())}"


def compared(masks: list[np.ndarray], truth: np.ndarray) -> str:
    """Compares a device's mask with the truth, and with the CPU's where that is the second one.

    Raises:
        Failure: the two masks are not the same.
    """
    found = f"Dice {_dice(masks[0], truth):.3f} with the truth"
    if len(masks) == 1:
        return found
    same = _dice(*masks)
    found += f", {same:.4f} with the CPU's mask, in float32"
    if same < LEAST_AGREEMENT:
        raise Failure(f"{found}; expected {LEAST_AGREEMENT}: train with --no-mixed-precision, and report this device")
    return found


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * np.count_nonzero(one & other) / max(np.count_nonzero(one) + np.count_nonzero(other), 1))


def step(data: Sequence[Path], weights: Path, device: torch.device, out: Path, fine: bool, steps: int = 1) -> str:
    """Trains for a step of one kind, from the weights, as ``python -m training`` does it."""
    from training.log import read_log

    _train(data, weights, device, out, fine, steps)
    row = read_log(out / "log.csv")[-1]
    if not np.isfinite(row["loss"]):
        raise Failure(f"the loss is {row['loss']}; give --no-mixed-precision")
    found = f"loss {row['loss']:.3f}, Dice {row['dice']:.3f}"
    if row["skipped"]:  # With float16 the first scale of the loss may be too large, once or twice.
        raise Note(f"{found}; its gradients were not finite, which is usual for a first step in float16 and skipped")
    return found


def resumed(data: Sequence[Path], weights: Path, device: torch.device, before: Path) -> str:
    """Joins the pieces that a run of one step left, and goes on for another."""
    from training.pieces import join

    joined = before.with_name("joined")
    at = join(before / "pieces", joined)
    if at != 1:
        raise Failure(f"the pieces are of step {at}; expected 1")
    largest = max(path.stat().st_size for path in (before / "pieces").rglob("*") if path.is_file())
    files = [path for path in (before / "pieces").rglob("*") if path.is_file()]
    text = step(data, weights, device, joined, fine=False, steps=2)
    return f"{len(files)} files of at most {largest / 1e6:.1f} MB, joined, went on to step 2: {text}"


def _train(data: Sequence[Path], weights: Path, device: torch.device, out: Path, fine: bool, steps: int) -> None:
    from inference.model import load_model
    from training.config import DEFAULT
    from training.dataset import load_volumes
    from training.loop import Run, half_precision_pays, train

    network, model = load_model(weights)
    sampling = replace(DEFAULT.sampling, finer_look=float(fine), clicks=(0.0, 1.0))
    config = replace(DEFAULT, model=model, sampling=sampling, batch=2, finer_batch=1)
    half = half_precision_pays(device)
    run = Run(out, device, steps=steps, mixed_precision=half, workers=1, pieces=out / "pieces")
    with torch.random.fork_rng(devices=[]):
        train(config, load_volumes(data, at_most=4), run, network.state_dict())


if __name__ == "__main__":
    sys.exit(main())
