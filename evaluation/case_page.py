"""A case as one page to look at, without a server or a network: three planes with sliders, boxes, clicks and masks.

All that the page needs is inside it: the image's slices as PNG, or as JPEG where they would make the page too large,
and the label maps without loss.
"""

import base64
import gzip
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from evaluation.orientation import Ends, turned
from inference.atomic import replacing
from inference.case import Case, CaseError, ObjectPrompts
from inference.geometry import three

PAGE_BYTES = 29_000_000
"""A page that mails and opens; the image is stored as well as fits."""

SHOWN_VOXELS = 80_000_000
"""Larger volumes are thinned out: a browser holds every voxel in memory, once for the image and for each label map."""

QUALITIES = (None, 92, 85, 75, 60, 45, 30, 15, 5)
"""How slices may be stored, best first: PNG (None), then JPEG of falling quality."""

BRIGHT = 99.9
"""Percentile of an image that is not in [0, 255] above which everything is shown as white."""


@dataclass(frozen=True)
class Layer:
    """A label map of the case: `result`, `truth` or `previous`; labels are (D, H, W), uint8."""

    name: str
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """One of several runs of a case.

    Args:
        title: what the page calls it.
        objects: what it was told of each object.
        labels: (D, H, W) uint8, its result.
    """

    title: str
    objects: tuple[ObjectPrompts, ...]
    labels: NDArray[np.uint8]


def write_view(
    path: Path,
    case: Case,
    layers: list[Layer],
    runs: Sequence[Run] = (),
    begin: int = -1,
    ends: tuple[Ends, Ends, Ends] | None = None,
) -> int:
    """Write the page, whole or not at all.

    Args:
        path: the `.html` to write.
        case: the image and what was said about it.
        layers: label maps of the image's shape.
        runs: whose results can be chosen on the page, in place of a layer `result`.
        begin: the place in `runs` of the one that is shown at first.
        ends: the patient's directions at the ends of the axes z, y, x; None where they are not known, as of a case
            file: then there are no letters.

    Returns:
        the page's size in bytes.

    Raises:
        CaseError: the name is not that of a page, and perhaps that of an image, which would be lost.
    """
    if path.suffix.lower() != ".html":
        raise CaseError(f"{path}: expected a name that ends in .html")
    page = (
        Environment(loader=PackageLoader("evaluation", "templates"), autoescape=True, undefined=StrictUndefined)
        .get_template("view.html.j2")
        .render(name=case.name, content=_script_safe(json.dumps(describe(case, layers, runs, begin, ends))))
    ).encode()
    with replacing(path) as unfinished:
        unfinished.write_bytes(page)
    return len(page)


def describe(
    case: Case,
    layers: list[Layer],
    runs: Sequence[Run] = (),
    begin: int = -1,
    ends: tuple[Ends, Ends, Ends] | None = None,
) -> dict:
    """Return all that the page shows, as JSON knows it; voxels are (z, y, x) as in the case."""
    step = _step(case.image.shape)
    thin = tuple(slice(None, None, s) for s in step)
    maps = [{"name": layer.name, "labels": _packed(layer.labels[thin])} for layer in layers]
    choices = [
        {
            "title": run.title,
            "labels": _packed(run.labels[thin]),
            "objects": _objects(run.objects, [Layer("result", run.labels), *layers]),
        }
        for run in runs
    ]
    left = PAGE_BYTES - 100_000 - sum(len(entry["labels"]) for entry in maps + choices)
    grey, low, high = _grey(case.image[thin])
    slices, quality = _slices(grey, left)
    return {
        "name": case.name,
        "shape": case.image.shape,
        "spacing": case.spacing,
        "step": step,
        "shown": grey.shape,
        "low": low,
        "high": high,
        "quality": quality,
        "slices": slices,
        "layers": maps,
        "runs": choices,
        "begin": begin % len(runs) if runs else 0,
        "objects": choices[begin]["objects"] if runs else _objects(case.objects, layers),
        "notes": case.notes,
        "ends": ends,
        "turned": [turned(axis, ends) for axis in range(3)],
    }


