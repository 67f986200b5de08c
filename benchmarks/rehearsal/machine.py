"""The machine of the rehearsal: folders that stand for it, and commands that may be ended in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rehearsal.environment import Environment
from benchmarks.rehearsal.limits import Limits

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: its exit code, negative for a signal.
        said: the end of what it wrote.
        stopped: whether it was ended in the middle.
    """

    code: int
    said: str
    stopped: bool


class Machine:
    """A copy of the repository, a folder beside it that stays, and ``$OUT``.

    Args:
        folder: an empty one, for all of it.
        environment: the machine's packages.
        limits: what is carried is held against them.
    """

    def __init__(self, folder: Path, environment: Environment, limits: Limits) -> None:
        self.repository, self.work, self.out = (folder / name for name in ("repository", "work", "out"))
        self.environment, self.limits = environment, limits
        self.log = folder / "said.txt"

    def carry(self, ignored: str | None, source: Path) -> str:
        """Copies the tracked files, and an ignored folder, there; what else was ignored there stays.

        Args:
            ignored: relative to the repository.
            source: what lies at that place; elsewhere for a rehearsal.

        Raises:
            benchmarks.rehearsal.limits.LimitError: they are too large.
        """
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        files = {name: REPOSITORY / name for name in listed if name and (REPOSITORY / name).is_file()}
        if ignored is not None:
            shutil.rmtree(self.repository / ignored, ignore_errors=True)
            files |= {
                str(Path(ignored, path.relative_to(source))): path for path in source.rglob("*") if path.is_file()
            }
        said = self.limits.carry(files.values())
        for name, path in files.items():
            (self.repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, self.repository / name)
        return said

    def run(self, text: str, stop: signal.Signals | None, seconds: float, shown: Callable[[str], None]) -> Ended:
        """Runs a command line, with ``$OUT`` emptied.

        Args:
            stop: SIGTERM goes to ``timeout`` once the run's state has come to ``$OUT``, as at the end of its time;
                SIGKILL goes to everything then, as at the machine's limit. None for neither.
            seconds: after which it is killed.
            shown: takes each second's news.
        """
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        variables = self.environment.variables(OUT=str(self.out), CUDA_VISIBLE_DEVICES="")
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", text], cwd=self.repository, env=variables, stdout=log, stderr=subprocess.STDOUT
            )
            began, stopped = time.monotonic(), False
            while process.poll() is None:
                time.sleep(0.2)
                shown(f"{time.monotonic() - began:.0f} s")
                if time.monotonic() - began > seconds:
                    _kill(process.pid)
                    stopped = True
                elif stop and not stopped and any(self.out.glob("pieces/step-*")):
                    stopped = True
                    if stop == signal.SIGKILL:
                        _kill(process.pid)
                    else:
                        for pid in _with_name(process.pid, "timeout"):
                            os.kill(pid, stop)
        return Ended(process.returncode, self.log.read_text(errors="replace")[-2000:].strip(), stopped)


def _descendants(pid: int) -> list[int]:
    """A process and all that it has started, itself first."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # It has ended meanwhile.
                continue
    return found


def _with_name(pid: int, name: str) -> list[int]:
    chosen = []
    for each in _descendants(pid):
        try:
            command = Path(f"/proc/{each}/comm").read_text().strip()
        except OSError:
            continue
        if command == name:
            chosen.append(each)
    return chosen


def _kill(pid: int) -> None:
    for each in _descendants(pid):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
