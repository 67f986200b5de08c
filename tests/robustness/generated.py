"""Generated case files, from ordinary to absurd, and what must be true of a run over any of them."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from inference import __main__ as command
from inference.case import MAX_OBJECTS
from inference.geometry import Voxel
from inference.segmenter import Segmenter
from tests.inference.factories import read_output, segmenter, volume, write_case

LONGEST_AXIS = 300
NAME, GOOD = "1_generated.npz", "2_good.npz"

REAL = ["?", "u1", "i1", "u2", ">u2", "i2", "u4", "i4", ">i4", "u8", "i8", "f2", "f4", ">f4", "f8", ">f8", "g"]
NOT_REAL = ["c8", "U3", "S2", "M8[s]", "O"]
FILLS = ["noise", "whole range", "zero", "constant", "one voxel", "not finite", "tiny", "slices"]
BOX_KEYS = ("z_min", "z_max", "z_mid", "z_mid_x_min", "z_mid_x_max", "z_mid_y_min", "z_mid_y_max")


@dataclass(frozen=True)
class Generated:
    """A case file's keys, and what its reader owes them.

    Attributes:
        keys: as for ``numpy.savez``.
        usable: it must be segmented, and must not be refused.
        objects: K, where it is certain.
    """

    keys: dict[str, np.ndarray]
    usable: bool
    objects: int | None


@st.composite
def shapes(draw: st.DrawFn, voxels: int) -> Voxel:
    """1 to 300 along each axis, and at most ``voxels`` in all."""
    lengths: list[int] = []
    for _ in range(3):
        longest = min(LONGEST_AXIS, voxels // int(np.prod(lengths, initial=1)))
        lengths.append(draw(st.integers(1, max(longest, 1))))
    return tuple(draw(st.permutations(lengths)))


def image_of(shape: Voxel, dtype: np.dtype, fill: str, seed: int) -> np.ndarray:
    """A volume of any dtype; ``fill`` says what is in it."""
    rng = np.random.default_rng(seed)
    if dtype.kind in "USMO":
        return rng.integers(0, 99, shape).astype(dtype)
    image = rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    limits = np.finfo(dtype) if dtype.kind in "fc" else np.iinfo(dtype) if dtype.kind in "ui" else None
    if fill == "whole range" and limits is not None:
        image = np.where(rng.random(shape) < 0.5, limits.min, limits.max).astype(dtype)
    elif fill == "zero":
        image[:] = 0
    elif fill == "constant":
        image[:] = 1 if limits is None else limits.max
    elif fill == "one voxel":
        image[:] = 0
        image[tuple(rng.integers(0, n) for n in shape)] = 1
    elif fill == "not finite" and dtype.kind == "f":
        image[rng.random(shape) < 0.3] = np.nan
        image[rng.random(shape) < 0.1] = np.inf
        image[rng.random(shape) < 0.1] = -np.inf
    elif fill == "tiny" and dtype.kind == "f":
        image = image * limits.smallest_subnormal
    elif fill == "slices":
        image[::2] = 0
    return image


def _numbers(length: int) -> st.SearchStrategy:
    """A coordinate along an axis of this length: mostly a voxel's, else outside, negative, no integer, no number."""
    inside = st.integers(0, length - 1)
    odd = st.one_of(
        st.integers(-(10**3), 10**3),
        st.floats(-2.0 * length, 2.0 * length),
        st.sampled_from([np.nan, np.inf, -np.inf, 10**30, -(2**63), 2**64, None, "7", "", True, [1], {}]),
        st.integers(-(2**15), 2**15 - 1).map(np.int16),
        st.floats(width=32).map(np.float32),
    )
    return st.integers(0, 9).flatmap(lambda chance: odd if chance == 9 else inside.map(np.int64))


