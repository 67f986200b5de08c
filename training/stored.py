"""A store's format: one folder a case with its voxels in compressed chunks and its measurements, and an index of all.

What is read decodes only the chunks that a window touches. Nothing is written here to a case that is there already, so
that any number of processes, on any number of machines, may read without a lock.

``cases/KEY/`` holds ``image.b2nd`` and ``labels.b2nd`` (Blosc2 arrays) and ``case.json``; ``index.jsonl`` is the
``case.json`` of all of them, a line each, after a line with format and version. docs/reference/formats.md has the keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from inference.atomic import SUFFIX, replacing
from inference.case import CaseError
from inference.geometry import Box, Voxel, voxel
from inference.normalization import NormalizedImage
from training.dataset import Volume, modality_of, source_of

HEADER = {"format": "segfm3d-store", "version": 1}

CHUNK, BLOCK = 64, 32
"""Edges in voxels: of what is read from the disk at once, and of what is decoded at once; longer in a thin volume."""

SMALL = 2**23
"""Bytes of an array that is decoded whole at its first read, and kept while its case is at hand."""

OPEN = 64
"""Cases that a process keeps at hand, at most."""

KEPT = 2**26
"""Bytes of whole arrays that a process keeps at hand, at most, those of the case that it reads aside."""

CASES, INDEX, SIDECAR = "cases", "index.jsonl", "case.json"

Entry = dict[str, Any]


class StoreError(Exception):
    """A store that cannot be used. Its text is one line that says what to do."""


def library() -> ModuleType:
    """Returns ``blosc2``, which only a store needs, on one thread: processes share the cores, and threads no fork."""
    try:
        import blosc2
    except ModuleNotFoundError:
        raise StoreError("a store needs the package blosc2: pip install --requirement requirements-dev.txt") from None
    blosc2.set_nthreads(1)
    return blosc2


def key_of(path: Path) -> str:
    """Returns what a case file is known by: its name, size and time of change, to the nanosecond.

    Raises:
        OSError: the file is gone.
    """
    status = path.stat()
    content = json.dumps([path.stem, status.st_size, status.st_mtime_ns, HEADER["version"]])
    return f"{path.stem[:40]}-{hashlib.blake2b(content.encode(), digest_size=8).hexdigest()}"


def write_case(store: Path, key: str, volume: Volume) -> Entry:
    """Writes a case's folder, which appears whole or not at all, and returns what the index says of it."""
    blosc2 = library()
    unfinished = Path(tempfile.mkdtemp(SUFFIX, ".", store / CASES))
    try:
        entry = _entry(key, volume)
        for name, voxels in (("image", volume.image.volume), ("labels", volume.labels)):
            chunks = part_of(voxels.shape, CHUNK)
            blosc2.asarray(
                voxels[Box.of(voxels.shape).slices].numpy(),
                chunks=chunks,
                blocks=part_of(chunks, BLOCK),
                urlpath=str(unfinished / f"{name}.b2nd"),
                # Level 9 of the format's fastest codec: reading counts, and Zstandard takes two to four times as long.
                cparams={"codec": blosc2.Codec.LZ4, "clevel": 9, "nthreads": 1},
            )
        entry["bytes"] = sum(path.stat().st_size for path in unfinished.iterdir())
        (unfinished / SIDECAR).write_text(json.dumps(entry))
        for path in unfinished.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o644)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(store / CASES / key)
        except OSError:  # Another process was first where no lock holds: the content is the same.
            if not (store / CASES / key / SIDECAR).exists():
                raise
        return entry
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def part_of(shape: Sequence[int], edge: int) -> Voxel:
    """Returns a part of a volume that holds about as many voxels as a cube of that edge, be the volume thin."""
    part = [min(edge, n) for n in shape]
    while math.prod(part) < edge**3 and part != list(shape):
        axis = min((axis for axis in range(3) if part[axis] < shape[axis]), key=lambda axis: part[axis])
        part[axis] = min(2 * part[axis], shape[axis])
    return voxel(part)


def remove_unfinished_cases(store: Path) -> None:
    """Removes what killed builders may have left."""
    for path in (store / CASES).glob(f".*{SUFFIX}"):
        doomed = path.with_name(path.name.removesuffix(SUFFIX) + f"-removed{SUFFIX}")
        # Renamed first: a worker that outlived its killed builder by a moment must not finish what is half removed.
        with suppress(FileNotFoundError):
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _entry(key: str, volume: Volume) -> Entry:
    image = volume.image
    return {
        "key": key,
        "name": volume.name,
        "shape": volume.shape,
        "image": {
            "dtype": str(image.volume.dtype).removeprefix("torch."),
            "support": None if image.support is None else [image.support.lower, image.support.upper],
            "scale": image.scale,
            "offset": image.offset,
        },
        "labels": {"dtype": str(volume.labels.dtype).removeprefix("torch."), "largest": volume.largest_label},
        "objects": [
            {
                "label": label,
                "extent": [box.lower, box.upper],
                "likeness": volume.likeness[label],
                "slices": volume.slices[label],
                "box": volume.boxes[label],
            }
            for label, box in volume.objects.items()
        ],
    }


