"""``python -m inference IMAGE``: an image of any format instead of a folder of cases."""

from __future__ import annotations

import sys


def is_asked_for(arguments: list[str]) -> bool:
    """Whether a command line names an image rather than options."""
    return bool(arguments) and not arguments[0].startswith("-")


def main(arguments: list[str]) -> int:
    """Hands over to :mod:`conversion.direct`, which is no part of the submission.

    Returns:
        its exit code; 1 where it is not there.
    """
    try:
        from conversion.direct import main as segment_image
    except ModuleNotFoundError as error:
        print(
            f"error: {arguments[0]}: reading an image needs {error.name}, which is not here; expected the whole "
            "repository and what requirements-dev.txt names, or a folder of cases with --inputs",
            file=sys.stderr,
        )
        return 1
    return segment_image(arguments)
