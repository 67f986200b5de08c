"""``python -m training.store``: a data set made a store, which training reads where its windows look.

Each case is checked, measured and stored once, by as many processes as there are cores. A run that is killed goes on
where it was; a case whose file has another size or time of change is stored anew. A start from a store decodes nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

from tqdm import tqdm

from inference.atomic import remove_unfinished
from inference.command import INTERRUPTED, Parser, run
from inference.memory import available_memory
from inference.npz import NpzError
from training.dataset import Volume, find_cases, load_volume, load_volumes, report
from training.lock import FolderInUseError, held
from training.stored import (
    CASES,
    StoredVolumes,
    StoreError,
    key_of,
    library,
    read_index,
    remove_unfinished_cases,
    unlisted,
    write_case,
    write_index,
)

HELD_IN_MEMORY = 0.5
"""Share of the free memory that a data set may take, decoded, in all processes of a machine."""

POLL = 1.0
"""Seconds between two looks at what another process builds."""


def build(store: Path, paths: Sequence[Path], processes: int | None = None) -> None:
    """Brings a store up to date; where it is so already, nothing is written.

    Another process that builds in it is waited for.

    Args:
        store: its folder, made where it is not there.
        paths: case files, of names that differ.
        processes: that decode and compress, each with a case in memory; as many as there are cores by default.

    Raises:
        StoreError: the folder holds something else, or a process was killed.
    """
    library()
    if not outstanding(store, paths):
        return
    (store / CASES).mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        try:
            with held(store):
                remove_unfinished(store)
                remove_unfinished_cases(store)
                return _build(store, paths, processes or len(os.sched_getaffinity(0)))
        except FolderInUseError:
            if not said:
                print(f"{store}: waits for another process that builds in it", flush=True)
            said = True
            time.sleep(POLL)


def outstanding(store: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Returns key -> file of the cases that a store's index does not have as the files are."""
    known = read_index(store)
    return {key: path for path in paths if (key := key_of(path)) not in known}


def wait_for(store: Path, paths: Sequence[Path]) -> None:
    """Waits until another process, here or on another machine, has brought a store up to date."""
    said = time.monotonic()
    while outstanding(store, paths):
        time.sleep(POLL)
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"{store}: waits for rank 0, which builds it; all machines must see this folder", flush=True)


def opened(store: Path, paths: Sequence[Path]) -> tuple[StoredVolumes, list[str]]:
    """Returns the cases in the order of their files, and what is wrong with those that cannot be used.

    Raises:
        StoreError: the store is not up to date.
    """
    known, usable, broken = read_index(store), [], []
    for path in paths:
        if (line := known.get(key_of(path))) is None:
            raise StoreError(f"{store}: {path.name} is not in it as it is now; python -m training.store builds it")
        message = json.loads(line).get("broken")
        usable.append(line) if message is None else broken.append(message)
    return StoredVolumes(store, usable), broken


def decoded_bytes(paths: Sequence[Path]) -> int:
    """Returns the bytes of images and labels as the archives' directories state them; nothing is decoded."""
    total = 0
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                members = {member.filename: member.file_size for member in archive.infolist()}
        except (OSError, zipfile.BadZipFile):
            continue  # It is named where it is read.
        total += members.get("imgs.npy", 0) + members.get("gts.npy", 0)
    return total


def fits_in_memory(paths: Sequence[Path], processes: int = 1) -> bool:
    """Returns whether that many processes may each hold the cases decoded."""
    return processes * decoded_bytes(paths) <= HELD_IN_MEMORY * available_memory()


def volumes_of(
    folders: Sequence[Path],
    exclude: Sequence[str] = (),
    at_most: int | None = None,
    store: Path | None = None,
    builds: bool = True,
) -> Sequence[Volume]:
    """Returns cases in memory, or from a store that is brought up to date first.

    Args:
        folders, exclude, at_most: as in :func:`training.dataset.find_cases`.
        store: its folder; None for memory.
        builds: False where another process does, which is waited for.

    Raises:
        FileNotFoundError: no usable case in the folders.
        StoreError: the store cannot be used.
    """
    if store is None:
        return load_volumes(folders, exclude, at_most)
    paths = find_cases(folders, exclude, at_most)
    if builds:
        build(store, paths)
    else:
        wait_for(store, paths)
    volumes, broken = opened(store, paths)
    report(folders, len(paths), volumes, broken)
    return volumes


def _build(store: Path, paths: Sequence[Path], processes: int) -> None:
    known = read_index(store)
    missing = outstanding(store, paths)
    found = unlisted(store, missing)
    missing = {key: path for key, path in missing.items() if key not in found}
    # Forked, as the loader's processes are: each import of torch would take seconds.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(processes, max(len(missing), 1)), context, initializer=_worker) as pool:
        try:
            jobs = {pool.submit(_store, store, key, path): key for key, path in missing.items()}
            for job in tqdm(
                as_completed(jobs),
                total=len(jobs),
                desc=f"storing in {store}",
                unit="case",
                disable=not jobs,
                mininterval=0.1 if sys.stderr.isatty() else 30,
            ):
                found[jobs[job]] = job.result()
        except BrokenProcessPool:
            raise StoreError(
                f"{store}: a process that stores cases was killed, for want of memory perhaps; give the command again, "
                "it goes on: python -m training.store with --workers 1 takes the least memory"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    names = {json.loads(line)["name"] for line in found.values()}
    superseded = [key for key, line in known.items() if json.loads(line)["name"] in names]
    kept = {key: line for key, line in known.items() if key not in superseded}
    entries = kept | found
    write_index(store, [entries[key] for key in sorted(entries)])
    for key in superseded:
        shutil.rmtree(store / CASES / key, ignore_errors=True)


def _store(store: Path, key: str, path: Path) -> bytes:
    """Stores a case; returns its line of the index, with what is wrong if it is broken."""
    try:
        entry = write_case(store, key, load_volume(path))
    except NpzError as error:
        entry = {"key": key, "name": path.stem, "broken": str(error)}
    return json.dumps(entry).encode()


def _worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it: one that is killed cannot tell its processes to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    if parent is not None:
        threading.Thread(target=follow, args=(parent.sentinel,), daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Makes cases a store that training reads in parts. Goes on where it stopped."""
    parser = Parser("python -m training.store", main.__doc__, "DATA --out STORE")
    parser.add_argument("data", type=Path, nargs="+", help="folders of *.npz with imgs and gts")
    parser.add_argument("--out", type=Path, required=True, help="the store's folder")
    parser.add_argument("--workers", type=int, help="processes, each with a case in memory (default: the cores)")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers {options.workers}: expected at least 1")
    return run(lambda: _stored(options), StoreError)


def _stored(options: argparse.Namespace) -> int:
    """Returns 0, or 1 if a file was broken."""
    try:
        paths = find_cases(options.data)
        build(options.out, paths, options.workers)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    volumes, broken = opened(options.out, paths)
    report(options.data, len(paths), volumes, broken)
    sizes = [json.loads(line) for line in read_index(options.out).values()]
    stored = sum(each.get("bytes", 0) for each in sizes)
    decoded = sum(volume.nbytes for volume in volumes)
    print(f"{options.out}: {stored / 1e6:.0f} MB for {decoded / 1e6:.0f} MB decoded")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
