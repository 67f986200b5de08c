"""Kills runs at random moments and looks at what lies in the output folder.

``python -m tests.robustness.campaigns.kills`` kills 200. Each output must be the older file, byte by byte, or a whole
new one; nothing else may look like an output, and a later run must tidy up.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from inference import __main__ as command
from inference.__main__ import LONGEST_WRITE
from inference.atomic import SUFFIX
from inference.command import Parser, run
from inference.geometry import Box
from tests.inference.factories import read_output, volume, write_case, write_weights

SHAPE = (64, 128, 128)
CASES = 4


class Victim:
    """A run of the command over a few cases, in a process that is forked off and can be killed.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.inputs, self.outputs = folder / "inputs", folder / "outputs"
        self.inputs.mkdir()
        self.outputs.mkdir()
        weights = write_weights(folder / "weights.pt")
        for index in range(CASES):
            write_case(self.inputs / f"{index}.npz", volume(SHAPE), [Box((4, 8, 8), (50, 99, 99))] * 2)
        folders = ["--inputs", str(self.inputs), "--outputs", str(self.outputs)]
        self.arguments = [*folders, "--weights", str(weights), "--device", "cpu", "--seconds-per-class", "1e6"]
        np.savez_compressed(folder / "older.npz", segs=np.zeros(SHAPE, np.uint8))
        self.older = (folder / "older.npz").read_bytes()

    def start(self) -> int:
        """Forks a run off, which spares it the seconds of its imports; returns its process's number."""
        child = os.fork()
        if child:
            return child
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        torch.set_num_threads(1)
        os._exit(command.main(self.arguments))

    def put_older_outputs(self) -> None:
        for path in self.outputs.iterdir():
            path.unlink()
        for index in range(CASES):
            (self.outputs / f"{index}.npz").write_bytes(self.older)

    def age_unfinished(self) -> None:
        """Dates what killed runs left back: a run removes only what no other run can still be writing."""
        then = time.time() - LONGEST_WRITE
        for path in self.outputs.glob(f".*{SUFFIX}"):
            os.utime(path, (then, then))

    def look(self, expected: list[np.ndarray] | None = None) -> Counter[str]:
        """Counts older, new and unfinished files.

        Args:
            expected: what a new output of each case holds.

        Raises:
            AssertionError: a file is none of these.
        """
        found: Counter[str] = Counter()
        for path in self.outputs.iterdir():
            if path.name.endswith(SUFFIX) and path.name.startswith("."):
                found["unfinished"] += 1
            elif path.read_bytes() == self.older:
                found["older"] += 1
            else:
                labels = read_output(path)
                assert expected is None or np.array_equal(labels, expected[int(path.stem)]), f"{path.name} is damaged"
                found["new"] += 1
        assert found["older"] + found["new"] == CASES, f"an output is gone: {found}"
        return found


def main() -> int:
    """Runs the campaign; ends with an AssertionError at the first output that is neither."""
    parser = Parser("python -m tests.robustness.campaigns.kills", __doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    total: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        victim = Victim(Path(folder))
        victim.put_older_outputs()
        start = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(victim.start(), 0)[1]) == 0
        seconds = time.monotonic() - start
        assert victim.look()["new"] == CASES
        expected = [read_output(victim.outputs / f"{index}.npz") for index in range(CASES)]
        for _ in tqdm(range(options.kills)):
            victim.put_older_outputs()
            child = victim.start()
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            ended = os.WIFEXITED(os.waitpid(child, 0)[1])
            total += victim.look(expected)
            total["too late"] += ended
        victim.age_unfinished()
        os.waitpid(victim.start(), 0)
        assert victim.look(expected) == Counter(new=CASES), "the run after the last kill has not tidied up"
    print(
        f"{options.kills} runs of {seconds:.2f} s killed, {total['too late']} of them too late, in "
        f"{time.monotonic() - began:.0f} s: {total['older']} outputs older, {total['new']} whole and new, "
        f"{total['unfinished']} unfinished under a hidden name, none partial, none gone"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