def _box(shape: Voxel) -> st.SearchStrategy:
    axes = {"z_min": 0, "z_max": 0, "z_mid": 0, "z_mid_x_min": 2, "z_mid_x_max": 2, "z_mid_y_min": 1, "z_mid_y_max": 1}
    whole = st.fixed_dictionaries({key: _numbers(shape[axis]) for key, axis in axes.items()})
    partial = st.dictionaries(st.sampled_from(BOX_KEYS), st.integers(0, 9), max_size=5)
    junk = st.sampled_from([None, 3, "box", [], (1, 2), np.zeros(3), {0: 1}])
    return st.integers(0, 9).flatmap(lambda chance: junk if chance == 9 else partial if chance == 8 else whole)


def _clicks(shape: Voxel) -> st.SearchStrategy:
    position = st.one_of(
        st.tuples(*map(_numbers, shape)).map(list),
        st.tuples(*map(_numbers, shape)),
        st.tuples(*[st.integers(0, n - 1) for n in shape]).map(np.array),
        st.sampled_from([None, [], [1], [1, 2, 3, 4], "123", 5, np.zeros((3, 3))]),
    )
    few = st.lists(position, max_size=4)
    # The same click hundreds of times.
    many = st.tuples(position, st.integers(100, 400)).map(lambda pair: [pair[0]] * pair[1])
    positions = st.integers(0, 19).flatmap(lambda chance: many if chance == 19 else few)
    entry = st.fixed_dictionaries({"fg": positions, "bg": positions})
    junk = st.sampled_from([None, {}, {"fg": 3}, {"fg": None, "bg": [[0, 0, 0]]}, [], "fg", np.zeros((2, 3))])
    return st.integers(0, 9).flatmap(lambda chance: junk if chance == 9 else entry)


def _order(entry: Any) -> list[str]:
    """A ``clicks_order`` that fits an entry of ``clicks``."""
    lists = [entry.get(kind) if isinstance(entry, dict) else None for kind in ("fg", "bg")]
    lengths = [len(positions) if isinstance(positions, list) else 0 for positions in lists]
    return ["fg"] * lengths[0] + ["bg"] * lengths[1]


def _object_array(entries: list) -> np.ndarray:
    array = np.empty(len(entries), object)
    array[:] = entries
    return array


def _entries(draw: st.DrawFn, entry: st.SearchStrategy) -> list:
    """A few entries, none, or as many as there are labels and more."""
    count = draw(st.sampled_from([0, 1, 1, 1, 2, 2, 3, 5]))
    if draw(st.integers(0, 199)) == 0:
        count = draw(st.sampled_from([17, MAX_OBJECTS, MAX_OBJECTS + 1]))
    if count < 10:
        return [draw(entry) for _ in range(count)]
    some = [draw(entry) for _ in range(3)]
    return [some[i % 3] for i in range(count)]


JUNK = st.sampled_from(
    [np.array(None), np.array(7), np.zeros(0), np.zeros((2, 7)), np.array("text"), np.array([{}, []], object)]
)
SPACINGS = st.one_of(
    st.lists(st.floats(0.01, 20), min_size=3, max_size=3).map(np.array),
    st.lists(st.floats(), max_size=5).map(np.array),
    st.sampled_from([np.array(["a", "b", "c"]), np.array([None] * 3), np.array(2), np.ones((1, 3), ">f4")]),
)