def _step(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Every how many voxels one is shown along z, y, x: the longest axes are thinned out first."""
    step = [1, 1, 1]
    while np.prod([-(-n // s) for n, s in zip(shape, step)]) > SHOWN_VOXELS:
        step[int(np.argmax([n / s for n, s in zip(shape, step)]))] += 1
    return three(step)


def _grey(image: NDArray) -> tuple[NDArray[np.uint8], float, float]:
    """Return the image in 256 levels, and the values that the first and the last of them stand for."""
    if image.dtype == np.uint8:
        return image, 0.0, 255.0
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        high = float(np.percentile(image, BRIGHT))
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.empty(image.shape, np.uint8)
    for plane, result in zip(image, grey):
        result[...] = np.rint((np.clip(plane.astype(np.float64), low, high) - low) * scale)
    return grey, low, high


def _slices(grey: NDArray[np.uint8], limit: int) -> tuple[list[str], int | None]:
    """Return the slices in base64, stored as well as `limit` characters allow, and the JPEG's quality (None: PNG)."""
    for quality in QUALITIES:
        slices: list[str] = []
        used = 0
        name = "PNG" if quality is None else f"JPEG {quality}"
        for plane in tqdm(grey, desc=f"slices as {name}", unit="slice", leave=False):
            slices.append(_picture(plane, quality))
            used += len(slices[-1]) + len('"", ')
            if used > limit:
                break
        else:
            return slices, quality
    raise CaseError(f"its {len(grey)} slices do not fit into a page of {PAGE_BYTES} bytes; expected a smaller image")


def _picture(plane: NDArray[np.uint8], quality: int | None) -> str:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(plane))
    if quality is None:
        picture.save(buffer, "PNG", compress_level=6)
    else:
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _packed(labels: NDArray[np.uint8]) -> str:
    return base64.b64encode(gzip.compress(np.ascontiguousarray(labels).tobytes(), 6, mtime=0)).decode()


def _objects(prompts: Sequence[ObjectPrompts], layers: list[Layer]) -> list[dict]:
    """Every object that was prompted or that a label map holds, with its prompts, its size and its overlap."""
    counts = {layer.name: np.bincount(layer.labels.ravel(), minlength=256) for layer in layers}
    prompted = {item.label: item for item in prompts}
    drawn = {int(label) for count in counts.values() for label in np.flatnonzero(count) if label}
    maps = {layer.name: layer.labels for layer in layers}
    common = np.zeros(256, int)
    if "result" in maps and "truth" in maps:
        common = np.bincount(maps["result"][maps["result"] == maps["truth"]], minlength=256)
    objects = []
    for label in sorted(prompted.keys() | drawn):
        item = prompted.get(label)
        entry = {
            "label": label,
            "box": [item.box.lower, item.box.upper] if item and item.box else None,
            "clicks": [[*click.position, click.positive] for click in item.clicks] if item else [],
            "voxels": {name: int(count[label]) for name, count in counts.items()},
            "dsc": None,
            "middle": _middle(item, [layer.labels for layer in layers], label),
        }
        if "result" in counts and "truth" in counts:
            both = int(counts["result"][label] + counts["truth"][label])
            entry["dsc"] = 2 * int(common[label]) / both if both else None
        objects.append(entry)
    return objects


def _middle(item, maps: list[NDArray[np.uint8]], label: int) -> list[int] | None:
    """A voxel (z, y, x) at which to look for an object: the middle of its box, a click, or the middle of its mask."""
    if item is not None and item.box is not None:
        return [(lower + upper) // 2 for lower, upper in zip(item.box.lower, item.box.upper)]
    if item is not None and item.clicks:
        return list(item.clicks[-1].position)
    for labels in maps:
        occupied = np.flatnonzero((labels == label).any(axis=(1, 2)))
        if occupied.size:
            z = int(occupied[occupied.size // 2])
            return [z, *(int(v) for v in np.argwhere(labels[z] == label).mean(axis=0).round())]
    return None


def _script_safe(text: str) -> str:
    """JSON that may stand inside a script element."""
    return text.replace("<", "\\u003c")
