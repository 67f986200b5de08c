"""A case on disk: read, check, write (the challenge's ``.npz`` contract).

Axis order is (z, y, x) throughout. Nothing in a file can run code: object arrays are unpickled with an allow-list of
opcodes and globals, and sizes are checked against what the file holds before memory is taken.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from inference.atomic import replacing
from inference.memory import available_memory

MAX_OBJECTS = 255
MAX_VOLUME_BYTES = 2**33
"""An image of 1024³ voxels in float64."""
MAX_PROMPT_BYTES = 2**22
"""Boxes, clicks and their order: a real file holds some kilobytes of them."""
WORKING_BYTES_A_VOXEL = 16
"""What segmenting takes beside the image: 4 for a copy as float32, 9 to fuse, 2 for the label maps of this and the
previous run, 1 for masks while reading."""
WORKING_BYTES = 2**30
"""What the network takes, and the slabs of a window's resampling."""

Voxel = tuple[int, int, int]


class CaseError(ValueError):
    """A case that cannot be used; the message is one line: which file, what is wrong, what is expected."""


@dataclass(frozen=True)
class Box:
    """A closed interval of voxels: both corners belong to it."""

    lower: Voxel
    upper: Voxel

    @classmethod
    def of(cls, shape: Voxel) -> Box:
        """All of an image of ``shape``."""
        return cls((0, 0, 0), tuple(n - 1 for n in shape))

    @property
    def size(self) -> Voxel:
        return tuple(upper - lower + 1 for lower, upper in zip(self.lower, self.upper))

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        return tuple(slice(lower, upper + 1) for lower, upper in zip(self.lower, self.upper))

    def contains(self, voxel: Voxel) -> bool:
        return all(lower <= v <= upper for lower, v, upper in zip(self.lower, voxel, self.upper))

    def union(self, other: Box) -> Box:
        return Box(tuple(map(min, self.lower, other.lower)), tuple(map(max, self.upper, other.upper)))

    def clipped(self, shape: Voxel) -> Box | None:
        """The part inside an image of ``shape``; None if there is none."""
        return self.intersection(Box.of(shape))

    def intersection(self, other: Box) -> Box | None:
        """What both have in common; None if there is nothing."""
        lower, upper = tuple(map(max, self.lower, other.lower)), tuple(map(min, self.upper, other.upper))
        return Box(lower, upper) if all(a <= b for a, b in zip(lower, upper)) else None

    def slices_in(self, other: Box) -> tuple[slice, slice, slice]:
        """Where this box lies in a box that holds it."""
        return tuple(slice(a - b, c - b + 1) for a, b, c in zip(self.lower, other.lower, self.upper))


@dataclass(frozen=True)
class Click:
    """A voxel that belongs to the object (``positive``) or does not."""

    position: Voxel
    positive: bool


@dataclass(frozen=True)
class ObjectPrompts:
    """What the user said about one object; clicks in the order in which they were made.

    Args:
        guessed: whether the box is not the user's but a region of the image (:mod:`inference.proposals`).
    """

    label: int
    box: Box | None = None
    clicks: tuple[Click, ...] = ()
    guessed: bool = False


@dataclass(frozen=True)
class Case:
    """An image and what the user said about it.

    Args:
        name: the file's name without folder.
        image: (D, H, W), a real dtype, finite.
        spacing: millimetres along z, y, x.
        objects: one an object, labels ascending: 1…K in a run of the challenge.
        previous: (D, H, W) uint8 label map of the previous run, or None.
        notes: what was repaired or left aside while reading, a line each.
    """

    name: str
    image: np.ndarray
    spacing: tuple[float, float, float]
    objects: tuple[ObjectPrompts, ...]
    previous: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)


def read_case(path: str | os.PathLike) -> Case:
    """Reads a challenge file.

    Prompts that make no sense (a click outside the image, an inverted box) are repaired or left aside and noted in
    ``Case.notes``. The objects are 1…K, K the number of boxes, else of clicks; without either, they are the labels that
    the previous mask holds, else 1.

    Raises:
        CaseError: the file is unreadable, unsafe, or has no usable image.
    """
    with _reading(Path(path)) as archive:
        return _read_case(archive, Path(path).name)


def read_array(path: str | os.PathLike, key: str) -> np.ndarray:
    """Reads one array of a challenge file, for example ``gts`` of a training case, as safely as :func:`read_case`.

    Raises:
        CaseError: the file is unreadable or unsafe, or lacks the key.
    """
    with _reading(Path(path)) as archive:
        return _read_array(archive, key)