@st.composite
def cases(draw: st.DrawFn, voxels: int = 2**12) -> Generated:
    """A case of at most ``voxels`` voxels, with any subset of the challenge's keys."""
    shape = draw(shapes(voxels))
    seed = draw(st.integers(0, 2**16))
    chance = st.integers(0, 29)
    usable, keys, count = True, {}, None
    dtype = np.dtype(draw(st.sampled_from(REAL)))
    if draw(chance) == 29:
        usable, dtype = False, np.dtype(draw(st.sampled_from(NOT_REAL)))
    image = image_of(shape, dtype, draw(st.sampled_from(FILLS)), seed)
    match draw(chance):
        case 27:
            usable, image = False, image[0]
        case 28:
            usable, image = False, image[:0]
        case 29:
            image = np.asfortranarray(image)
    if draw(chance) == 29:
        usable = False
    else:
        keys["imgs"] = image
    if draw(st.booleans()):
        keys["spacing"] = draw(SPACINGS)

    certain = True
    if draw(st.booleans()):
        entries = _entries(draw, _box(shape))
        keys["boxes"] = _object_array(entries)
        count = len(entries) or None
    elif draw(chance) > 26:
        keys["boxes"], certain = draw(JUNK), False
    if draw(st.booleans()):
        entries = _entries(draw, _clicks(shape))
        keys["clicks"] = _object_array(entries)
        count = count or len(entries) or None
        if draw(st.booleans()):
            keys["clicks_order"] = _object_array([draw(st.just(_order(e)) | st.just(None)) for e in entries[:17]])
    elif draw(chance) > 26:
        keys["clicks"], certain = draw(JUNK), False
    if draw(chance) > 26:
        keys["clicks_order"] = draw(JUNK | st.just(np.array([["fg", "bg"]])))
    if draw(st.booleans()):
        previous = np.random.default_rng(seed).integers(0, draw(st.sampled_from([2, 4, 256])), shape)
        other = draw(chance) > 25
        if other:
            previous = image_of(
                shape, np.dtype(draw(st.sampled_from(REAL + NOT_REAL))), draw(st.sampled_from(FILLS)), 1
            )
            certain = certain and count is not None
        keys["prev_pred"] = previous if other else previous.astype(np.uint8)
        if draw(chance) == 29:
            keys["prev_pred"], certain = keys["prev_pred"][:, :, :-1], certain and count is not None
        if count is None and certain:
            count = int(keys["prev_pred"].max()) or 1
    if draw(chance) > 26:
        keys["gts"] = draw(JUNK)
        keys["text_prompts"] = np.array({"1": "liver"})
    count = count or 1
    return Generated(keys, usable and certain and count <= MAX_OBJECTS, count if certain else None)


class Sum(nn.Module):
    """Instead of a network, for speed: the sum of its input's channels, so that nothing odd in one of them is lost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=1, keepdim=True)


class Runs:
    """Runs of the command over a generated file and, after it, a good one.

    Args:
        folder: an empty folder, for inputs and outputs.
    """

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.inputs, self.outputs = folder / "inputs", folder / "outputs"
        self.inputs.mkdir()
        self.outputs.mkdir()
        self.tool: Segmenter = segmenter(Sum())
        clicks = [[("fg", (1, 2, 3))]]
        write_case(self.inputs / GOOD, volume((4, 5, 6)), clicks=clicks)
        assert self._run()[0] == 0
        self.good = read_output(self.outputs / GOOD)
        self.refused = 0

    def check(self, generated: Generated) -> None:
        """The file is segmented as it should be, or refused in one line; the other case is none the worse for it.

        Raises:
            AssertionError: it was not so.
        """
        np.savez(self.inputs / NAME, **generated.keys)
        for path in self.outputs.iterdir():
            path.unlink()
        code, out, err = self._run()
        np.testing.assert_array_equal(read_output(self.outputs / GOOD), self.good)
        if err:
            assert code == 1
            first, last = err.splitlines()
            assert first.startswith(f"error: {NAME}: ")
            assert last == "1 error(s); see above"
            assert [path.name for path in self.outputs.iterdir()] == [GOOD]
            assert not generated.usable, f"refused without need: {first}"
            self.refused += 1
            return
        assert code == 0
        assert f"{NAME}: " in out
        labels = read_output(self.outputs / NAME)
        assert labels.dtype == np.uint8
        assert labels.shape == generated.keys["imgs"].shape
        assert generated.objects is None or labels.max() <= generated.objects
        assert sorted(path.name for path in self.outputs.iterdir()) == [NAME, GOOD]

    def _run(self) -> tuple[int, str, str]:
        """The exit code, and what was printed; a warning is as good as an error."""
        arguments = ["--inputs", self.inputs, "--outputs", self.outputs, "--seconds-per-class", 1e6, "--device", "cpu"]
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(command, "load_segmenter", lambda *_: self.tool),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")
            self.tool.failures = 0
            code = command.main([str(argument) for argument in arguments])
        return code, out.getvalue(), err.getvalue()
