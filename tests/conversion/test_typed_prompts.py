"""Boxes and clicks as typed, in voxels and in millimetres."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from grids import place, rotation

from conversion.prompt_syntax import distant_clicks, read_box, read_click, read_prompts, with_negative_values
from conversion.volume import ConversionError
from inference.case import Click, ObjectPrompts
from inference.geometry import Box


def spoken(point: tuple[float, float, float], names: str = "LPS") -> str:
    """A point of patient space as it is typed."""
    signs = [1 if name in "LPS" else -1 for name in names]
    return ",".join(f"{name}={sign * v:.6f}" for name, sign, v in zip(names, signs, point))


@pytest.mark.parametrize("names", ["LPS", "RAS", "lps"])
def test_a_click_in_millimetres_is_the_voxel_there(awkward: sitk.Image, names: str) -> None:
    for x, y, z in [(0, 0, 0), (6, 8, 4), (3, 1, 2)]:
        centre = awkward.TransformIndexToPhysicalPoint((x, y, z))
        upper = names.upper()
        text = spoken(centre, upper) if names == upper else spoken(centre).lower()
        assert read_click(text, awkward) == (None, Click((z, y, x), True))


def test_a_click_near_a_voxel_is_that_voxel(awkward: sitk.Image) -> None:
    near = awkward.TransformContinuousIndexToPhysicalPoint((3.4, 0.6, 1.6))
    assert read_click(f"2:bg:{spoken(near)}", awkward) == (2, Click((2, 1, 3), False))


def test_a_box_in_millimetres_holds_what_it_holds(awkward: sitk.Image) -> None:
    """Every voxel whose centre lies in the box of patient space is in the box of voxels, and every side is touched."""
    ends = np.array([awkward.TransformIndexToPhysicalPoint(index) for index in [(2, 2, 1), (5, 6, 3)]])
    lower, upper = ends.min(axis=0) - 0.05, ends.max(axis=0) + 0.05
    box = read_box(",".join(f"{n}={a}:{b}" for n, a, b in zip("LPS", lower, upper)), awkward)
    inside = [
        (z, y, x)
        for z, y, x in itertools.product(*(range(n) for n in awkward.GetSize()[::-1]))
        if (
            (awkward.TransformIndexToPhysicalPoint((x, y, z)) >= lower)
            & (np.array(awkward.TransformIndexToPhysicalPoint((x, y, z))) <= upper)
        ).all()
    ]
    assert (1, 2, 2) in inside and (3, 6, 5) in inside
    assert all(box.contains(voxel) for voxel in inside)


def test_a_box_along_the_patients_axes_is_exact() -> None:
    image = place(direction=np.diag([-1.0, -1.0, 1.0]))
    first, last = (image.TransformIndexToPhysicalPoint(index) for index in [(2, 3, 1), (5, 7, 3)])
    text = ",".join(f"{name}={a}:{b}" for name, a, b in zip("LPS", first, last))
    assert read_box(text, image) == Box((1, 3, 2), (3, 7, 5))
    # From the other side, in another order, and back to front.
    text = f"S={last[2]}:{first[2]},A={-first[1]}:{-last[1]},R={-last[0]}:{-first[0]}"
    assert read_box(text, image) == Box((1, 3, 2), (3, 7, 5))


def test_a_box_that_reaches_out_of_the_image_is_cut_off() -> None:
    assert read_box("L=-1000:1000,P=-1000:1000,S=-5000:5000", place()) == Box((0, 0, 0), (4, 8, 6))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:5,3:4,2:6", Box((0, 3, 2), (4, 4, 6))),
        ("4:1,8:0,2:2", Box((1, 0, 2), (4, 8, 2))),
        ("0:1,0:1,-1:1", Box((0, 0, 0), (1, 1, 1))),
        ("-1:5, -1:9, -1:7", Box((0, 0, 0), (4, 8, 6))),
        ("(0.6:1.4, 0:1.5, 2:3)", Box((1, 0, 2), (1, 2, 3))),
    ],
)
def test_a_box_has_one_rule_in_voxels_and_in_millimetres(text: str, expected: Box) -> None:
    """Corners in either order, fractions, and what reaches outside is cut off and said."""
    image = place()
    said: list[list[str]] = [[], []]
    assert read_box(text, image, said[0].append) == expected
    ends = [tuple(map(float, word.split(":"))) for word in text.strip("()").split(",")]
    points = [image.TransformContinuousIndexToPhysicalPoint([end[side] for end in ends[::-1]]) for side in (0, 1)]
    named = ",".join(f"{name}={a:.4f}:{b:.4f}" for name, a, b in zip("LPS", *points))
    assert read_box(named, image, said[1].append) == expected
    outside = any(min(end) < -0.5 or max(end) > n - 0.5 for end, n in zip(ends, (5, 9, 7)))
    inverted = any(first > last for first, last in ends)
    remarks = ["is inverted; its ends are put in order: "] * inverted + ["reaches outside the image"] * outside
    for lines in said:
        assert len(lines) == len(remarks) and all(remark in line for remark, line in zip(remarks, lines))


@pytest.mark.parametrize(
    "text", ["(1.2, 2.6, 3.0)", "[1 3 3]", " 1.0,3,2.51 ", "1, 3, 3", "fg:(1, 3, 3)", "7:(0.5,2.5,2.5)"]
)
def test_a_click_as_napari_and_numpy_write_it(text: str) -> None:
    assert read_click(text, place())[1] == Click((1, 3, 3), True)


def test_a_click_as_3d_slicer_shows_it() -> None:
    image = place(direction=np.diag([-1.0, -1.0, 1.0]))
    x, y, z = image.TransformIndexToPhysicalPoint((3, 4, 1))
    for text in (f"R {-x:.1f}, A {-y:.1f}, S {z:.1f}", f"(R: {-x:.1f}, A: {-y:.1f}, S: {z:.1f})"):
        assert read_click(f"2:bg:{text}", image) == (2, Click((1, 4, 3), False))


def test_a_click_may_start_with_a_minus() -> None:
    given = ["--click", "-0.4,3,4", "--box", "-1:3,0:1,0:1", "--click", "--box", "-o", "-5"]
    assert with_negative_values(given) == ["--click=-0.4,3,4", "--box=-1:3,0:1,0:1", "--click", "--box", "-o", "-5"]


def test_voxels_are_z_y_x_with_both_ends() -> None:
    assert read_box("1:4,0:8,2:2", place()) == Box((1, 0, 2), (4, 8, 2))
    assert read_click("4,8,6", place()) == (None, Click((4, 8, 6), True))


def test_objects_are_numbered_and_clicks_keep_their_order() -> None:
    objects = read_prompts(["0:1,0:1,0:1", "2:3,2:3,2:3"], ["bg:0,0,0", "2:1,1,1", "3:fg:2,2,2", "1:3,3,3"], place())
    assert [item.label for item in objects] == [1, 2, 3]
    assert [item.box for item in objects] == [Box((0, 0, 0), (1, 1, 1)), Box((2, 2, 2), (3, 3, 3)), None]
    assert objects[0].clicks == (Click((0, 0, 0), False), Click((3, 3, 3), True))
    assert objects[1].clicks == (Click((1, 1, 1), True),)
    assert objects[2].clicks == (Click((2, 2, 2), True),)


def test_an_object_of_a_previous_mask_needs_no_other_prompt() -> None:
    objects = read_prompts([], ["bg:1,1,1"], place(), known=(1, 2))
    assert [len(item.clicks) for item in objects] == [1, 0]


def test_objects_of_a_previous_mask_are_those_that_it_holds() -> None:
    objects = read_prompts([], ["1,1,1", "7:2,2,2", "300:bg:0,0,0"], place(), known=(1, 3, 300))
    assert [(item.label, len(item.clicks)) for item in objects] == [(1, 1), (3, 0), (7, 1), (300, 1)]


@pytest.mark.parametrize(("known", "boxes"), [((5,), []), ((255,), []), ((), ["0:1,0:1,0:1"])])
def test_a_click_without_a_number_is_the_only_objects(known: tuple[int, ...], boxes: list[str]) -> None:
    (item,) = read_prompts(boxes, ["bg:1,1,1"], place(), known)
    assert item.label == (*known, 1)[0] and len(item.clicks) == 1


def test_a_click_of_no_object_in_particular() -> None:
    with pytest.raises(ConversionError, match=r"--click 1,1,1: of which object\? There are 3, 5; .* 3:1,1,1"):
        read_prompts([], ["1,1,1"], place(), known=(3, 5))


def test_more_objects_than_there_can_be() -> None:
    with pytest.raises(ConversionError, match="256 objects; expected 1 to 255"):
        read_prompts([], [f"{label}:1,1,1" for label in range(1, 257)], place())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:2", "not a box"),
        ("1:2,3:4,5", "not a box"),
        ("a:b,3:4,5:6", "not a box"),
        ("5:9,0:1,0:1", "lies outside the image, which spans z 0 to 4, y 0 to 8, x 0 to 6"),
        ("0:1,0:1,-9:-1", "lies outside the image"),
        ("0:1,0:1,nan:1", "not a box"),
        ("L=1:2,P=3:4", "names 2 axes"),
        ("L=1:2,R=3:4,S=1:2", "'R=3:4' is not understood"),
        ("L=1:2,P=3:4,T=1:2", "'T=1:2' is not understood"),
        ("L=1:2,P=3,S=1:2", "'P=3' is not understood"),
        ("L=1:nan,P=3:4,S=1:2", "is not understood"),
        ("L=500:600,P=40:41,S=-1200:-1199", "lies outside the image, which spans L -80.5 to -76.3"),
        ("I=1200:1199,R=500:600,P=40:41", "which spans I 1188.3 to 1200.8, R 76.3 to 80.5, P 40.2 to 50.6"),
    ],
)
def test_no_box(text: str, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        read_box(text, place())
    assert str(caught.value).startswith(f"--box {text}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", "not a click"),
        ("1,2,x", "not a click"),
        ("fg1,2,3", "not a click"),
        ("0:1,2,3", "no object 0"),
        ("5,0,0", "lies outside the image, which spans z 0 to 4, y 0 to 8, x 0 to 6"),
        ("bg:L=1,P=2", "names 2 axes"),
        ("L=0,P=0,S=0", "lies outside the image, which spans L"),
        ("bg:R 10, a 20, S 75", "lies outside the image, which spans R 7"),
    ],
)
def test_no_click(text: str, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        read_click(text, place(direction=rotation()))
    assert str(caught.value).startswith(f"--click {text}: ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("read", "typed", "meant"),
    [
        (read_box, "5:6,0:1,0:1", "--box 0:1,0:1,5:6"),
        (read_box, "3:6,2:5,0:1", "--box 0:1,2:5,3:6"),
        (read_click, "6,8,2", "--click 2,8,6"),
        (read_click, "2:bg:(6, 8, 2)", "--click 2:bg:2,8,6"),
        (read_click, "6,8,5", None),
        (read_click, "5,0,5", None),
        (read_box, "5:9,0:1,0:1", None),
        (read_box, "0:6,0:1,0:6", None),
        (read_click, "L=0,P=0,S=0", None),
    ],
)
def test_numbers_that_fit_backwards_are_taken_for_xyz(read: Callable, typed: str, meant: str | None) -> None:
    """Of an image of 5×9×7 voxels, z×y×x."""
    said = []
    try:
        said.append(read(typed, place(), said.append) if read is read_box else read(typed, place()))
    except ConversionError as error:
        said.append(str(error))
    assert meant is None or len(said) == 1, "it is refused"
    assert said[0].endswith(f"; the order is z,y,x: if x,y,z was typed, {meant} is meant") == (meant is not None)
    assert ("x,y,z" in said[0]) == (meant is not None)


def test_clicks_far_from_their_box_are_said() -> None:
    """Voxels of 3 × 1 × 1 mm: the box is 60 mm long, so that 30 mm away is still near."""
    box = Box((10, 30, 40), (19, 59, 99))

    def said(*clicks: tuple[int, int, int], box: Box | None = box) -> list[str]:
        new = (ObjectPrompts(3, None, tuple(Click(click, False) for click in clicks)),)
        return list(distant_clicks((replace(new[0], box=box),), new, (3.0, 1.0, 1.0)))

    assert said((15, 45, 60), (9, 30, 40), (29, 30, 40), (15, 89, 60), (15, 0, 60)) == []
    assert said((15, 90, 60), (0, 5, 5), box=None) == []
    place = "(z,y,x) lies {} mm from the box 10:19,30:59,40:99: is it the right place?"
    assert said((30, 30, 40)) == [f"object 3: the click 30,30,40 {place.format(33)}"]
    backwards = "; reversed, 15,45,60, it lies in the box"
    assert said((60, 45, 15)) == [f"object 3: the click 60,45,15 {place.format(126)}{backwards}"]


def test_an_object_that_no_more_than_its_outside_is_said_of() -> None:
    with pytest.raises(ConversionError, match="object 1 has neither a box nor a foreground click"):
        read_prompts([], ["bg:1,1,1"], place())


@pytest.mark.parametrize(
    ("boxes", "clicks", "given", "numbers"),
    [
        ([], ["5:1,1,1"], "5", "1"),
        ([], [f"{10**30}:1,1,1"], f"{10**30}", "1"),
        (["0:1,0:1,0:1"], ["3:1,1,1", "4:2,2,2"], "1, 3, 4", "1 to 3"),
    ],
)
def test_objects_whose_numbers_have_gaps(boxes: list[str], clicks: list[str], given: str, numbers: str) -> None:
    with pytest.raises(ConversionError, match=f"without gaps, and there is only {given}; expected {numbers}, or"):
        read_prompts(boxes, clicks, place())
