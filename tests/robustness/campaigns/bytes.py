"""Coverage-guided fuzzing of the reader of case files, with atheris (``requirements-fuzz.txt``).

``python -m tests.robustness.campaigns.bytes`` tries 1,000,000 inputs. The first byte of an input says what the others
are: a whole ``.npz`` file, the bytes of its ``boxes`` or ``clicks`` pickle, or those of one of its arrays. An input is
a finding, kept in the working folder, if the reader raises anything but its one-line refusal, returns a case that
breaks its own rules, does what reading does not need (audit events), or if memory passes the bound.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import pickle
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["inference.case", "pickletools", "numpy.lib._format_impl"]):
    from inference.case import Case, CaseError, read_case

import numpy as np

from inference.command import Parser, run
from inference.geometry import Box
from tests.inference.factories import array_bytes, array_header, box_entry, click_entries, volume

SHAPE = (4, 5, 6)
LONGEST = 4096
"""Bytes of an input; deflate makes at most a thousand times as many of them."""
BOUND = 2**29
"""Bytes that the process may take, the libraries and what the fuzzer itself keeps included."""

FORBIDDEN = ("os.", "subprocess.", "socket.", "ctypes.", "shutil.", "urllib.", "exec", "pty.", "signal.", "mmap.")
"""Audit events that reading a file has no need of, by how they begin; so are imports and files opened to be written."""

IMAGE, SPACING = array_bytes(volume(SHAPE)), array_bytes(np.ones(3))
BOXES = np.array([box_entry(Box((1, 1, 1), (2, 3, 4))), box_entry(Box((0, 0, 0), (3, 4, 5)))])
CLICKS: dict[str, Any] = click_entries([[("fg", (1, 2, 3)), None], [("bg", (0, 0, 0)), ("fg", (3, 4, 5))]])
KEYS = ("imgs", "spacing", "boxes", "clicks", "clicks_order", "prev_pred")


class Reading:
    """Reads one input after another as a case file, and watches what that does."""

    def __init__(self, path: Path, inputs: int) -> None:
        self.path = path
        self.inputs = inputs
        self.outcomes: Counter[str] = Counter()
        self.began = time.monotonic()
        self.watched = False
        self.seen: list[str] = []
        sys.addaudithook(self._audit)

    def __call__(self, data: bytes) -> None:
        """One input.

        Raises:
            AssertionError: a finding; any other exception is one too.
        """
        self.path.write_bytes(file_of(data))
        self.seen.clear()
        self.watched = True
        try:
            case = read_case(self.path)
        except CaseError as error:
            self.watched = False
            message = str(error)
            assert message.startswith(f"{self.path.name}: "), message
            assert len(message.splitlines()) == 1, message
            self.outcomes["refused"] += 1
        else:
            self.watched = False
            check(case)
            self.outcomes["read"] += 1
        assert not self.seen, f"reading did {self.seen}"
        tried = self.outcomes.total()
        if tried % 100 == 0 or tried == self.inputs:  # The peak is that of the whole process, so none is missed.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            assert peak < BOUND, f"{peak} bytes of memory"
        if tried == self.inputs:
            print(
                f"{self.inputs} inputs in {time.monotonic() - self.began:.0f} s: {self.outcomes['read']} read, "
                f"{self.outcomes['refused']} refused, no finding; at most {peak / 2**20:.0f} MiB of memory",
                flush=True,
            )

    def _audit(self, event: str, arguments: tuple) -> None:
        if not self.watched:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event.startswith(FORBIDDEN) or event == "import" or writes:
            self.seen.append(f"{event} {arguments}"[:200])


def file_of(data: bytes) -> bytes:
    """The case file that an input stands for."""
    kind, rest = data[:1], data[1:]
    selector = kind[0] % 8 if kind else 0
    if selector == 0:
        return rest
    members = {"imgs": IMAGE, "spacing": SPACING}
    if selector < 5:
        members[("boxes", "clicks", "clicks_order", "boxes")[selector - 1]] = array_header(object, (2,)) + rest
    else:
        members[KEYS[rest[0] % len(KEYS)] if rest else "imgs"] = rest[1:]
    return stored_zip(members)


def stored_zip(members: dict[str, bytes]) -> bytes:
    """A zip of uncompressed ``.npy`` members, as ``zipfile`` would write it in ten times the time."""
    content, directory = bytearray(), bytearray()
    for key, member in members.items():
        name = f"{key}.npy".encode()
        common = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, zlib.crc32(member), len(member), len(member), len(name), 0)
        directory += b"PK\1\2\x14\0" + common + struct.pack("<HHHII", 0, 0, 0, 0, len(content)) + name
        content += b"PK\3\4" + common + name + member
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(content), 0)
    return bytes(content + directory + b"PK\5\6" + end)


def check(case: Case) -> None:
    """What segmenting a case may rely on."""
    assert case.image.ndim == 3
    assert case.image.size > 0
    assert case.image.dtype.kind in "buif"
    assert all(np.isfinite(plane).all() for plane in case.image)
    assert len(case.spacing) == 3
    assert [prompts.label for prompts in case.objects] == list(range(1, len(case.objects) + 1))
    assert 1 <= len(case.objects) <= 255
    whole = Box.of(case.image.shape)
    for prompts in case.objects:
        assert prompts.box is None or whole.contains(prompts.box.lower)
        assert prompts.box is None or whole.contains(prompts.box.upper)
        assert all(whole.contains(click.position) for click in prompts.clicks)
    assert case.previous is None or case.previous.shape == case.image.shape
    assert case.previous is None or case.previous.dtype == np.uint8


def write_seeds(folder: Path) -> None:
    """Inputs to begin with: good files and their parts."""
    file = io.BytesIO()
    np.savez_compressed(
        file, imgs=volume(SHAPE), spacing=np.ones(3), boxes=BOXES, prev_pred=volume(SHAPE) % 3, **CLICKS
    )
    arrays = {"imgs": volume(SHAPE), "boxes": BOXES, "prev_pred": volume(SHAPE, np.float32), "spacing": np.ones(3)}
    pickles = [
        pickle.dumps(np.array(value), protocol=protocol)
        for value in (BOXES, CLICKS["clicks"], np.array(CLICKS["clicks_order"], object), CLICKS["clicks_order"])
        for protocol in (2, 3, 4, 5)
    ]
    seeds = [b"\0" + file.getvalue()]
    seeds += [bytes([5, KEYS.index(key)]) + array_bytes(np.asarray(array)) for key, array in arrays.items()]
    seeds += [bytes([1 + index % 3]) + payload for index, payload in enumerate(pickles)]
    for index, content in enumerate(seeds):
        (folder / f"seed-{index}").write_bytes(content)


def main() -> None:
    """Runs the campaign; ends the process with another exit code than 0 at a finding."""
    parser = Parser("python -m tests.robustness.campaigns.bytes", __doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    memory = Path("/dev/shm")  # A disk would cost more than all the rest.
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        write_seeds(corpus)
        # What is imported at the first use only is imported now.
        for encoding in ("cp437", "raw_unicode_escape", "ascii", "latin1"):
            codecs.lookup(encoding)
        for seed in corpus.iterdir():
            (Path(folder) / "seed.npz").write_bytes(file_of(seed.read_bytes()))
            with contextlib.suppress(CaseError):
                read_case(Path(folder) / "seed.npz")
        reading = Reading(Path(folder) / "fuzzed.npz", options.inputs)
        limits = [f"-runs={options.inputs}", f"-max_len={LONGEST}", f"-seed={options.seed}", "-timeout=20"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], reading)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(run(main))
