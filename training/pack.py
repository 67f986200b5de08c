"""``python -m training.pack``: a data set made small enough to carry to another machine, in one part or in several.

Volumes are cropped to their objects and the surroundings that windows can reach, and compressed hard. Sources take
turns and each case goes to the first part that has room for it, so that the first part alone holds something of each
source. Each part is a folder of cases that can be trained on by itself; label maps without images lie in its
``shapes``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects
from tqdm import tqdm

from inference.atomic import remove_unfinished, replacing
from inference.case import CaseError
from inference.command import Parser, run
from inference.normalization import NormalizedImage
from inference.npz import NpzError, read_array
from training.dataset import IMAGE, LABELS, NORMALIZATION, by_source, source_of

SHAPES = "shapes"
"""The folder of a part that holds its label maps without images."""


@dataclass(frozen=True)
class Item:
    """A file to pack.

    Args:
        path: where it is.
        name: relative to the part that it will lie in.
        keys: its arrays that are packed; the last one is the label map.
    """

    path: Path
    name: str
    keys: tuple[str, ...]

    @property
    def source(self) -> str:
        return str(Path(self.name).with_name(source_of(self.path)))


@dataclass
class Packed:
    """What became of the files: how many lie in the parts, how many were broken, how many no part had room for."""

    files: int = 0
    broken: int = 0
    left_out: int = 0


def around_objects(labels: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    """The part of a label map, (D, H, W), within ``margin`` voxels of any object; None if there is no object."""
    found = find_objects((labels > 0).astype(np.uint8))
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in found[0]) if found else None


def in_turns(items: list[Item]) -> list[Item]:
    """The smallest file of each source, then the first other one of each, the second of each, …"""
    groups = by_source(items, lambda item: item.source).values()
    for group in groups:
        smallest = min(group, key=lambda item: item.path.stat().st_size)
        group.insert(0, group.pop(group.index(smallest)))
    return [item for row in itertools.zip_longest(*groups) for item in row if item is not None]


def compressed(item: Item, margin: int) -> bytes:
    """A case file with the item's arrays, cropped, and how the whole image is normalized.

    Raises:
        NpzError: the file cannot be read, its arrays differ in shape, or there is no object.
    """
    arrays = {key: read_array(item.path, key) for key in item.keys}
    shapes = {array.shape for array in arrays.values()}
    labels = arrays[item.keys[-1]]
    if len(shapes) > 1 or labels.ndim != 3 or labels.dtype.kind not in "ui":
        found = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in arrays.items())
        raise CaseError(f"{item.path.name}: {found}; expected volumes of one shape, integer labels")
    where = around_objects(labels, margin)
    if where is None:
        raise CaseError(f"{item.path.name}: gts holds no object; expected labels above 0")
    packed = {key: array[where] for key, array in arrays.items()}
    if IMAGE in arrays:  # What is cut off counts when the image is normalized at inference.
        whole = NormalizedImage.of(arrays[IMAGE])
        packed[NORMALIZATION] = np.array([whole.scale, whole.offset])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        for key, array in packed.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()


class Parts:
    """The folders ``part1``, ``part2``, … and what of their limits is taken.

    Args:
        out: where they are, or will be.
        limits: bytes of each.
    """

    def __init__(self, out: Path, limits: list[int]) -> None:
        self.folders = [out / f"part{number}" for number in range(1, len(limits) + 1)]
        self.limits = limits
        self.taken = [0] * len(limits)
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder)
            remove_unfinished(folder / SHAPES)
        self.before = {
            str(path.relative_to(part)): path for part in sorted(out.glob("part*")) for path in part.rglob("*.npz")
        }

    def place(self, name: str, content: bytes | None) -> bool:
        """Puts a file where there is room; a file of an earlier run, if ``content`` is None, moves there.

        Returns:
            whether there was room; an earlier run's file that has none goes.
        """
        size = self.before[name].stat().st_size if content is None else len(content)
        for index, (folder, limit) in enumerate(zip(self.folders, self.limits)):
            if self.taken[index] + size <= limit:
                self.taken[index] += size
                (folder / name).parent.mkdir(exist_ok=True)
                if content is None:
                    self.before[name].replace(folder / name)
                else:
                    with replacing(folder / name) as unfinished:
                        unfinished.write_bytes(content)
                return True
        if content is None:
            self.before[name].unlink()
        return False


def pack(data: Path, out: Path, limits: list[int], margin: int, shapes: Path | None = None) -> Packed:
    """Writes as much of a data set as fits to ``out/part1``, ``out/part2``, …

    A broken file is named on stderr and left out. What an earlier run with the same margin has packed is not packed
    again, so that a run can be interrupted and goes on; where it ends is the same.

    Args:
        data: folder of cases with ``imgs`` and ``gts``.
        limits: bytes of each part.
        margin: voxels kept around the objects.
        shapes: folder of label maps, files with ``gts``.

    Raises:
        FileNotFoundError: no file in ``data`` or ``shapes``.
        FileExistsError: ``out`` holds files of another data set.
    """
    items = list(_items(data, "", (IMAGE, LABELS)))
    if shapes is not None:
        items += _items(shapes, SHAPES, ("gts",))
    items = in_turns(items)
    parts = Parts(out, limits)
    strangers = parts.before.keys() - {item.name for item in items}
    if strangers:
        raise FileExistsError(
            f"{parts.before[min(strangers)]} and {len(strangers) - 1} more are not of {data}; give an empty folder "
            "with --out"
        )
    result = Packed()

    def content(item: Item) -> bytes | NpzError | None:
        try:
            return None if item.name in parts.before else compressed(item, margin)
        except NpzError as error:
            return error

    # Compression leaves the interpreter to other threads.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for item, found in tqdm(
                zip(items, pool.map(content, items)),
                desc="packing",
                unit="file",
                total=len(items),
                mininterval=0.1 if sys.stderr.isatty() else 30,
            ):
                if isinstance(found, NpzError):
                    result.broken += 1
                    tqdm.write(f"skipped: {found}", file=sys.stderr)
                elif parts.place(item.name, found):
                    result.files += 1
                else:
                    result.left_out += 1
        finally:
            pool.shutdown(cancel_futures=True)
    for number, folder in enumerate(parts.folders):
        cases, maps = (len(list(each.glob("*.npz"))) for each in (folder, folder / SHAPES))
        megabytes = f"{parts.taken[number] / 1e6:.1f} of {limits[number] / 1e6:g} MB"
        print(f"{folder}: {cases} cases, {maps} label maps, {megabytes}")
    return result


def _items(folder: Path, under: str, keys: tuple[str, ...]) -> Iterator[Item]:
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no *.npz in it; expected files with {' and '.join(keys)}")
    return (Item(path, str(Path(under, path.name)), keys) for path in paths)


def _limits(text: str) -> list[int]:
    """``36,44`` -> bytes of each part.

    Raises:
        argparse.ArgumentTypeError: no numbers above 0.
    """
    try:
        limits = [int(float(number) * 1e6) for number in text.split(",")]
    except (ValueError, OverflowError):
        limits = [0]
    if min(limits) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers above 0 with commas between them, as 36,44,44")
    return limits


def main(arguments: list[str] | None = None) -> int:
    """Packs; returns 0, 1 if a file was broken, 2 if there is nothing to be packed."""
    parser = Parser(
        "python -m training.pack", __doc__.split(": ")[1].split("\n")[0], "--data DATA --out packed --parts 36,44"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--shapes", type=Path, help="folder of label maps without images, *.npz with gts")
    parser.add_argument("--out", type=Path, required=True, help="folder for part1, part2, …")
    parser.add_argument(
        "--parts", type=_limits, default="60", metavar="MB,MB,…", help="limit of each part's files (10⁶ bytes)"
    )
    parser.add_argument("--margin", type=int, default=40, help="voxels kept around the objects")
    options = parser.parse_args(arguments)
    return run(lambda: _pack(options))


def _pack(options: argparse.Namespace) -> int:
    result = pack(options.data, options.out, options.parts, options.margin, options.shapes)
    left = f"{result.left_out} found no room, {result.broken} broken ones skipped"
    print(f"{options.out}: {result.files} files packed, {left}")
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
