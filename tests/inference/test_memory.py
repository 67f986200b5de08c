"""How much memory there is, as Linux says it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inference import npz
from inference.case import CaseError, read_case
from inference.geometry import Box
from inference.memory import available_memory
from tests.inference.factories import volume, write_case

MIB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 100 MiB available and no control groups."""
    write(tmp_path, "proc/meminfo", "MemTotal:     999999 kB\nMemFree:   1 kB\nMemAvailable: 102400 kB\n")
    return tmp_path


def write(root: Path, name: str, content: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def test_the_machine_alone(root: Path) -> None:
    assert available_memory(root) == 100 * MIB


def test_a_container_of_version_2(root: Path) -> None:
    write(root, "sys/fs/cgroup/memory.max", 60 * MIB)
    write(root, "sys/fs/cgroup/memory.current", 50 * MIB)
    assert available_memory(root) == 10 * MIB
    write(root, "sys/fs/cgroup/memory.stat", f"anon 1\nfile 2\ninactive_file {8 * MIB}\nactive_file 5")
    assert available_memory(root) == 18 * MIB, "cached files make room"


def test_a_container_of_version_2_without_a_limit(root: Path) -> None:
    write(root, "sys/fs/cgroup/memory.max", "max")
    write(root, "sys/fs/cgroup/memory.current", 50 * MIB)
    assert available_memory(root) == 100 * MIB


def test_a_container_of_version_1(root: Path) -> None:
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", 60 * MIB)
    write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", 50 * MIB)
    write(root, "sys/fs/cgroup/memory/memory.stat", f"cache 1\ntotal_inactive_file {8 * MIB}")
    assert available_memory(root) == 18 * MIB


def test_a_container_of_version_1_without_a_limit(root: Path) -> None:
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", 2**63 - 4096)
    write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", 50 * MIB)
    assert available_memory(root) == 100 * MIB


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == sys.maxsize


class TestACaseThatDoesNotFit:
    SHAPE = (80, 256, 256)
    """5 MiB, and 80 to segment it."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        previous = volume(self.SHAPE) % 2
        return write_case(tmp_path / "a.npz", volume(self.SHAPE), [Box((1, 1, 1), (9, 9, 9))], prev_pred=previous)

    def test_it_is_refused_before_it_is_read(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(npz, "available_memory", lambda: 2**30 + 80 * MIB)
        with pytest.raises(CaseError, match=r"a\.npz: key 'imgs' .* needs 1\.1 GiB of memory, and 1\.1 GiB are free"):
            read_case(path)

    def test_with_memory_enough_it_is_read(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(npz, "available_memory", lambda: 2**30 + 90 * MIB)
        assert read_case(path).previous is not None

    def test_a_previous_mask_that_does_not_fit_is_done_without(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([2**40, 2**20])
        monkeypatch.setattr(npz, "available_memory", lambda: next(answers))
        case = read_case(path)
        assert case.previous is None
        assert "prev_pred" in case.notes[0]
