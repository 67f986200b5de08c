"""The image at its limits: a huge volume, 255 objects, 1,000 cases in one folder, and a machine that slows down.

``python -m tests.robustness.campaigns.limits large objects cases clock`` runs each in a container as the organizers do,
with ``-m 6G`` by default, and prints what it took: seconds, and the peak of the process's memory. It needs a Docker
engine on this machine, and the image. Each ends with an AssertionError if an output is missing or not valid, if the
kernel's out-of-memory killer was met, or if it was late.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from inference.command import Parser, run
from inference.geometry import Box, voxel
from tests.inference.factories import read_output, volume, write_case

SUMMARY = re.compile(r"^(\S+): .* object\(s\), .*: ([\d.]+) s of ([\d.]+) s$", re.MULTILINE)


@dataclass
class Container:
    """A run of the image over a folder, watched from outside.

    Args:
        image: the image's name, without its tag.
        folder: an empty folder; ``inputs`` and ``outputs`` are made in it.
        memory: for ``-m``.
    """

    image: str
    folder: Path
    memory: str
    samples: list[tuple[int, int]] = field(default_factory=list)
    """Outputs written so far, and the process's resident MiB at that moment."""
    peak: int = 0
    """MiB."""

    def __post_init__(self) -> None:
        self.inputs, self.outputs = self.folder / "inputs", self.folder / "outputs"
        for path in (self.inputs, self.outputs):
            path.mkdir()
            path.chmod(0o777)

    @property
    def name(self) -> str:
        return f"{self.image}-limits"

    def run(self, *options: str, at_first_output: Callable[[], object] = lambda: None) -> str:
        """Runs all inputs; returns what was printed, once it is certain that the killer was not met."""
        folders = [f"-v={path}:/workspace/{path.name}" for path in (self.inputs, self.outputs)]
        line = ["docker", "run", "--detach", "--network=none", f"-m={self.memory}", f"--name={self.name}", *folders]
        docker(*line[1:], *options, f"{self.image}:latest", "/bin/bash", "-c", "sh predict.sh")
        try:
            process = Path("/proc") / docker("inspect", "--format={{.State.Pid}}", self.name).strip() / "status"
            with tqdm(total=len(list(self.inputs.iterdir()))) as bar:
                while (status := memory_of(process)) is not None:
                    self.peak = max(self.peak, status["VmHWM"])
                    written = len(list(self.outputs.glob("[!.]*.npz")))
                    if written and not bar.n:
                        at_first_output()
                    if written > bar.n:
                        bar.update(written - bar.n)
                    self.samples.append((written, status["VmRSS"]))
                    time.sleep(0.2)
            code = docker("wait", self.name).strip()
            logs = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True, check=True)
            printed = logs.stdout + logs.stderr
            killed = docker("inspect", "--format={{.State.OOMKilled}}", self.name).strip()
        finally:
            docker("rm", "--force", self.name)
        assert killed == "false", "the kernel's out-of-memory killer was met"
        assert code == "0", printed
        return printed

    def check(self, shape: tuple[int, int, int], objects: int) -> None:
        """Each input has an output that is valid and not empty."""
        names = sorted(path.name for path in self.inputs.iterdir())
        assert sorted(path.name for path in self.outputs.iterdir()) == names
        for name in names:
            labels = read_output(self.outputs / name)
            assert labels.dtype == np.uint8
            assert labels.shape == shape
            assert 0 < labels.max() <= objects


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def memory_of(status: Path) -> dict[str, int] | None:
    """``VmRSS`` and ``VmHWM`` of a process in MiB; None once it has ended."""
    try:
        found = re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return {name: int(kib) // 1024 for name, kib in found} if len(found) == 2 else None


def boxes(shape: tuple[int, int, int], count: int, seed: int) -> list[Box]:
    """Boxes of all sizes, the first of them the whole image."""
    rng = np.random.default_rng(seed)
    corners = [np.sort(rng.integers(0, np.array(shape), (2, 3)), axis=0) for _ in range(count - 1)]
    whole = Box.of(shape)
    return [whole, *(Box(voxel(low), voxel(high)) for low, high in corners)]


def on_time(printed: str, name: str) -> str:
    """The seconds that a case took, as it says itself, held against its budget."""
    seconds, budget = next((float(s), float(b)) for case, s, b in SUMMARY.findall(printed) if case == name)
    assert seconds <= budget, f"{name}: {seconds} s of {budget} s"
    return f"{seconds:.1f} s of {budget:.0f} s"


def large(container: Container) -> str:
    """512×512×600 voxels in float64, 30 objects with boxes and clicks, and a previous mask."""
    shape, count = (600, 512, 512), 30
    image = np.tile(volume((60, 128, 128), np.float64), (10, 4, 4))
    places = boxes(shape, count, 0)
    clicks = [[("fg", box.lower), ("bg", box.upper)] * 2 for box in places]
    previous = np.zeros(shape, np.uint8)
    for label, box in enumerate(places, start=1):
        previous[box.slices] = label
    write_case(container.inputs / "large.npz", image[:1, :1, :1], places, clicks)
    # Uncompressed: compressing it would take longer than segmenting it.
    with np.load(container.inputs / "large.npz", allow_pickle=True) as archive:
        keys: dict[str, Any] = dict(archive) | {"imgs": image, "prev_pred": previous}
    np.savez(container.inputs / "large.npz", **keys)
    del image, keys, previous
    printed = container.run()
    container.check(shape, count)
    return on_time(printed, "large.npz")


def objects(container: Container) -> str:
    """255 objects, as many as there are labels."""
    shape, count = (64, 192, 192), 255
    write_case(container.inputs / "objects.npz", volume(shape), boxes(shape, count, 0))
    printed = container.run()
    container.check(shape, count)
    return on_time(printed, "objects.npz")


def cases(container: Container) -> str:
    """1,000 small cases in one folder."""
    shape, count = (16, 48, 48), 1000
    for index in tqdm(range(count), desc="writing"):
        write_case(container.inputs / f"{index:04}.npz", volume(shape), [Box((3, 9, 9), (12, 30, 30))])
    container.run()
    container.check(shape, 1)
    resident = {written: mib for written, mib in container.samples if written}
    at = {n: resident[min(resident, key=lambda written: abs(written - n))] for n in (50, 250, 500, 750, 999)}
    assert at[999] <= at[50] * 1.1, f"memory grows: {at}"
    return "resident after " + ", ".join(f"{n}: {mib} MiB" for n, mib in at.items())


def clock(container: Container) -> str:
    """A machine that gives a fifth of its processor once the speed of the network has been measured."""
    shape, count = (200, 400, 400), 12
    for name in ("1_measured", "2_slower"):
        write_case(container.inputs / f"{name}.npz", volume(shape), boxes(shape, count, 0))
    printed = container.run(
        "--cpus=1",
        "--env=SEGFM3D_SECONDS_PER_CLASS=10",
        at_first_output=lambda: docker("update", "--cpus=0.2", container.name),
    )
    container.check(shape, count)
    lost = len(re.findall(r"^2_slower\.npz: object \d+: taking", printed, re.MULTILINE))
    assert lost, "the slower case had time enough, so that nothing was tried"
    return f"{on_time(printed, '2_slower.npz')}, {lost} of {count} objects without the network"


SCENARIOS = {"large": large, "objects": objects, "cases": cases, "clock": clock}


def main() -> int:
    """Runs the scenarios that are named."""
    parser = Parser("python -m tests.robustness.campaigns.limits", __doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="+", choices=SCENARIOS)
    parser.add_argument("--image", default="segfm3d", help="its name, without a tag")
    parser.add_argument("--memory", default="6G")
    options = parser.parse_args()
    for name in options.scenarios:
        with tempfile.TemporaryDirectory() as folder:
            container = Container(options.image, Path(folder), options.memory)
            began = time.monotonic()
            told = SCENARIOS[name](container)
            print(
                f"{name}: {told}; {time.monotonic() - began:.0f} s in all, at most {container.peak} MiB "
                f"with -m {options.memory}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
