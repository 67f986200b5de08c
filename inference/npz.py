"""Arrays of an ``.npz`` file, read safely: what the file holds can neither run code nor take memory without end.

Object arrays are unpickled with an allow-list of opcodes and globals, and sizes are checked against what the file holds
before memory is taken.
"""

from __future__ import annotations

import io
import lzma
import math
import os
import pickle
import pickletools
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from inference.memory import available_memory

MAX_ARRAY_BYTES = 2**33
"""1024³ voxels in float64."""
MAX_PICKLE_BYTES = 2**22
"""Arrays of objects: a real file holds some kilobytes of them."""


class NpzError(ValueError):
    """A file that cannot be used; the message is one line: which file, what is wrong, what is expected."""


def read_array(path: str | os.PathLike, key: str) -> np.ndarray:
    """Reads one array of a file, for example ``gts`` of a training case.

    Raises:
        NpzError: the file is unreadable or unsafe, or lacks the key.
    """
    with open_npz(Path(path)) as archive:
        return read_member(archive, key)


@contextmanager
def open_npz(path: Path) -> Generator[zipfile.ZipFile, None, None]:
    """Opens a file for :func:`read_member`; whatever goes wrong in the block becomes one line that names it.

    Raises:
        NpzError: the file is unreadable, or the block found something wrong.
    """
    try:
        # A pipe would be waited for without end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise NpzError("not a regular file; expected a zip of arrays")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except NpzError as error:
        raise NpzError(f"{path.name}: {_shortened(str(error), 400)}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError) as error:
        # Zipfile's words for a broken directory (ValueError) and for an encrypted or unknown member (RuntimeError).
        raise NpzError(
            f"{path.name}: not a readable .npz file ({_one_line(error)}); expected a zip of arrays"
        ) from error


def read_member(
    archive: zipfile.ZipFile, key: str, limit: int = MAX_ARRAY_BYTES, beside: int = 0, reserve: int = 0
) -> np.ndarray:
    """Returns one array of an opened file; its size is checked before memory is taken for it.

    Args:
        archive: as :func:`open_npz` gives it.
        key: the array's name.
        limit: bytes that it may have.
        beside: bytes of memory for each of its elements that must be left when it has been read.
        reserve: further bytes that must be left.

    Raises:
        NpzError: the array is missing, unsafe, or too large; the message does not name the file.
    """
    try:
        info = archive.getinfo(f"{key}.npy")
    except KeyError:
        found = ", ".join(member.removesuffix(".npy") for member in sorted(archive.namelist())) or "none"
        raise NpzError(f"no key '{key}' (found: {_shortened(found)}); expected a file written by numpy.savez") from None
    with archive.open(info) as member:
        try:
            version = np.lib.format.read_magic(member)
            # The later versions are for headers beyond 64 kB, which no real file has.
            if version != (1, 0):
                raise ValueError(f"array format {version}")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
            raise
        except Exception as error:  # A broken header raises whatever its bytes happen to spell.
            raise NpzError(f"key '{key}' has a broken array header ({_one_line(error)})") from error
        if dtype.hasobject:
            if info.file_size > MAX_PICKLE_BYTES:
                raise NpzError(
                    f"key '{key}' declares {info.file_size} bytes of objects; at most {MAX_PICKLE_BYTES} expected"
                )
            return _unpickle(member.read(MAX_PICKLE_BYTES + 1), key)
        if any(n < 0 for n in shape):
            raise NpzError(f"key '{key}' has shape {shape}; expected axes of at least 0")
        if dtype.kind not in "biufSU" or dtype.itemsize == 0:
            raise NpzError(f"key '{key}' has dtype {dtype}; expected real numbers or text")
        count = math.prod(shape)
        declared = count * dtype.itemsize
        if declared > limit:
            raise NpzError(f"key '{key}' declares {declared} bytes; at most {limit} expected")
        if declared > info.file_size:
            raise NpzError(f"key '{key}' declares {declared} bytes and holds {info.file_size}; the file is truncated")
        needed = declared + count * beside + reserve
        if declared > MAX_PICKLE_BYTES and needed > (available := available_memory()):
            raise NpzError(
                f"key '{key}' with shape {shape} and dtype {dtype} needs {needed / 2**30:.1f} GiB of memory, and "
                f"{available / 2**30:.1f} GiB are free; expected a smaller volume"
            )
        flat = np.empty(count, dtype)
        _fill(member, flat, key)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _fill(member: IO[bytes], flat: np.ndarray, key: str) -> None:
    """Reads into an array in pieces, so that the decompressed bytes exist only once."""
    if flat.size == 0:
        return
    target = flat.view(np.uint8).data
    done = 0
    while done < len(target):
        piece = member.read(min(len(target) - done, 2**22))
        if not piece:
            raise NpzError(f"key '{key}' ends after {done} of {len(target)} bytes; the file is truncated")
        target[done : done + len(piece)] = piece
        done += len(piece)


_OPCODES = frozenset(
    [
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    ]
)
"""What pickles of numpy arrays, containers, numbers and text are made of, from protocol 2 on."""


class _SafeUnpickler(pickle.Unpickler):
    """Knows the four names that numpy's pickles need, and gives each a stand-in that checks what numpy takes on trust.

    Numpy's own functions believe a pickle: a shape without data takes memory, a wrong state crashes the process.
    """

    def find_class(self, module: str, name: str) -> Any:
        stand_ins = {
            "numpy.ndarray": _Array,
            "numpy.dtype": _Dtype,
            "numpy.multiarray._reconstruct": _StandIn(_empty_array),
            "numpy.multiarray.scalar": _StandIn(_scalar),
        }
        known = re.sub(r"^numpy\._?core\.", "numpy.", f"{module}.{name}")
        if known not in stand_ins:
            raise NpzError(f"refused to unpickle {module}.{name}; only numpy arrays and plain values are expected")
        return stand_ins[known]


class _StandIn:
    """A function that a pickle can call and cannot change: ``BUILD`` would set attributes of a bare one."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise NpzError("refused a pickle that changes what reads it")


class _Dtype:
    """Stands in for ``numpy.dtype``: a simple type's code, and of the state that follows it the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSUO]\d{1,6}", code):
            raise NpzError("refused an unusual dtype; only numbers, text and objects are expected")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``: as many elements as its shape says, or none."""

    def __new__(cls, *_: Any) -> _Array:
        raise NpzError("refused an array that is not filled; expected arrays pickled by numpy")

    def __setstate__(self, state: tuple) -> None:
        _, shape, stand_in, fortran, content = state
        held = len(content) if stand_in.dtype.hasobject else len(content) // max(stand_in.dtype.itemsize, 1)
        if any(n < 0 for n in shape) or math.prod(shape) != held:
            raise NpzError(f"refused an array of shape {shape} that holds {held} elements")
        super().__setstate__((1, shape, stand_in.dtype, fortran, content))


def _empty_array(_: type, shape: tuple, *__: Any) -> _Array:
    """Stands in for ``_reconstruct``: what numpy's pickles begin an array with, to be filled by its state."""
    if shape != (0,):
        raise NpzError("refused an array that does not start empty; expected arrays pickled by numpy")
    return np.ndarray.__new__(_Array, (0,), "b")


def _scalar(stand_in: _Dtype, content: bytes) -> np.generic:
    """Stands in for ``scalar``: one number or text from its bytes."""
    if stand_in.dtype.hasobject or len(content) != stand_in.dtype.itemsize:
        raise NpzError(f"refused a {stand_in.dtype} of {len(content)} bytes")
    return np.frombuffer(content, stand_in.dtype)[0]


def _unpickle(payload: bytes, key: str) -> np.ndarray:
    try:
        for opcode, argument, _ in pickletools.genops(payload):
            if opcode.name not in _OPCODES:
                raise NpzError(f"refused the pickle opcode {opcode.name}; only arrays and plain values are expected")
            # A memo index far beyond the payload makes the unpickler take memory for all below it.
            if opcode.name in ("BINPUT", "LONG_BINPUT") and argument is not None and argument > len(payload):
                raise NpzError(f"refused a pickle with memo index {argument}")
        value = _SafeUnpickler(io.BytesIO(payload)).load()
    except NpzError as error:
        raise NpzError(f"key '{key}': {error}") from error
    except Exception as error:  # A broken pickle raises whatever its bytes happen to spell.
        raise NpzError(f"key '{key}' is not a readable pickle ({type(error).__name__}: {_one_line(error)})") from error
    if not isinstance(value, np.ndarray):
        raise NpzError(f"key '{key}' holds a pickled {type(value).__name__}; expected an array")
    return value.view(np.ndarray)


def _one_line(error: BaseException) -> str:
    return _shortened(str(error)) or type(error).__name__


def _shortened(text: str, length: int = 200) -> str:
    """At most ``length`` characters on one line."""
    return " ".join(text.split())[:length]
