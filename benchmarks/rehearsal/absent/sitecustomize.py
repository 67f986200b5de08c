"""Found by every interpreter that this folder is on the path of: hides the packages that the machine does not have."""

import os
from importlib.machinery import PathFinder

_hidden = frozenset(os.environ.get("REHEARSAL_ABSENT", "").split())
_find = PathFinder.find_spec


def _find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in _hidden else _find(name, path, target)


PathFinder.find_spec = staticmethod(_find_spec)
