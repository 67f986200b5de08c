"""A case on disk: what is read, what is repaired, what is refused, what is written."""

from __future__ import annotations

import os
import pickle
import stat
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy._core.multiarray import _reconstruct, scalar

from inference import npz
from inference.case import CaseError, Click, ObjectPrompts, read_case, write_segmentation
from inference.geometry import Box
from inference.npz import NpzError, read_array
from tests.inference.factories import (
    Reduced,
    array_bytes,
    array_header,
    box_entry,
    click_entries,
    read_output,
    volume,
    write_case,
    write_keys,
    write_members,
    write_pickle_as_boxes,
)

SHAPE = (6, 8, 10)
BOX, OTHER_BOX = Box((1, 2, 3), (3, 5, 7)), Box((0, 0, 0), (5, 7, 9))


def refusal(path: Path) -> str:
    """The message with which a file is refused: one line that begins with the file's name."""
    with pytest.raises(CaseError) as error:
        read_case(path)
    message = str(error.value)
    assert message.startswith(f"{path.name}: ")
    assert len(message.splitlines()) == 1
    return message


class TestReading:
    def test_a_case_as_the_evaluator_writes_it(self, tmp_path: Path) -> None:
        image, previous = volume(SHAPE), np.zeros(SHAPE, np.uint8)
        previous[2, 3, 4] = 2
        clicks = [[("fg", (1, 2, 3)), ("bg", (5, 7, 9)), ("fg", (0, 0, 0))], [("bg", (4, 4, 4))] * 3]
        case = read_case(write_case(tmp_path / "a.npz", image, [BOX, OTHER_BOX], clicks, prev_pred=previous))

        assert case.name == "a.npz"
        assert case.spacing == (3.0, 1.0, 1.0)
        np.testing.assert_array_equal(case.image, image)
        np.testing.assert_array_equal(case.previous, previous)
        first = (Click((1, 2, 3), True), Click((5, 7, 9), False), Click((0, 0, 0), True))
        assert case.objects == (
            ObjectPrompts(1, BOX, first),
            ObjectPrompts(2, OTHER_BOX, (Click((4, 4, 4), False),) * 3),
        )
        assert case.notes == ()

    def test_a_step_without_a_click_is_none_in_the_order(self, tmp_path: Path) -> None:
        clicks = [[("bg", (1, 1, 1)), None, ("fg", (2, 2, 2))], [None, ("fg", (3, 3, 3)), None], [None] * 3]
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), clicks=clicks))
        assert [prompts.clicks for prompts in case.objects] == [
            (Click((1, 1, 1), False), Click((2, 2, 2), True)),
            (Click((3, 3, 3), True),),
            (),
        ]
        assert case.notes == ()

    def test_of_clicks_that_contradict_each_other_it_is_said_which_counts(self, tmp_path: Path) -> None:
        clicks = [
            [("bg", (1, 1, 1)), ("fg", (1, 1, 1)), ("fg", (2, 2, 2)), ("fg", (2, 2, 2))],
            [("bg", (2, 2, 2)), None, None, None],
        ]
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), clicks=clicks))
        assert case.notes == (
            "object 1: 1,1,1 (z,y,x) is clicked as foreground and as background; the later click counts, foreground",
        )

    def test_an_order_that_does_not_fit_the_clicks_loses_none(self, tmp_path: Path) -> None:
        entries = click_entries([[("bg", (1, 1, 1)), ("fg", (2, 2, 2))]]) | {"clicks_order": [["fg"]]}
        case = read_case(write_keys(tmp_path / "a.npz", volume(SHAPE), entries))
        assert set(case.objects[0].clicks) == {Click((1, 1, 1), False), Click((2, 2, 2), True)}
        assert "clicks_order" in case.notes[0]

    def test_clicks_without_their_order_are_read(self, tmp_path: Path) -> None:
        entries = click_entries([[("fg", (2, 2, 2))]])
        del entries["clicks_order"]
        case = read_case(write_keys(tmp_path / "a.npz", volume(SHAPE), entries))
        assert case.objects[0].clicks == (Click((2, 2, 2), True),)

    def test_neither_boxes_nor_clicks_is_one_object(self, tmp_path: Path) -> None:
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE)))
        assert case.objects == (ObjectPrompts(1),)
        assert "neither boxes nor clicks" in case.notes[0]

    @pytest.mark.parametrize("labels", [(3,), (1, 3), (255,)])
    def test_neither_boxes_nor_clicks_is_the_objects_that_the_previous_mask_holds(
        self, labels: tuple[int, ...], tmp_path: Path
    ) -> None:
        previous = np.zeros(SHAPE, np.uint8)
        previous[0, 0, : len(labels)] = labels
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), prev_pred=previous))
        assert case.objects == tuple(ObjectPrompts(label) for label in labels)

    def test_a_box_that_reaches_outside_is_clipped_and_noted(self, tmp_path: Path) -> None:
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [Box((-2, 3, 4), (2, 99, 9))]))
        assert case.objects[0].box == Box((0, 3, 4), (2, 7, 9))
        assert "outside" in case.notes[0]

    def test_a_box_outside_the_image_is_no_box(self, tmp_path: Path) -> None:
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [Box((20, 20, 20), (22, 22, 22)), BOX]))
        assert [prompts.box for prompts in case.objects] == [None, BOX]
        assert "object 1" in case.notes[0]

    def test_an_inverted_box_is_put_in_order(self, tmp_path: Path) -> None:
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [Box(BOX.upper, BOX.lower)]))
        assert case.objects[0].box == BOX
        assert "inverted" in case.notes[0]

    def test_coordinates_that_are_no_integers_are_rounded(self, tmp_path: Path) -> None:
        entry = {key: np.float64(value) - 0.3 for key, value in box_entry(BOX).items()}
        clicks = [{"fg": [[1.7, 2.2, 2.9]], "bg": []}]
        case = read_case(write_keys(tmp_path / "a.npz", volume(SHAPE), {"boxes": [entry], "clicks": clicks}))
        assert case.objects == (ObjectPrompts(1, BOX, (Click((2, 2, 3), True),)),)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "ten", 10**400], ids=lambda v: str(v)[:4])
    def test_a_box_without_a_number_is_no_box(self, tmp_path: Path, value: object) -> None:
        entry = box_entry(BOX) | {"z_mid_x_max": value}
        case = read_case(write_keys(tmp_path / "a.npz", volume(SHAPE), {"boxes": [entry]}))
        assert case.objects[0].box is None
        assert "box" in case.notes[0]

    def test_a_click_outside_the_image_is_left_aside_and_noted(self, tmp_path: Path) -> None:
        clicks = [[("fg", (6, 0, 0)), ("fg", (5, 0, 0)), ("bg", (0, -1, 0))]]
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), clicks=clicks))
        assert case.objects[0].clicks == (Click((5, 0, 0), True),)
        assert len(case.notes) == 2

    def test_values_that_are_not_finite_become_zero(self, tmp_path: Path) -> None:
        image = volume(SHAPE, np.float32)
        image[0, 0, :3] = np.nan, np.inf, -np.inf
        case = read_case(write_case(tmp_path / "a.npz", image, [BOX]))
        image[0, 0, :3] = 0
        np.testing.assert_array_equal(case.image, image)
        assert "3 voxels" in case.notes[0]

    @pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", ">u2", "i4", "u8", "f2", "f4", ">f8", "f8"])
    def test_any_real_dtype_keeps_its_values(self, tmp_path: Path, dtype: str) -> None:
        image = volume(SHAPE).astype(dtype)
        case = read_case(write_case(tmp_path / "a.npz", image, [BOX]))
        assert case.image.dtype == image.dtype
        np.testing.assert_array_equal(case.image, image)

    def test_fortran_order_keeps_its_axes(self, tmp_path: Path) -> None:
        image = volume(SHAPE)
        case = read_case(write_case(tmp_path / "a.npz", np.asfortranarray(image), [BOX]))
        np.testing.assert_array_equal(case.image, image)

    @pytest.mark.parametrize("spacing", [[1.0, 1.0], [0.0, 1.0, 1.0], [np.nan, 1.0, 1.0], ["a", "b", "c"]], ids=str)
    def test_an_unusable_spacing_is_one_millimetre(self, tmp_path: Path, spacing: list) -> None:
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [BOX], spacing=np.array(spacing)))
        assert case.spacing == (1.0, 1.0, 1.0)
        assert "spacing" in case.notes[0]

    @pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f4"])
    def test_a_previous_mask_of_any_dtype_is_read_as_labels(self, tmp_path: Path, dtype: str) -> None:
        previous = (volume(SHAPE) > 99).astype(dtype)
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [BOX], prev_pred=previous))
        assert case.previous.dtype == np.uint8
        np.testing.assert_array_equal(case.previous, previous)

    def test_what_is_no_label_does_not_become_one(self, tmp_path: Path) -> None:
        previous = np.zeros(SHAPE, np.float64)
        previous[0, 0, :6] = np.nan, -1, 256, 1e300, -np.inf, 255
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [BOX], prev_pred=previous))
        np.testing.assert_array_equal(np.argwhere(case.previous), [[0, 0, 5]])

    def test_a_previous_mask_that_cannot_be_read_is_done_without(self, tmp_path: Path) -> None:
        path = write_members(tmp_path / "a.npz", imgs=array_bytes(volume(SHAPE)), prev_pred=b"no array")
        case = read_case(path)
        assert case.previous is None
        assert any("prev_pred" in note for note in case.notes)

    def test_a_previous_mask_of_another_shape_is_not_used(self, tmp_path: Path) -> None:
        case = read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [BOX], prev_pred=np.ones((2, 2, 2), np.uint8)))
        assert case.previous is None
        assert "prev_pred" in case.notes[0]

    def test_the_truth_and_unknown_keys_are_never_read(self, tmp_path: Path) -> None:
        path = write_members(
            tmp_path / "a.npz", imgs=array_bytes(volume(SHAPE)), gts=b"no array", text_prompts=b"nor is this"
        )
        assert read_case(path).image.shape == SHAPE
        with pytest.raises(NpzError, match=r"a\.npz: key 'gts' has a broken array header"):
            read_array(path, "gts")

    def test_one_array_alone(self, tmp_path: Path) -> None:
        truth = (volume(SHAPE) > 99).astype(np.uint16)
        path = write_case(tmp_path / "a.npz", volume(SHAPE), [BOX], gts=truth)
        np.testing.assert_array_equal(read_array(path, "gts"), truth)

    def test_255_objects_are_read_and_256_refused(self, tmp_path: Path) -> None:
        assert len(read_case(write_case(tmp_path / "a.npz", volume(SHAPE), [BOX] * 255)).objects) == 255
        assert "256 objects" in refusal(write_case(tmp_path / "b.npz", volume(SHAPE), [BOX] * 256))

    def test_a_real_case(self, real_cases: list[Path]) -> None:
        case = read_case(real_cases[0])
        with np.load(real_cases[0], allow_pickle=True) as content:
            np.testing.assert_array_equal(case.image, content["imgs"])
            boxes = content["boxes"]
        assert [prompts.box.lower[0] for prompts in case.objects] == [box["z_min"] for box in boxes]
        assert [prompts.box.upper[2] for prompts in case.objects] == [box["z_mid_x_max"] for box in boxes]


