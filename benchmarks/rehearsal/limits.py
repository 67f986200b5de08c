"""What a GPU machine takes with a command and gives back, and whether a folder is within it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits of the machine that the recipe is written for.

    Args:
        carried: bytes that go there with a command, the repository's tracked files included.
        files: that come back from a command.
        file: bytes of each.
        returned: bytes of all.
        depth: folders that a file may lie down in what comes back.
    """

    carried: int = 64 * MIB
    files: int = 8
    file: int = 16 * MIB
    returned: int = 64 * MIB
    depth: int = 2

    def carry(self, paths: Iterable[Path]) -> str:
        """Bytes of files that are carried.

        Raises:
            LimitError: they are too many.
        """
        total = sum(path.stat().st_size for path in paths)
        if total > self.carried:
            raise LimitError(f"{total / MIB:.1f} MiB to carry; the limit is {self.carried / MIB:.0f} MiB")
        return f"{total / MIB:.1f} MiB carried"

    def give_back(self, folder: Path) -> str:
        """What lies in the folder whose files come back.

        Raises:
            LimitError: too many files, too many bytes, or folders too deep.
        """
        files = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
        sizes = [path.stat().st_size for path in files]
        if len(files) > self.files:
            names = ", ".join(str(path.relative_to(folder)) for path in files)
            raise LimitError(f"{len(files)} files come back ({names}); the limit is {self.files}")
        for path, size in zip(files, sizes):
            name = path.relative_to(folder)
            if size > self.file:
                raise LimitError(f"{name}: {size / MIB:.1f} MiB; the limit of a file is {self.file / MIB:.0f} MiB")
            if len(name.parts) - 1 > self.depth:
                raise LimitError(f"{name}: lies {len(name.parts) - 1} folders down; the limit is {self.depth}")
        if sum(sizes) > self.returned:
            raise LimitError(f"{sum(sizes) / MIB:.1f} MiB come back; the limit is {self.returned / MIB:.0f} MiB")
        return f"{len(files)} files, {sum(sizes) / MIB:.1f} MiB back"


class LimitError(Exception):
    """A limit that is not kept; the message is one line."""
