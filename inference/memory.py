"""How much memory there is to take, so that a case too large for it is refused and the kernel's killer is never met."""

from __future__ import annotations

import sys
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can still be taken: what the machine has free, or less where a container's limit leaves less.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        ``sys.maxsize`` where the system does not say it.
    """
    groups = root / "sys" / "fs" / "cgroup"
    free = [
        _field(root / "proc" / "meminfo", "MemAvailable:", 1024),
        _left(groups, "memory.max", "memory.current", "inactive_file"),
        _left(groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ]
    return min((bytes_ for bytes_ in free if bytes_ is not None), default=sys.maxsize)


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    """What a control group (version 2 or 1) leaves; cached files make room when asked for it."""
    try:
        allowed, used = ((group / name).read_text().strip() for name in (limit, usage))
    except OSError:
        return None
    if allowed == "max":
        return None
    return int(allowed) - int(used) + (_field(group / "memory.stat", cache) or 0)


def _field(path: Path, name: str, unit: int = 1) -> int | None:
    """The number after a name in a file of a name and a number a line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * unit for line in lines if line.startswith(name + " ")), None)
