"""``python -m training.pack``: a data set made small enough to carry to another machine.

Volumes are cropped to their objects and the surroundings that windows can reach, and compressed hard. Sources take
turns until the limit is reached, so that a small pack still holds something of each.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects
from tqdm import tqdm

from inference.atomic import replacing
from inference.case import CaseError, read_array
from training.dataset import by_source, source_of


def cropped(image: np.ndarray, labels: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of an image and its label map, (D, H, W), within ``margin`` voxels of any object.

    Raises:
        CaseError: there is no object.
    """
    found = find_objects((labels > 0).astype(np.uint8))
    if not found:
        raise CaseError("gts holds no object")
    where = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in found[0])
    return image[where], labels[where]


def in_turns(paths: list[Path]) -> Iterator[Path]:
    """The first file of each source, then the second of each, …"""
    for row in itertools.zip_longest(*by_source(paths, source_of).values()):
        yield from (path for path in row if path is not None)


def pack(data: Path, out: Path, megabytes: float, margin: int) -> int:
    """Writes as many cases of ``data`` to ``out`` as fit into the limit, and returns how many.

    A broken file is named on stderr and left out. What lies in ``out`` already counts, and is not written again.

    Raises:
        FileNotFoundError: no case in ``data``.
    """
    paths = list(in_turns(sorted(data.glob("*.npz"))))
    if not paths:
        raise FileNotFoundError(f"{data}: no *.npz in it; expected labelled cases")
    out.mkdir(parents=True, exist_ok=True)
    total, packed = 0, 0
    for path in tqdm(paths, unit="case", disable=None):
        target = out / path.name
        if not target.exists():
            try:
                image, labels = cropped(read_array(path, "imgs"), read_array(path, "gts"), margin)
            except CaseError as error:
                print(f"skipped: {path.name}: {error}", file=sys.stderr)
                continue
            _write(target, image, labels)
        size = target.stat().st_size
        if total + size > megabytes * 1e6:
            target.unlink()
            break
        total += size
        packed += 1
    print(f"{out}: {packed} of {len(paths)} cases, {total / 1e6:.1f} MB")
    return packed


def _write(path: Path, image: np.ndarray, labels: np.ndarray) -> None:
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in (("imgs", image), ("gts", labels)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.pack", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of *.npz with imgs and gts")
    parser.add_argument("--out", type=Path, required=True, help="folder for the small data set")
    parser.add_argument("--megabytes", type=float, default=60, help="limit of all files together (10⁶ bytes)")
    parser.add_argument("--margin", type=int, default=40, help="voxels kept around the objects")
    options = parser.parse_args(arguments)
    try:
        pack(options.data, options.out, options.megabytes, options.margin)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
