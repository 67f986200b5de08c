"""One run a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class FolderInUseError(Exception):
    """Another run writes into the folder. Its text is one line that says what to do."""


_held: set[int] = set()


def _left_to_parent() -> None:
    """A forked process shares the lock, and one that outlived the run would keep the next one out."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_left_to_parent)


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Keeps other runs out of a folder; a process that ends, however it does, gives it back, and no file stays behind.

    Raises:
        FolderInUseError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"{folder}: another run writes into it; wait for it, end it, or give another folder with --out"
            ) from None
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)