class TestRefusing:
    def test_no_such_file(self, tmp_path: Path) -> None:
        assert "not a readable .npz" in refusal(tmp_path / "a.npz")

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").mkdir()
        refusal(tmp_path / "a.npz")

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.npz")
        assert "not a regular file" in refusal(tmp_path / "a.npz")

    @pytest.mark.parametrize("content", [b"", b"\0" * 64, b"PK\5\6" + b"\0" * 18, array_bytes(volume(SHAPE))])
    def test_no_zip_of_arrays(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.npz"
        path.write_bytes(content)
        refusal(path)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    def test_a_truncated_file(self, tmp_path: Path, share: float) -> None:
        path = write_case(tmp_path / "a.npz", volume(SHAPE), [BOX])
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        refusal(path)

    def test_a_damaged_byte(self, tmp_path: Path) -> None:
        path = write_case(tmp_path / "a.npz", volume(SHAPE), [BOX])
        content = bytearray(path.read_bytes())
        content[200] ^= 0xFF
        path.write_bytes(content)
        refusal(path)

    def test_no_image(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", spacing=np.ones(3))
        assert "no key 'imgs' (found: spacing)" in refusal(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        "image",
        [np.zeros((4, 4)), np.zeros((1, 2, 3, 4)), np.zeros((0, 4, 4)), np.zeros((2, 2, 2), complex), np.array("text")],
        ids=["two axes", "four axes", "an empty axis", "complex", "text"],
    )
    def test_an_image_that_is_none(self, tmp_path: Path, image: np.ndarray) -> None:
        assert "expected" in refusal(write_case(tmp_path / "a.npz", image))

    @pytest.mark.parametrize("dtype", ["S0", "V0", "V8", "M8[s]", "u1,f4", "(3,)u1"])
    def test_an_odd_dtype(self, tmp_path: Path, dtype: str) -> None:
        path = write_members(tmp_path / "a.npz", imgs=array_header(dtype, (2, 2, 2)) + b"\0" * 64)
        assert "key 'imgs' has dtype" in refusal(path)

    def test_negative_axes(self, tmp_path: Path) -> None:
        path = write_members(tmp_path / "a.npz", imgs=array_header("u1", (-2, -2, 2)) + b"\0" * 8)
        assert "(-2, -2, 2)" in refusal(path)

    def test_fewer_bytes_than_the_shape_says(self, tmp_path: Path) -> None:
        path = write_members(tmp_path / "a.npz", imgs=array_header("u1", (64, 64, 64)) + b"\0" * 100)
        assert "declares 262144 bytes" in refusal(path)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damaged_prompts_are_refused_or_read_and_nothing_else(self, tmp_path: Path, data: st.DataObject) -> None:
        entries = click_entries([[("fg", (1, 2, 3)), None], [("bg", (4, 5, 6)), ("fg", (0, 0, 0))]])
        boxes = array_bytes(np.array([box_entry(BOX), box_entry(OTHER_BOX)]))
        clicks = array_bytes(np.array(entries["clicks"]))
        damaged = bytearray(data.draw(st.sampled_from([boxes, clicks])))
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        path = write_members(
            tmp_path / "a.npz", imgs=array_bytes(volume(SHAPE)), boxes=bytes(damaged), clicks=bytes(damaged)
        )
        try:
            read_case(path)
        except CaseError as error:
            assert str(error).startswith("a.npz: ")


MANY = 2**29
"""Elements that a bomb asks for: enough to be seen, little enough to survive where the defence is missing."""

EMPTY = (np.ndarray, (0,), b"b")

BOMBS = {
    "an array that is not filled": Reduced(np.ndarray, ((MANY,), "u1")),
    "objects that are not there": Reduced(_reconstruct, EMPTY, (1, (MANY // 8,), np.dtype("O"), False, [])),
    "bytes that are not there": Reduced(_reconstruct, EMPTY, (1, (MANY,), np.dtype("u1"), False, b"")),
    "negative axes whose product fits": Reduced(_reconstruct, EMPTY, (1, (-2, -4), np.dtype("u1"), False, b"12345678")),
    "a _reconstruct with a shape": Reduced(_reconstruct, (np.ndarray, (MANY,), b"b")),
    "a dtype with a huge element": Reduced(scalar, (np.dtype(f"V{MANY}"),)),
    "a text with a huge element": Reduced(scalar, (np.dtype(f"U{MANY // 4}"), b"")),
    "no array at all": Reduced(list, ()),
}


def peak_bytes(action: Callable[[], object]) -> int:
    """The most memory that Python and numpy held at once during ``action``, beyond what they held before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestBombs:
    """Files made to run code or to take memory. Each is refused before it has done either."""

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    @pytest.mark.parametrize("call", [os.system, eval, exec], ids=lambda call: call.__name__)
    def test_code_is_not_run(self, tmp_path: Path, call: Callable, protocol: int) -> None:
        marker = tmp_path / "it ran"
        argument = f"touch '{marker}'" if call is os.system else f"open({str(marker)!r}, 'w')"
        payload = pickle.dumps(Reduced(call, (argument,)), protocol=protocol)
        assert "refused to unpickle" in refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))
        assert not marker.exists()
        pickle.loads(payload)
        assert marker.exists(), "the bomb is a dud, and the test above shows nothing"

    @pytest.mark.parametrize("name", ["eval", "getattr", "object", "__import__"])
    def test_builtins_are_not_found(self, tmp_path: Path, name: str) -> None:
        payload = f"cbuiltins\n{name}\n.".encode()
        assert f"builtins.{name}" in refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))

    @pytest.mark.parametrize("name", ["scalar", "_reconstruct"])
    def test_what_reads_a_pickle_is_not_changed_by_it(self, tmp_path: Path, name: str) -> None:
        """BUILD sets attributes of any object that does not forbid it, functions included."""
        state = b"N}X\x0c\0\0\0__defaults__K\x01K\x02\x86s\x86b"
        payload = b"\x80\x04cnumpy.core.multiarray\n" + name.encode() + b"\n" + state + b"."
        assert "changes what reads it" in refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))

    @pytest.mark.parametrize(
        "payload",
        [pickle.dumps({1, 2}, 4), pickle.dumps(frozenset([1]), 4), pickle.dumps(bytearray(9), 5), pickle.dumps(1, 0)],
        ids=["set", "frozenset", "bytearray", "text protocol"],
    )
    def test_opcodes_that_no_case_needs_are_refused(self, tmp_path: Path, payload: bytes) -> None:
        assert "refused the pickle opcode" in refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))

    def test_names_beside_the_allowed_ones_are_not_found(self, tmp_path: Path) -> None:
        payload = b"cnumpy\nload\n."
        assert "numpy.load" in refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))

    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
    def test_memory_is_not_taken_by_a_pickle(self, tmp_path: Path, bomb: Reduced) -> None:
        path = write_pickle_as_boxes(tmp_path / "a.npz", bomb.pickled())
        assert peak_bytes(lambda: refusal(path)) < 2**24

    def test_memory_is_not_taken_by_a_huge_memo_index(self, tmp_path: Path) -> None:
        payload = b"\x80\x04]" + pickle.LONG_BINPUT + struct.pack("<I", 2**31) + b"."
        assert "memo index" in refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))

    def test_a_list_of_lists_that_share_is_not_spread_out(self, tmp_path: Path) -> None:
        shared: list = [0] * 1000
        for _ in range(3):
            shared = [shared] * 1000
        path = write_pickle_as_boxes(tmp_path / "a.npz", pickle.dumps(shared))
        assert peak_bytes(lambda: refusal(path)) < 2**24

    def test_an_order_that_shares_is_not_spelled_out(self, tmp_path: Path) -> None:
        shared: list = ["fg"]
        for _ in range(60):
            shared = [shared, shared]
        order = np.empty((1, 1), object)
        order[0, 0] = shared
        entries = click_entries([[("fg", (1, 1, 1))]]) | {"clicks_order": order}
        path = write_keys(tmp_path / "a.npz", volume(SHAPE), entries)
        assert read_case(path).objects[0].clicks == (Click((1, 1, 1), True),)

    def test_a_deep_nest_is_refused(self, tmp_path: Path) -> None:
        payload = b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b"."
        refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))

    def test_an_image_beyond_the_limit(self, tmp_path: Path) -> None:
        path = write_members(tmp_path / "a.npz", imgs=array_header("f8", (2**11, 2**10, 2**10)))
        assert "at most" in refusal(path)

    @pytest.mark.parametrize("key", ["spacing", "boxes", "clicks", "clicks_order"])
    def test_prompts_as_large_as_an_image(self, tmp_path: Path, key: str) -> None:
        content = {key: array_header("f8", (2**20,)) + b"\0" * 2**23}
        path = write_members(tmp_path / "a.npz", imgs=array_bytes(volume(SHAPE)), **content)
        assert f"key '{key}' declares" in refusal(path)

    def test_a_member_that_declares_more_than_it_holds(self, tmp_path: Path) -> None:
        image = array_header("u1", (2**10,) * 3) + b"\0" * 1000
        path = write_members(tmp_path / "a.npz", imgs=image)
        size, lie = struct.pack("<I", len(image)), struct.pack("<I", 2**30 + 4096)
        content = path.read_bytes()
        assert content.count(size) == 2, "the size stands before the member and in the directory"
        path.write_bytes(content.replace(size, lie))
        refusal(path)

    def test_a_pickle_that_declares_more_than_prompts_need(self, tmp_path: Path) -> None:
        payload = b" " * (npz.MAX_PICKLE_BYTES + 1)
        assert "of objects" in refusal(write_pickle_as_boxes(tmp_path / "a.npz", payload))

    def test_a_header_that_runs_on(self, tmp_path: Path) -> None:
        header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**27) + b" " * 2**27
        path = write_members(tmp_path / "a.npz", imgs=header)
        assert peak_bytes(lambda: refusal(path)) < 2**24


class TestWriting:
    LABELS = (volume(SHAPE) % 3).astype(np.uint8)

    def test_what_the_evaluator_reads(self, tmp_path: Path) -> None:
        write_segmentation(tmp_path / "a.npz", self.LABELS)
        written = read_output(tmp_path / "a.npz")
        assert written.dtype == np.uint8
        np.testing.assert_array_equal(written, self.LABELS)

    def test_axes_in_any_memory_order(self, tmp_path: Path) -> None:
        write_segmentation(tmp_path / "a.npz", np.asfortranarray(self.LABELS)[::-1])
        np.testing.assert_array_equal(read_output(tmp_path / "a.npz"), self.LABELS[::-1])

    def test_everybody_may_read_it_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            write_segmentation(tmp_path / "a.npz", self.LABELS)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a.npz").stat().st_mode) == 0o644

    def test_an_older_file_is_replaced_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(b"older")
        write_segmentation(tmp_path / "a.npz", self.LABELS)
        np.testing.assert_array_equal(read_output(tmp_path / "a.npz"), self.LABELS)
        assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]

    def test_the_older_file_stands_until_the_new_one_is_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.npz").write_bytes(b"older")
        seen = []

        def write_array(member: object, array: np.ndarray, **_: object) -> None:
            seen.extend((path.suffix, path.read_bytes()) for path in tmp_path.glob("*.npz"))
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np.lib.format, "write_array", write_array)
        with pytest.raises(OSError, match="No space"):
            write_segmentation(tmp_path / "a.npz", self.LABELS)
        assert seen == [(".npz", b"older")], "while it is written, the older file is the only one the evaluator sees"
        assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
        assert (tmp_path / "a.npz").read_bytes() == b"older"

    @pytest.mark.parametrize("labels", [LABELS.astype(np.int64), LABELS[0]], ids=["not uint8", "a slice"])
    def test_anything_else_is_refused(self, tmp_path: Path, labels: np.ndarray) -> None:
        with pytest.raises(ValueError, match="expected a uint8 volume"):
            write_segmentation(tmp_path / "a.npz", labels)
        assert list(tmp_path.iterdir()) == []
