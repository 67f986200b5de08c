"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
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
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.chmod(0o644)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed runs may have left in a folder."""
    for path in folder.glob(f".*{SUFFIX}"):
        path.unlink(missing_ok=True)
