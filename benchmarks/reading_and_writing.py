"""`python -m benchmarks.reading_and_writing [--case CASE.npz]`: a large case read, its label map written.

The image and the label map are those of a real case, repeated until they fill the volume, or ellipsoids. Writing is
compared with numpy's own: of uint8, of int64 (as an argmax gives it), and without compression.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing import in_turns, seconds_in_turns, timed
from benchmarks.volumes import ellipsoids, grey_values, repeated, write_objects
from inference.case import read_case, write_segmentation
from inference.command import Parser, run

OBJECTS = 20


def main() -> None:
    parser = Parser("python -m benchmarks.reading_and_writing", __doc__.split("\n")[0])
    parser.add_argument("--case", type=Path, help="a labelled case (imgs, gts); ellipsoids without it")
    parser.add_argument("--shape", type=int, nargs=3, default=(400, 512, 512), metavar=("D", "H", "W"))
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    shape = tuple(options.shape)
    if options.case is None:
        labels = ellipsoids(shape, OBJECTS)
        image = grey_values(labels)
    else:
        labels, image = repeated(options.case, "gts", shape), repeated(options.case, "imgs", shape)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "output.npz"
        case = write_objects(folder / "case.npz", image, labels)
        del image
        writers: dict[str, Callable[[], None]] = {
            "ours": lambda: write_segmentation(path, labels),
            "savez_compressed, uint8": lambda: np.savez_compressed(path, segs=labels),
            "savez_compressed, int64": lambda: np.savez_compressed(path, segs=labels.astype(np.int64)),
            "savez, uint8": lambda: np.savez(path, segs=labels),
        }

        def there_and_back(write: Callable[[], None]) -> tuple[float, float, int]:
            """Seconds to write the label map, seconds to load it, and its bytes."""
            writing, _ = timed(write)
            loading, content = timed(lambda: _load(path, "segs"))
            np.testing.assert_array_equal(content, labels)
            return writing, loading, path.stat().st_size

        ways = in_turns({way: partial(there_and_back, write) for way, write in writers.items()}, options.runs)
        reading = seconds_in_turns(
            {"ours": lambda: read_case(case), "numpy": lambda: _load(case, "imgs")}, options.runs
        )
        packed = case.stat().st_size
    source = "ellipsoids" if options.case is None else f"{options.case.name} repeated"
    print(f"{'×'.join(map(str, shape))} voxels ({labels.size / 1e6:.0f} million), {source}, {labels.max()} objects,")
    print(f"{np.count_nonzero(labels) / labels.size:.0%} of it; medians of {options.runs} runs, file cache warm")
    print(f"{'label map':<26}{'written':>10}{'79 M voxels':>14}{'np.load':>10}{'MB':>8}")
    for way, rounds in ways.items():
        writing, loading, size = map(statistics.median, zip(*rounds))
        print(f"{way:<26}{writing:8.2f} s{writing * 79e6 / labels.size:12.2f} s{loading:8.2f} s{size / 1e6:8.1f}")
    print(f"case of {packed / 1e6:.0f} MB read: {reading['ours'].median:.2f} s, checked and with its prompts;")
    print(f"its image alone by numpy: {reading['numpy'].median:.2f} s")


def _load(path: Path, key: str) -> np.ndarray:
    with np.load(path) as content:
        return content[key]


if __name__ == "__main__":
    sys.exit(run(main))
