"""`python -m benchmarks.data_store --data DIR --scratch DIR`: what a store costs and gives, beside memory.

In one run, on the same cases: building it with one process and with as many as there are cores; its size beside the
`*.npz`; the start from it and from memory; a sample drawn and made from either, in turns, in processor time of one
thread, which other work on the machine changes little; a window over all of a large image, a real one repeated.
Then a large store, of copies of the cases under other names, each its own file, so that the disk's cache cannot hold
what is larger than memory: the start, and the most memory (proportional set size, which counts what processes share
once) of a run's loader with 1, 4 and 12 workers. All of it is removed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.geometry import voxel
from inference.npz import read_array
from inference.window import Window
from training.config import DEFAULT
from training.dataset import Volume, find_cases, load_volumes
from training.store import build, opened
from training.stored import CASES, SIDECAR, StoredVolumes, read_index, write_index
from training.stream import Steps, stream

LARGE = (300, 512, 512)

WORKERS = (1, 4, 12)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_store", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--scratch", type=Path, required=True, help="where there is room, on the disk to be measured")
    parser.add_argument("--cases", type=int, default=40, help="of the small set")
    parser.add_argument("--samples", type=int, default=400, help="of each kind")
    parser.add_argument("--copies", type=int, default=50, help="of each case of the folder, in the large store")
    parser.add_argument("--loader", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loader:
        load(options.loader, options.workers)
        return
    options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        small(options, Path(folder))
        large_image(options, Path(folder))
        large_store(options, Path(folder))


def small(options: argparse.Namespace, folder: Path) -> None:
    """Building, size, start and samples."""
    chosen = find_cases(options.data)
    chosen = chosen[:: max(len(chosen) // options.cases, 1)][: options.cases]
    data = folder / "data"
    data.mkdir()
    for path in chosen:
        (data / path.name).symlink_to(path.resolve())
    paths = find_cases(data)
    store = folder / "store"
    for processes in sorted({1, len(os.sched_getaffinity(0))}):
        shutil.rmtree(store, ignore_errors=True)
        with measured(f"build, {processes} process(es), their start included"):
            build(store, paths, processes)
    with measured("read into memory"):
        held = load_volumes(data)
    with measured("start from the store"):
        stored = opened(store, paths)[0]
        Steps(stored, DEFAULT, seed=0)
    npz = sum(path.stat().st_size for path in paths)
    sizes = [path.stat().st_size for path in (store / CASES).rglob("*.*") if path.is_file()]
    decoded = sum(volume.nbytes for volume in held)
    row("size", f"{npz / 1e6:.1f} MB npz, {sum(sizes) / 1e6:.1f} MB store, {decoded / 1e6:.0f} MB decoded")
    for finer in (0.0, 1.0):
        config = replace(DEFAULT, batch=1, finer_batch=1, sampling=replace(DEFAULT.sampling, finer_look=finer))
        kinds = {"memory": Steps(held, config, seed=0), "store": Steps(stored, config, seed=0)}
        spent: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(options.samples):
            for name, steps in kinds.items():
                spent[name].append(thread_seconds(lambda steps=steps, number=number: steps[number]))
        edge = DEFAULT.model.patch[0] * (DEFAULT.model.finer if finer else 1)
        for name, seconds in spent.items():
            mean = statistics.mean(seconds)
            row(f"sample at {edge}³, {name}", f"{1e3 * mean:.1f} ms of a core, {1 / mean:.1f} samples/s")


def large_image(options: argparse.Namespace, folder: Path) -> None:
    """Windows over all of a large image, and over an eighth of each of its axes."""
    source = max(options.data.glob("CT_*.npz"), key=lambda path: path.stat().st_size)
    data = folder / "large"
    data.mkdir()
    arrays: dict[str, Any] = {key: repeated(read_array(source, key)) for key in ("imgs", "gts")}
    np.savez_compressed(data / source.name, **arrays)
    build(folder / "large_store", find_cases(data), 1)
    stored, held = opened(folder / "large_store", find_cases(data))[0][0], load_volumes(data)[0]
    fine, coarse = voxel([192] * 3), voxel([48] * 3)
    windows = {
        "all of it": Window((0, 0, 0), LARGE, fine),
        "192³": Window((50, 150, 150), fine, fine),
        "48³": Window((50, 150, 150), coarse, coarse),
    }
    for name, window in windows.items():
        for kind, volume in (("memory", held), ("store", stored)):

            def look(volume: Volume = volume, window: Window = window) -> None:
                volume.crop(window)
                volume.crop_labels(window, lambda part: (part == 1).float())

            best = min(thread_seconds(look) for _ in range(3))
            row(f"{'×'.join(map(str, LARGE))}, {name}, {kind}", f"{1e3 * best:.1f} ms")


def repeated(array: np.ndarray) -> np.ndarray:
    times = [math.ceil(wanted / n) for wanted, n in zip(LARGE, array.shape)]
    return np.tile(array, times)[tuple(map(slice, LARGE))]


def large_store(options: argparse.Namespace, folder: Path) -> None:
    """A store of many cases, and what a loader takes of it."""
    paths = find_cases(options.data)
    once, store = folder / "once", folder / "many"
    build(once, paths)
    with measured("copied"):
        entries = copied(once, store, options.copies)
    volumes = StoredVolumes(store, entries)
    decoded = sum(volume.nbytes for volume in volumes)
    row("large store", f"{len(entries)} cases, {decoded / 1e9:.1f} GB decoded")
    for few in (True, False):
        for workers in WORKERS:
            command = [sys.executable, "-m", "benchmarks.data_store", "--data", str(options.data)]
            command += ["--scratch", str(options.scratch), "--loader", str(once if few else store)]
            peak = most_memory([*command, "--workers", str(workers)])
            cases = len(paths) if few else len(entries)
            row(f"loader of {cases} cases, {workers} worker(s)", f"{peak / 2**20:.0f} MiB")


def copied(once: Path, store: Path, copies: int) -> list[bytes]:
    """Makes a store of copies of each case; returns its index."""
    entries = []
    for line in read_index(once).values():
        entry = json.loads(line)
        for copy in range(copies):
            key = f"{entry['key']}-{copy}"
            folder = store / CASES / key
            folder.mkdir(parents=True)
            for name in ("image.b2nd", "labels.b2nd"):
                shutil.copyfile(once / CASES / entry["key"] / name, folder / name)
            content = json.dumps(entry | {"key": key, "name": f"{entry['name']}_{copy}"}).encode()
            (folder / SIDECAR).write_bytes(content)
            entries.append(content)
    write_index(store, entries)
    return entries


def load(store: Path, workers: int) -> None:
    """What a run's loader does until each worker has made 80 samples, of more cases than it keeps at hand."""
    began = time.process_time()
    volumes = StoredVolumes(store, read_index(store).values())
    steps = Steps(volumes, replace(DEFAULT, batch=2), seed=0)
    print(f"{time.process_time() - began:.2f} s to start", flush=True)
    torch.set_num_threads(1)
    for _ in stream(steps, 0, 40 * workers, workers, torch.device("cpu")):
        pass


def most_memory(command: Sequence[str]) -> int:
    """The most bytes that a command and its processes take together."""
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(proportional_set_size, tree(process.pid))))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return most


def tree(process: int) -> Iterator[int]:
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from tree(int(child))


def proportional_set_size(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # It has ended.
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


@contextmanager
def measured(name: str) -> Generator[None, None, None]:
    """Prints the wall's and the processors' seconds, those of child processes too."""
    wall, before = time.perf_counter(), processor_seconds()
    yield
    row(name, f"{time.perf_counter() - wall:.2f} s, {processor_seconds() - before:.2f} s of a core")


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def thread_seconds(action: Callable[[], object]) -> float:
    torch.set_num_threads(1)
    began = time.thread_time()
    action()
    return time.thread_time() - began


def row(name: str, text: str) -> None:
    print(f"{name:<50} {text}", flush=True)


if __name__ == "__main__":
    main()
