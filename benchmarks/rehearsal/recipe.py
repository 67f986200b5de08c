"""The commands of the recipe, read from its page, so that what is rehearsed is what stands there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "train-on-a-gpu.md"
BLOCK = re.compile(r"^```bash\n# command (\d+)(?:, carries (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command line for ``bash``.

    Args:
        number: its place, from 1.
        carries: the ignored folder that goes there with it, relative to the repository; None for none.
        text: what ``bash`` is given.
    """

    number: int
    carries: str | None
    text: str

    @property
    def trains(self) -> bool:
        return "-m training " in self.text


def commands(page: str, replaced: Mapping[str, str]) -> list[Command]:
    """The commands of a page, in order.

    Args:
        page: Markdown, its commands in blocks that begin with ``# command N``.
        replaced: text -> what stands for it, to make a rehearsal small.

    Raises:
        ValueError: no command, one out of order, or a text that no command holds.
    """
    found = [Command(int(number), carries or None, text) for number, carries, text in BLOCK.findall(page)]
    if [command.number for command in found] != list(range(1, len(found) + 1)) or not found:
        raise ValueError(f"commands {[command.number for command in found]}; expected 1, 2, 3, …")
    for before, after in replaced.items():
        if not any(before in command.text for command in found):
            raise ValueError(f"no command holds {before!r}, which the rehearsal replaces")
        found = [Command(c.number, c.carries, c.text.replace(before, after)) for c in found]
    return found
