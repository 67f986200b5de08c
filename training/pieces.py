"""Weights in pieces, for channels that limit a file's size. ``cat weights.pt.* > weights.pt`` joins them."""

from __future__ import annotations

from pathlib import Path


def split(path: Path, megabytes: float) -> list[Path]:
    """Writes ``path`` as ``path.00``, ``path.01``, … of at most so many MB (10⁶ bytes) each, and returns them.

    Raises:
        ValueError: a limit of no bytes.
    """
    limit = int(megabytes * 1e6)
    if limit < 1:
        raise ValueError(f"pieces of {megabytes} MB: expected more than 0")
    content = path.read_bytes()
    for stale in path.parent.glob(f"{path.name}.[0-9][0-9]"):
        stale.unlink()
    pieces = []
    for number, first in enumerate(range(0, len(content), limit)):
        piece = path.with_name(f"{path.name}.{number:02d}")
        piece.write_bytes(content[first : first + limit])
        pieces.append(piece)
    return pieces