def labels_in(labels: np.ndarray) -> list[int]:
    """The labels that a label map, uint8 or uint16, holds: ascending, without 0."""
    present = np.zeros(np.iinfo(labels.dtype).max + 1, bool)
    for plane in labels:  # Plane by plane: numpy's indices take eight times the memory of what they index.
        present[plane] = True
    return [int(label) for label in np.flatnonzero(present) if label]


@contextmanager
def _reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """The opened file; whatever goes wrong in the block becomes one line that names it."""
    try:
        # A pipe would be waited for without end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CaseError("not a regular file; expected a zip of arrays")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except CaseError as error:
        raise CaseError(f"{path.name}: {_shortened(str(error), 400)}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError) as error:
        # Zipfile's words for a broken directory (ValueError) and for an encrypted or unknown member (RuntimeError).
        raise CaseError(
            f"{path.name}: not a readable .npz file ({_one_line(error)}); expected a zip of arrays"
        ) from error


def write_segmentation(path: str | os.PathLike, segmentation: np.ndarray) -> None:
    """Writes ``segs`` as the evaluator wants it: whole or not at all, mode 0644, an older file kept until replaced.

    Args:
        path: the ``.npz`` to write.
        segmentation: (D, H, W) uint8 label map.

    Raises:
        ValueError: not a uint8 volume.
        OSError: the folder cannot be written; nothing is left behind.
    """
    if segmentation.dtype != np.uint8 or segmentation.ndim != 3:
        raise ValueError(f"segmentation {segmentation.dtype} {segmentation.shape}: expected a uint8 volume (D, H, W)")
    # The evaluator reads every *.npz of the folder, so an unfinished file must not be called that.
    with (
        replacing(Path(path)) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("segs.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array(member, np.ascontiguousarray(segmentation), allow_pickle=False)


def _read_case(archive: zipfile.ZipFile, name: str) -> Case:
    notes: list[str] = []
    members = {member.removesuffix(".npy") for member in archive.namelist()}
    image = _usable_image(_read_array(archive, "imgs", beside=WORKING_BYTES_A_VOXEL), notes)
    shape = image.shape
    spacing = _spacing(_optional(archive, members, "spacing"), notes)
    boxes = _entries(_optional(archive, members, "boxes"))
    clicks = _entries(_optional(archive, members, "clicks"))
    orders = _entries(_optional(archive, members, "clicks_order"))
    previous = _previous(archive, shape, notes) if "prev_pred" in members else None
    if boxes or clicks:
        labels = range(1, len(boxes or clicks) + 1)
    else:
        # The labels that are there, not as many as the greatest: a mask of 0 and 255 is one object.
        labels = labels_in(previous) if previous is not None and previous.any() else [1]
        notes.append(f"neither boxes nor clicks; taking {len(labels)} object(s) from the previous mask, or one")
    if len(labels) > MAX_OBJECTS:
        raise CaseError(f"{len(labels)} objects; labels are uint8, so at most {MAX_OBJECTS} are expected")
    objects = tuple(
        ObjectPrompts(
            label=label,
            box=_box(boxes[index], shape, label, notes) if index < len(boxes) else None,
            clicks=_clicks(
                clicks[index] if index < len(clicks) else None,
                orders[index] if index < len(orders) else None,
                shape,
                label,
                notes,
            ),
        )
        for index, label in enumerate(labels)
    )
    return Case(name, image, spacing, objects, previous, tuple(notes))


def _optional(archive: zipfile.ZipFile, members: set[str], key: str) -> np.ndarray | None:
    return _read_array(archive, key, MAX_PROMPT_BYTES) if key in members else None


def _read_array(archive: zipfile.ZipFile, key: str, limit: int = MAX_VOLUME_BYTES, beside: int = 0) -> np.ndarray:
    """One array of the file, its size checked before memory is taken for it.

    Args:
        limit: bytes that it may have.
        beside: bytes an element that must be left when it has been read; if not 0, ``WORKING_BYTES`` too.
    """
    try:
        info = archive.getinfo(f"{key}.npy")
    except KeyError:
        found = ", ".join(member.removesuffix(".npy") for member in sorted(archive.namelist())) or "none"
        raise CaseError(
            f"no key '{key}' (found: {_shortened(found)}); expected a file written by numpy.savez"
        ) from None
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
            raise CaseError(f"key '{key}' has a broken array header ({_one_line(error)})") from error
        if dtype.hasobject:
            if info.file_size > MAX_PROMPT_BYTES:
                raise CaseError(
                    f"key '{key}' declares {info.file_size} bytes of objects; at most {MAX_PROMPT_BYTES} expected"
                )
            return _unpickle(member.read(MAX_PROMPT_BYTES + 1), key)
        if any(n < 0 for n in shape):
            raise CaseError(f"key '{key}' has shape {shape}; expected axes of at least 0")
        if dtype.kind not in "biufSU" or dtype.itemsize == 0:
            raise CaseError(f"key '{key}' has dtype {dtype}; expected real numbers or text")
        count = math.prod(shape)
        declared = count * dtype.itemsize
        if declared > limit:
            raise CaseError(f"key '{key}' declares {declared} bytes; at most {limit} expected")
        if declared > info.file_size:
            raise CaseError(f"key '{key}' declares {declared} bytes and holds {info.file_size}; the file is truncated")
        needed = declared + count * beside + (WORKING_BYTES if beside else 0)
        if declared > MAX_PROMPT_BYTES and needed > (available := available_memory()):
            raise CaseError(
                f"key '{key}' with shape {shape} and dtype {dtype} needs {needed / 2**30:.1f} GiB of memory, and "
                f"{available / 2**30:.1f} GiB are free; expected a smaller volume"
            )
        flat = np.empty(count, dtype)
        _fill(member, flat, key)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _fill(member: BinaryIO, flat: np.ndarray, key: str) -> None:
    """Reads into an array in pieces, so that the decompressed bytes exist only once."""
    if flat.size == 0:
        return
    target = memoryview(flat.view(np.uint8))
    done = 0
    while done < len(target):
        piece = member.read(min(len(target) - done, 2**22))
        if not piece:
            raise CaseError(f"key '{key}' ends after {done} of {len(target)} bytes; the file is truncated")
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
            raise CaseError(f"refused to unpickle {module}.{name}; only numpy arrays and plain values are expected")
        return stand_ins[known]


class _StandIn:
    """A function that a pickle can call and cannot change: ``BUILD`` would set attributes of a bare one."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise CaseError("refused a pickle that changes what reads it")


class _Dtype:
    """Stands in for ``numpy.dtype``: a simple type's code, and of the state that follows it the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSUO]\d{1,6}", code):
            raise CaseError("refused an unusual dtype; only numbers, text and objects are expected")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``: as many elements as its shape says, or none."""

    def __new__(cls, *_: Any) -> _Array:
        raise CaseError("refused an array that is not filled; expected arrays pickled by numpy")

    def __setstate__(self, state: tuple) -> None:
        _, shape, stand_in, fortran, content = state
        held = len(content) if stand_in.dtype.hasobject else len(content) // max(stand_in.dtype.itemsize, 1)
        if any(n < 0 for n in shape) or math.prod(shape) != held:
            raise CaseError(f"refused an array of shape {shape} that holds {held} elements")
        super().__setstate__((1, shape, stand_in.dtype, fortran, content))


def _empty_array(_: type, shape: tuple, *__: Any) -> _Array:
    """Stands in for ``_reconstruct``: what numpy's pickles begin an array with, to be filled by its state."""
    if shape != (0,):
        raise CaseError("refused an array that does not start empty; expected arrays pickled by numpy")
    return np.ndarray.__new__(_Array, (0,), "b")


def _scalar(stand_in: _Dtype, content: bytes) -> np.generic:
    """Stands in for ``scalar``: one number or text from its bytes."""
    if stand_in.dtype.hasobject or len(content) != stand_in.dtype.itemsize:
        raise CaseError(f"refused a {stand_in.dtype} of {len(content)} bytes")
    return np.frombuffer(content, stand_in.dtype)[0]


def _unpickle(payload: bytes, key: str) -> np.ndarray:
    try:
        for opcode, argument, _ in pickletools.genops(payload):
            if opcode.name not in _OPCODES:
                raise CaseError(f"refused the pickle opcode {opcode.name}; only arrays and plain values are expected")
            # A memo index far beyond the payload makes the unpickler take memory for all below it.
            if opcode.name in ("BINPUT", "LONG_BINPUT") and argument > len(payload):
                raise CaseError(f"refused a pickle with memo index {argument}")
        value = _SafeUnpickler(io.BytesIO(payload)).load()
    except CaseError as error:
        raise CaseError(f"key '{key}': {error}") from error
    except Exception as error:  # A broken pickle raises whatever its bytes happen to spell.
        raise CaseError(f"key '{key}' is not a readable pickle ({type(error).__name__}: {_one_line(error)})") from error
    if not isinstance(value, np.ndarray):
        raise CaseError(f"key '{key}' holds a pickled {type(value).__name__}; expected an array")
    return value.view(np.ndarray)


def _usable_image(image: np.ndarray, notes: list[str]) -> np.ndarray:
    if image.ndim != 3 or image.size == 0:
        raise CaseError(f"imgs has shape {image.shape}; expected three axes (D, H, W), none empty")
    if image.dtype.kind not in "buif":
        raise CaseError(f"imgs has dtype {image.dtype}; expected a real number")
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        if not finite.all():
            notes.append(f"imgs has {image.size - int(finite.sum())} voxels that are not finite; taken as 0")
            image = np.where(finite, image, 0)
    return image


def _spacing(spacing: np.ndarray | None, notes: list[str]) -> tuple[float, float, float]:
    try:
        values = tuple(float(v) for v in spacing.ravel()) if spacing is not None and spacing.size == 3 else ()
        if values and all(math.isfinite(v) and v > 0 for v in values):
            return values
    except (TypeError, ValueError):
        pass  # Falls through to the note below, as any other unusable spacing does.
    notes.append("no usable spacing; taken as 1 mm along each axis")
    return (1.0, 1.0, 1.0)


def _previous(archive: zipfile.ZipFile, shape: Voxel, notes: list[str]) -> np.ndarray | None:
    """The previous run's label map; None, with a note, if it is none of this image: it can be done without."""
    try:
        previous = _read_array(archive, "prev_pred", beside=WORKING_BYTES_A_VOXEL)
        if previous.shape != shape or previous.dtype.kind not in "buif":
            raise CaseError(f"key 'prev_pred' is {previous.dtype} {previous.shape}; expected integers {shape}")
    except CaseError as error:
        notes.append(f"{error}; it is not used")
        return None
    if previous.dtype == np.uint8:
        return previous
    # What is no label, as a NaN or a negative number, must not become one by wrapping around.
    return np.where((previous >= 0) & (previous <= MAX_OBJECTS), previous, 0).astype(np.uint8)


def _entries(value: np.ndarray | None) -> list:
    """The entries of an array of one entry an object."""
    if value is None or (value.ndim == 0 and value.item() is None):
        return []
    if value.ndim == 0:
        entry = value.item()
        return list(entry) if isinstance(entry, (list, tuple)) else [entry]
    return list(value)


def _integers(values: Any) -> Voxel | None:
    """Three finite numbers, rounded; None if they are not."""
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return None
    if len(numbers) != 3 or not all(math.isfinite(v) and abs(v) < 2**53 for v in numbers):
        return None
    return tuple(round(v) for v in numbers)


def _box(entry: Any, shape: Voxel, label: int, notes: list[str]) -> Box | None:
    """The box of an entry; None, with a note, if it says nothing about this image."""
    if not isinstance(entry, dict):
        notes.append(f"object {label}: its box is not a dictionary; the object is taken as having none")
        return None
    first = _integers(entry.get(key) for key in ("z_min", "z_mid_y_min", "z_mid_x_min"))
    second = _integers(entry.get(key) for key in ("z_max", "z_mid_y_max", "z_mid_x_max"))
    if first is None or second is None:
        notes.append(f"object {label}: its box lacks a number; the object is taken as having none")
        return None
    box = Box(tuple(map(min, first, second)), tuple(map(max, first, second)))
    clipped = box.clipped(shape)
    if box.lower != first:
        notes.append(f"object {label}: its box is inverted; its corners are put in order")
    if clipped is None:
        notes.append(f"object {label}: its box lies outside the image; the object is taken as having none")
    elif clipped != box:
        notes.append(f"object {label}: its box reaches outside the image; the part inside is used")
    return clipped


def _clicks(entry: Any, order: Any, shape: Voxel, label: int, notes: list[str]) -> tuple[Click, ...]:
    """An object's clicks, in the order given; foreground first where the order does not fit the lists."""
    if not isinstance(entry, dict):
        return ()
    lists = {kind: _as_list(entry.get(kind)) for kind in ("fg", "bg")}
    kinds = [str(kind) for kind in _as_list(order) if isinstance(kind, str) and kind in lists]
    if any(kinds.count(kind) != len(lists[kind]) for kind in lists):
        notes.append(f"object {label}: clicks_order does not fit its clicks; foreground clicks are taken first")
        kinds = ["fg"] * len(lists["fg"]) + ["bg"] * len(lists["bg"])
    positions = {kind: iter(lists[kind]) for kind in lists}
    clicks = []
    for kind in kinds:
        position = _integers(next(positions[kind]))
        if position is None or not all(0 <= v < n for v, n in zip(position, shape)):
            notes.append(f"object {label}: a click that is no voxel of the image is left aside")
        else:
            clicks.append(Click(position, positive=kind == "fg"))
    return tuple(clicks)


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim) else []


def _one_line(error: BaseException) -> str:
    return _shortened(str(error)) or type(error).__name__


def _shortened(text: str, length: int = 200) -> str:
    """At most ``length`` characters on one line."""
    return " ".join(text.split())[:length]
