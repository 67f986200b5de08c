"""The prompts that a mask was made with, stored beside it, so that further clicks can go on from them.

``mask.nii.gz`` has ``mask.prompts.json``; ``docs/reference/formats.md`` describes it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from conversion.errors import ConversionError
from conversion.masks import MAX_LABEL
from conversion.volume import MASK_FORMATS
from inference.atomic import replacing
from inference.case import Click, ObjectPrompts
from inference.geometry import Box, Voxel

FORMAT = "segfm3d prompts 1"
"""What the file calls itself: what follows it may change with the number."""


class PromptFileError(ConversionError):
    """Stored prompts that cannot be used; the mask beside them may be all right."""


@dataclass(frozen=True)
class StoredPrompts:
    """What a file of prompts says.

    Args:
        path: the file.
        image: the name of the image, for people.
        shape: the image's, (z, y, x).
        voxels: the SHA-256 of the image's voxels, see :func:`checksum`.
        objects: labels ascending; only those that were prompted.
        modality, window: the options of that name, where they were given.
    """

    path: Path
    image: str
    shape: Voxel
    voxels: str
    objects: tuple[ObjectPrompts, ...]
    modality: str | None = None
    window: str | None = None

    def completed(self, options: argparse.Namespace) -> argparse.Namespace:
        """The options with the modality and the window that the mask was made with, where they name none."""
        own = {"modality": options.modality or self.modality, "window": options.window or self.window}
        return argparse.Namespace(**vars(options) | own)

    def check_is_of(self, image: sitk.Image, name: str) -> None:
        """Checks that the prompts belong to this image, whatever its file is called now.

        Raises:
            PromptFileError: they belong to another one.
        """
        shape = image.GetSize()[::-1]
        if shape != self.shape:
            reason = f"of {_size(self.shape)} voxels (z×y×x), and {name} has {_size(shape)}"
        elif checksum(image) != self.voxels:
            reason = f"whose voxels have other values than {name}'s"
        else:
            return
        raise PromptFileError(
            f"{self.path}: holds the prompts of another image, {self.image}, {reason}; expected those of {name}: give "
            "that image, or the mask as --previous and the prompts again"
        )


def prompts_path(mask: Path) -> Path:
    """Where the prompts of a mask are stored: its name, with ``.prompts.json`` for its ending."""
    return mask.with_name(f"{_split(mask)[0]}.prompts.json")


def _split(mask: Path) -> tuple[str, str]:
    """A mask's name without its ending, and the ending."""
    ending = next((end for end in MASK_FORMATS if mask.name.lower().endswith(end)), mask.suffix)
    return mask.name[: len(mask.name) - len(ending)], mask.name[len(mask.name) - len(ending) :]


def checksum(image: sitk.Image) -> str:
    """The SHA-256 of an image's voxels: their type and shape, then their values in the order of the array, z, y, x."""
    values = np.ascontiguousarray(sitk.GetArrayViewFromImage(image))
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(values.data)
    return digest.hexdigest()


def write_prompts(
    mask: Path,
    image: sitk.Image,
    name: str,
    objects: Sequence[ObjectPrompts],
    modality: str | None = None,
    window: str | None = None,
) -> None:
    """Writes the prompts of a mask, whole or not at all; an older file is replaced.

    Args:
        mask: beside which they are stored (:func:`prompts_path`).
        image, name: what they are about.
        objects: those without a box and a click are left out.
        modality, window: the options of that name, where they were given.

    Raises:
        OSError: the folder cannot be written.
    """
    content = {
        "format": FORMAT,
        "ending": _split(mask)[1],
        "image": {
            "name": name,
            "shape": image.GetSize()[::-1],
            "spacing": image.GetSpacing()[::-1],
            "origin": image.GetOrigin(),
            "direction": image.GetDirection(),
            "sha256": checksum(image),
        },
        "modality": modality,
        "window": window,
        "objects": [
            {
                "label": item.label,
                "box": None if item.box is None else {"lower": item.box.lower, "upper": item.box.upper},
                "clicks": [{"voxel": click.position, "foreground": click.positive} for click in item.clicks],
            }
            for item in objects
            if item.extents()
        ],
    }
    with replacing(prompts_path(mask)) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_prompt_file(mask: Path) -> StoredPrompts:
    """Reads the prompts that are stored beside a mask.

    Raises:
        PromptFileError: there is no such mask, none are stored, or what is stored cannot be understood.
    """
    path = prompts_path(mask)
    if not mask.exists():
        raise PromptFileError(f"{mask}: no such file; expected the mask to go on from")
    if not path.exists():
        raise PromptFileError(
            f"{mask}: has no prompts beside it ({path.name}); expected a mask that this command wrote: give it as "
            "--previous, and its prompts again"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        stem, ending = _split(mask)
        other = mask.with_name(f"{stem}{content.get('ending', ending)}")  # Files from before it was stored lack it.
        if other != mask and other.exists():
            raise ValueError(f"it holds those of {other.name}, which was written later")
        image = content["image"]
        shape = _voxel(image["shape"])
        objects = tuple(_object(entry, shape) for entry in content["objects"])
        if [item.label for item in objects] != sorted({item.label for item in objects}):
            raise ValueError("labels are not ascending")
        options = [_text_or_none(content[key]) for key in ("modality", "window")]
        return StoredPrompts(path, str(image["name"]), shape, str(image["sha256"]), objects, *options)
    except KeyError as error:
        reason = f"{error} is missing"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
    raise PromptFileError(
        f"{path}: not readable as prompts ({reason}); expected what was written with {mask.name}: give the mask as "
        "--previous, and its prompts again"
    )


def _object(entry: dict[str, Any], shape: Voxel) -> ObjectPrompts:
    label, box, clicks = entry["label"], entry["box"], entry["clicks"]
    if type(label) is not int or not 1 <= label <= MAX_LABEL:
        raise ValueError(f"{label!r} is no label")
    if box is not None:
        box = Box(_voxel(box["lower"], shape), _voxel(box["upper"], shape))
        if min(box.size) < 1:
            raise ValueError(f"object {label}'s box ends before it begins")
    placed = []
    for click in clicks:
        if type(click["foreground"]) is not bool:
            raise ValueError(f"foreground is {click['foreground']!r}, not true or false")
        placed.append(Click(_voxel(click["voxel"], shape), click["foreground"]))
    return ObjectPrompts(label, box, tuple(placed))


def _voxel(numbers: Any, shape: Voxel | None = None) -> Voxel:
    if not (isinstance(numbers, list) and len(numbers) == 3 and all(type(n) is int and n >= 0 for n in numbers)):
        raise ValueError(f"{numbers!r} are not three whole numbers")
    if shape is not None and not all(n < size for n, size in zip(numbers, shape)):
        raise ValueError(f"{numbers!r} lies outside the image")
    return tuple(numbers)


def _text_or_none(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _size(shape: Voxel) -> str:
    return "×".join(map(str, shape))
