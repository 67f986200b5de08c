"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".unfinished"


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Gives a temporary name in ``path``'s folder to write to, and renames it to ``path`` when the block ends well.

    The temporary name starts with a dot and does not end in ``path``'s suffix, so nobody takes it for a finished file.
    An older file stays until it is replaced; the new one is world-readable (mode 0644). A folder that is not there is
    made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No part of it is the file's own name, which may be as long as a name can be.
    descriptor, name = tempfile.mkstemp(SUFFIX, ".", path.parent)
    os.close(descriptor)
    unfinished = Path(name)
    try:
        yield unfinished
        _bring_to_disk(unfinished)
        with suppress(OSError):  # Some file systems have no modes.
            unfinished.chmod(0o644)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path, older: float = 0.0) -> None:
    """Removes what killed runs may have left in a folder.

    Args:
        folder: where they wrote.
        older: seconds since it was last written to, for a folder that other runs may be writing into.
    """
    for path in folder.glob(f".*{SUFFIX}"):
        with suppress(FileNotFoundError):  # The other run has finished it.
            if time.time() - path.stat().st_mtime >= older:
                path.unlink()


def _bring_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:  # Some file systems cannot; that is no failure of the disk.
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise
