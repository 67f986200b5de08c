"""Boxes and clicks as people type them.

In voxels, counted from 0 in the order of the array, z,y,x: ``--box 10:20,30:60,40:80`` (both ends belong to the box)
and ``--click 15,45,60``; fractions are rounded, parentheses around it do not count. In millimetres of patient space,
each axis by its name, in any order: ``--box L=-20:10,P=5:40,S=-90:-60`` and ``--click L=-5,P=20,S=-75``, or
``"R 5, A -20, S -75"`` as 3D Slicer shows it. L, P and S grow to the patient's left, posterior and superior, as ITK and
DICOM have it; R, A and I are the same axes seen from the other side.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from conversion.volume import ConversionError, corners
from inference.case import MAX_OBJECTS, Click, ObjectPrompts
from inference.geometry import Box, Voxel

AXES = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Direction in the patient -> axis of patient space (LPS), and its sign."""

BOX_HELP = "z0:z1,y0:y1,x0:x1 in voxels, or L=a:b,P=a:b,S=a:b in mm"
CLICK_HELP = "[OBJECT:][fg:|bg:]z,y,x in voxels, or …L=a,P=a,S=a in mm"


def read_prompts(
    boxes: Sequence[str], clicks: Sequence[str], image: sitk.Image, known: Collection[int] = (), first_box: int = 1
) -> tuple[ObjectPrompts, ...]:
    """What was typed -> what the network reads.

    Args:
        boxes: one an object, those of ``first_box`` and the numbers that follow.
        clicks: in the order in which they are meant; one without ``fg`` or ``bg`` lies in the object. A click without
            an object's number is that of the only object there is, else object 1's.
        image: the image that they are about.
        known: the labels of a previous mask: objects that need no further prompt.
        first_box: the object of the first box: without an earlier run, the n-th box is object n's.

    Returns:
        one an object, labels ascending: those known, of boxes, and of clicks.

    Raises:
        ConversionError: not a box or a click, outside the image, of no object in particular, or an object that nothing
            is said of.
    """
    boxed = dict(enumerate(boxes, start=first_box))
    there = sorted({*known, *boxed})
    usual = there[0] if len(there) == 1 else 1
    placed = []
    for text in clicks:
        label, click = read_click(text, image)
        if label is None and there and usual not in there:
            raise ConversionError(
                f"--click {text}: of which object? There are {', '.join(map(str, there))}; expected its number, as in "
                f"{there[0]}:{text}"
            )
        placed.append((usual if label is None else label, click))
    labels = sorted({*there, *(label for label, _ in placed)})
    if not known and labels != list(range(1, len(labels) + 1)):  # A slip of the hand; those of a mask may have gaps.
        expected = "1" if len(labels) == 1 else f"1 to {len(labels)}"
        raise ConversionError(
            f"objects are numbered from 1 without gaps, and there is only {', '.join(map(str, labels))}; expected "
            f"{expected}, or the mask that holds the others as --previous"
        )
    if not 1 <= len(labels) <= MAX_OBJECTS:
        raise ConversionError(f"{len(labels)} objects; expected 1 to {MAX_OBJECTS}, each with a --box or a --click")
    objects = tuple(
        ObjectPrompts(
            label,
            read_box(boxed[label], image) if label in boxed else None,
            tuple(click for number, click in placed if number == label),
        )
        for label in labels
    )
    for item in objects:
        if item.label not in known and item.box is None and not any(click.positive for click in item.clicks):
            raise ConversionError(f"object {item.label} has neither a box nor a foreground click; expected one of them")
    return objects


def read_box(text: str, image: sitk.Image, log: Callable[[str], None] = print) -> Box:
    """A box in voxels of the image (see the module's page).

    Its corners may be given in either order, which is said. It holds every voxel that it touches; in millimetres, where
    the image is oblique, that is the smallest box of voxels around it. What of it reaches outside the image is cut off,
    and said.

    Raises:
        ConversionError: not a box, outside the image, or one that leaves the image and lies in it if it is read
            backwards.
    """
    option = f"--box {text}"
    shape = image.GetSize()[::-1]
    if _is_named(text):
        ranges = _named(option, text, _range)
        inverted = any(sign * ranges[axis][0] > sign * ranges[axis][1] for _, axis, sign in _axes(text))
        points = list(itertools.product(*(ranges[axis] for axis in range(3))))
        voxels = np.array([_continuous((x, y, z), image) for x, y, z in points])
        span = _extent(image, text)
    else:
        words = _words(text)
        found = [pair for word in words if (pair := _range(word)) is not None]
        if len(words) != 3 or len(found) != 3:
            raise ConversionError(f"{option}: not a box; expected {BOX_HELP}")
        inverted = any(first > last for first, last in found)
        voxels = np.array(found).T
        span = _span(shape)
    box = Box(_rounded(voxels.min(axis=0)), _rounded(voxels.max(axis=0)))
    clipped = box.clipped(shape)
    hint = "" if _is_named(text) else _reversed_hint("box", box, shape)
    if clipped is None:
        raise ConversionError(f"{option}: lies outside the image, which spans {span}{hint}")
    if hint and clipped != box:
        raise ConversionError(
            f"{option}: reaches outside the image, which spans {span}; --box {_typed(clipped)} is inside{hint}"
        )
    if inverted:
        log(f"{option}: is inverted; its ends are put in order: {_typed(box)} (z,y,x)")
    if clipped != box:
        log(f"{option}: reaches outside the image, which spans {span}; {_typed(clipped)} (z,y,x) is taken of it")
    return clipped


def read_click(text: str, image: sitk.Image) -> tuple[int | None, Click]:
    """The number of the object, if it is named, and the click in voxels of the image (see the module's page).

    Raises:
        ConversionError: not a click, or outside the image.
    """
    option = f"--click {text}"
    label, kind, place = _groups(r"\s*(?:(\d+):)?(?:(fg|bg):)?(.*)", text)
    label = None if label is None else int(label)
    if label == 0:
        raise ConversionError(f"{option}: no object 0, which is the background; expected 1 or more")
    shape = image.GetSize()[::-1]
    if _is_named(place):
        millimetres = _named(option, place, _number)
        position = _rounded(_continuous((millimetres[0][0], millimetres[1][0], millimetres[2][0]), image))
        span = _extent(image, place)
    else:
        words = _words(place)
        numbers = [number for word in words if (number := _number(word)) is not None]
        if len(words) != 3 or len(numbers) != 3:
            raise ConversionError(f"{option}: not a click; expected {CLICK_HELP}")
        position = _rounded(np.concatenate(numbers))
        span = _span(shape)
    if not all(0 <= v < n for v, n in zip(position, shape)):
        hint = "" if _is_named(place) else _reversed_hint("click", Box(position, position), shape, text[: -len(place)])
        raise ConversionError(f"{option}: lies outside the image, which spans {span}{hint}")
    return label, Click(position, positive=kind != "bg")


def distant_clicks(
    prompted: Iterable[ObjectPrompts], new: Iterable[ObjectPrompts], spacing: tuple[float, float, float]
) -> Iterator[str]:
    """A line for each new click that is farther from its object's box than half of the box's longest edge.

    Such a click is rarely meant; one whose numbers lie in the box if they are read backwards was typed x,y,z.

    Args:
        prompted: all that is known of the objects.
        new: the same objects in the same order, with what was typed now.
        spacing: millimetres along z, y, x.
    """
    for item, typed in zip(prompted, new, strict=True):
        if item.box is None:
            continue
        for click in typed.clicks:
            outside = [
                max(low - v, v - high, 0) for low, v, high in zip(item.box.lower, click.position, item.box.upper)
            ]
            distance = math.hypot(*(n * s for n, s in zip(outside, spacing)))
            if distance <= max(n * s for n, s in zip(item.box.size, spacing)) / 2:
                continue
            backwards = click.position[::-1]
            hint = f"; reversed, {_typed(backwards)}, it lies in the box" if item.box.contains(backwards) else ""
            yield (
                f"object {item.label}: the click {_typed(click.position)} (z,y,x) lies {distance:.3g} mm from the box "
                f"{_typed(item.box)}: is it the right place?{hint}"
            )


def with_negative_values(arguments: Sequence[str]) -> list[str]:
    """Arguments in which ``--click -5,3,4`` is ``--click=-5,3,4``: argparse takes its minus for an option's."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] in ("--click", "--box") and re.match(r"-[\d.]", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _reversed_hint(what: str, box: Box, shape: Voxel, before: str = "") -> str:
    """What to type if the numbers, read backwards, lie in the image: many programs show x, y, z."""
    backwards = Box(box.lower[::-1], box.upper[::-1])
    if backwards == box or backwards.clipped(shape) != backwards:
        return ""
    typed = _typed(backwards if what == "box" else backwards.lower)
    return f"; the order is z,y,x: if x,y,z was typed, --{what} {before}{typed} is meant"


def _typed(place: Box | Voxel) -> str:
    """A box or a voxel as it is typed."""
    if isinstance(place, Box):
        return ",".join(f"{lower}:{upper}" for lower, upper in zip(place.lower, place.upper))
    return ",".join(map(str, place))


def _is_named(text: str) -> bool:
    return "=" in text or re.search(r"\b[LRPAIS][\s:]*[-+.]*\d", text, re.IGNORECASE) is not None


def _words(text: str) -> list[str]:
    """What stands between commas or spaces; parentheses around it, as napari and numpy write them, do not count."""
    return re.split(r"\s*,\s*|\s+", text.strip().strip("()[]").strip())


def _groups(pattern: str, text: str) -> tuple[Any, ...]:
    """The groups of a pattern that fits any text."""
    found = re.fullmatch(pattern, text, re.DOTALL)
    assert found is not None, f"{pattern} is to fit any text, and does not fit {text!r}"
    return found.groups()


def _named(option: str, text: str, read: Callable[[str], tuple[float, ...] | None]) -> dict[int, tuple[float, ...]]:
    """Axis of patient space -> the numbers that ``read`` finds after its name, with its sign."""
    found = {}
    for word in text.strip().strip("()[]").split(","):
        name, value = _groups(r"\s*([^=:\s]*)\s*[=:\s]?\s*(.*?)\s*", word)
        axis, sign = AXES.get(name.upper(), (None, 0))
        numbers = read(value)
        if axis is None or numbers is None or axis in found:
            raise ConversionError(
                f"{option}: {word!r} is not understood; expected L (or R), P (or A) and S (or I), each once, as in "
                f"{BOX_HELP if option.startswith('--box') else CLICK_HELP}"
            )
        found[axis] = tuple(sign * number for number in numbers)
    if len(found) != 3:
        raise ConversionError(f"{option}: names {len(found)} axes; expected all of L (or R), P (or A), S (or I)")
    return found


def _range(word: str) -> tuple[float, float] | None:
    first, _, last = word.partition(":")
    lower, upper = _number(first), _number(last)
    return None if lower is None or upper is None else lower + upper


def _number(word: str) -> tuple[float] | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return (value,) if math.isfinite(value) else None


def _continuous(point: tuple[float, float, float], image: sitk.Image) -> np.ndarray:
    """A point in patient space (x, y, z in mm) as a position among the voxels, (z, y, x)."""
    return np.array(image.TransformPhysicalPointToContinuousIndex(point))[::-1]


def _rounded(position: np.ndarray) -> Voxel:
    return tuple(math.floor(v + 0.5) for v in position)


def _span(shape: tuple[int, ...]) -> str:
    return ", ".join(f"{name} 0 to {n - 1}" for name, n in zip("zyx", shape))


def _axes(text: str) -> Iterator[tuple[str, int, int]]:
    """The letters of a place that :func:`_named` has understood, as they were typed, with their axes and signs."""
    return ((name, *AXES[name]) for name in re.findall("[LRPAIS]", text.upper()))


def _extent(image: sitk.Image, text: str) -> str:
    """What the image spans, in the letters that were typed."""
    ends = corners(image)
    spans = ((name, sign * ends[:, axis]) for name, axis, sign in _axes(text))
    return ", ".join(f"{name} {span.min():.1f} to {span.max():.1f}" for name, span in spans)