def _volume(store: Path, entry: Entry) -> Volume:
    name, shape, image, labels, objects = (entry[key] for key in ("name", "shape", "image", "labels", "objects"))
    folder = store / CASES / entry["key"]
    support = None if image["support"] is None else _box(image["support"])
    pixels = StoredArray(folder / "image.b2nd", shape, image["dtype"])
    return Volume(
        name,
        modality_of(name),
        source_of(Path(f"{name}.npz")),
        NormalizedImage(pixels, support, image["scale"], image["offset"]),  # ty: ignore[invalid-argument-type]  # Read in parts.
        StoredArray(folder / "labels.b2nd", shape, labels["dtype"]),
        {each["label"]: _box(each["extent"]) for each in objects},
        {each["label"]: tuple(each["likeness"]) for each in objects},
        {each["label"]: [tuple(run) for run in each["slices"]] for each in objects},
        {each["label"]: each["box"] for each in objects},
        labels["largest"],
    )


def _box(corners: list[list[int]]) -> Box:
    return Box(voxel(corners[0]), voxel(corners[1]))


class StoredArray:
    """An array (D, H, W) on disk, opened when something of it is read; see :class:`training.dataset.Voxels`."""

    device = torch.device("cpu")

    def __init__(self, path: Path, shape: Sequence[int], dtype: str) -> None:
        self.path = path
        self.shape: Voxel = voxel(shape)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._array: Any = None
        self._whole: Tensor | None = None

    @property
    def kept(self) -> int:
        """Bytes that are kept decoded."""
        return 0 if self._whole is None else self._whole.nbytes

    def __getitem__(self, where: tuple[slice, slice, slice]) -> Tensor:
        """Decodes the chunks that a block touches.

        Raises:
            CaseError: they are gone or damaged.
        """
        bounds = [each.indices(n) for each, n in zip(where, self.shape)]
        size = tuple(max(stop - start, 0) for start, stop, _ in bounds)
        if 0 in size:
            return torch.empty(size, dtype=self.dtype)
        if self._whole is not None:
            return self._whole[where]
        try:
            if self._array is None:
                self._array = library().open(str(self.path), mode="r", dparams={"nthreads": 1})
            is_small = math.prod(self.shape) * self.dtype.itemsize <= SMALL
            values = torch.from_numpy(self._array[(slice(None),) * 3 if is_small else where])
        except (OSError, RuntimeError, ValueError) as error:
            raise CaseError(
                f"{self.path}: cannot be read ({error}); if the store was not changed meanwhile, remove its folder and "
                f"the store's {INDEX}, and give the command again"
            ) from error
        if not is_small:
            return values
        self._whole = values
        return values[where]


class StoredVolumes(Sequence[Volume]):
    """The cases of a store that belong to a data set; each becomes a :class:`Volume` when it is asked for.

    Args:
        store: its folder.
        entries: of the index, as they are there: one string a case takes less memory than what it says, and processes
            share it.
    """

    def __init__(self, store: Path, entries: Iterable[bytes]) -> None:
        self.store, self._entries = store, list(entries)
        self._at_hand: OrderedDict[int, Volume] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Volume:  # ty: ignore[incompatible-method-override]  # No slices.
        if (volume := self._at_hand.get(index)) is None:
            while len(self._at_hand) >= OPEN or self._kept() > KEPT:
                self._at_hand.popitem(last=False)
            volume = self._at_hand[index] = _volume(self.store, json.loads(self._entries[index]))
        self._at_hand.move_to_end(index)
        return volume

    def _kept(self) -> int:
        arrays = (array for volume in self._at_hand.values() for array in (volume.image.volume, volume.labels))
        return sum(array.kept for array in arrays)  # ty: ignore[missing-attribute]  # All are StoredArray.


def read_index(store: Path) -> dict[str, bytes]:
    """Returns key -> entry, as they are in a store's index; nothing where there is none.

    Raises:
        StoreError: it is of another version, or no index.
    """
    try:
        header, *lines = (store / INDEX).read_bytes().splitlines()
        if json.loads(header) != HEADER:
            raise StoreError(
                f"{store / INDEX}: {header[:80].decode()}; expected version {HEADER['version']}: give another folder"
            )
        return {json.loads(line)["key"]: line for line in lines}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{store / INDEX}: not a store's index ({error}); remove it: it is made anew") from error


def write_index(store: Path, entries: Iterable[bytes]) -> None:
    """Writes a store's index, whole or not at all."""
    with replacing(store / INDEX) as unfinished:
        unfinished.write_bytes(b"\n".join([json.dumps(HEADER).encode(), *entries, b""]))


def unlisted(store: Path, keys: Iterable[str]) -> dict[str, bytes]:
    """Returns key -> entry of those cases that lie in a store whole."""
    found = {}
    for key in keys:
        sidecar = store / CASES / key / SIDECAR
        if sidecar.exists():
            found[key] = sidecar.read_bytes()
    return found
