"""What is to be segmented, from the options that ``segfm3d segment``, ``case make`` and ``view`` share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from conversion.masks import read_labels, renumber
from conversion.prompt_file import StoredPrompts
from conversion.prompt_syntax import BOX_HELP, CLICK_HELP, distant_clicks, read_prompts
from conversion.rescaling import rescale
from conversion.volume import ConversionError, modality, read_volume
from evaluation.modality import CT_WINDOWS, MODALITIES, modality_called
from inference.case import ObjectPrompts
from inference.prompt_types import contradictions

COORDINATES = """\
coordinates:
  Voxels are counted from 0 in array order, z,y,x; both ends belong to a box; fractions are rounded:
    --box 10:20,30:60,40:80 --click 15,45,60
  Millimetres of patient space name their axes. L, P and S grow to the patient's left, posterior and superior,
  as ITK and DICOM have it; R, A and I are the same axes from the other side:
    --box L=-20:10,P=5:40,S=-90:-60 --click R=5,A=-20,S=-75
  3D Slicer shows R, A and S:            --click "R 5, A -20, S -75"
  napari shows (z, y, x) from 0:         --click "(15.2, 45.0, 60.1)"
  ITK-SNAP shows x, y, z from 1: take 1 from each, and type them in the order z,y,x
  The n-th --box is object n. A click is that of the only object, else object 1's, and lies in it, unless it says
  otherwise:
    --click bg:15,45,60 --click 2:15,45,60 --click 2:bg:15,45,60
"""


@dataclass(frozen=True)
class Source:
    """An image as the challenge has it, and what was said about it.

    Args:
        image: as it was read: its geometry is the result's.
        volume: (D, H, W), [0, 255].
        objects: labels ascending, those of the previous mask and those that were prompted; none if nothing was said.
        previous: (D, H, W) label map of an earlier run, of any labels, or None.
        modality: as the options or DICOM name it, or None.
        unchanged: the labels of objects of which nothing new was said: they stay as they are in the previous mask.
    """

    image: sitk.Image
    volume: NDArray
    objects: tuple[ObjectPrompts, ...]
    previous: NDArray[np.unsignedinteger] | None
    modality: str | None = None
    unchanged: frozenset[int] = frozenset()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along z, y, x."""
        return self.image.GetSpacing()[::-1]

    @property
    def ids(self) -> tuple[int, ...]:
        """The objects' labels, as people know them."""
        return tuple(item.label for item in self.objects)

    def renumbered(self) -> Source:
        """The same with labels 1…K, in the previous mask too (:func:`conversion.masks.restore_ids` is the way back)."""
        objects = tuple(replace(item, label=index) for index, item in enumerate(self.objects, start=1))
        previous = None if self.previous is None else renumber(self.previous, self.ids)
        unchanged = frozenset(index for index, label in enumerate(self.ids, start=1) if label in self.unchanged)
        return replace(self, objects=objects, previous=previous, unchanged=unchanged)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The image, how it is read, and the prompts."""
    parser.epilog = "\n\n".join(filter(None, (parser.epilog, COORDINATES)))
    parser.add_argument(
        "image",
        type=Path,
        metavar="IMAGE",
        help="NIfTI, NRRD, MHA, …; a folder with DICOM series, in it or in folders in it; any one slice of a series; "
        "or a DICOM file of many frames",
    )
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="BOX",
        help=f"an object's box: {BOX_HELP}; repeat for more objects",
    )
    prompts.add_argument(
        "--click", action="append", default=[], metavar="CLICK", help=f"a click: {CLICK_HELP}; repeat for more"
    )
    prompts.add_argument(
        "--previous", type=Path, metavar="MASK", help="label map of an earlier run that the clicks correct"
    )
    reading = parser.add_argument_group("how the image is read")
    reading.add_argument(
        "--modality",
        type=modality_name,
        metavar="|".join(MODALITIES),
        help="what the image is; CT gets a window, all others are clipped at percentiles 0.5 and 99.5 "
        "(default: what DICOM says)",
    )
    reading.add_argument(
        "--window",
        metavar="NAME|W,L",
        help=f"{', '.join(CT_WINDOWS)}, percentile, or width,level; applied whatever the image "
        "(default: soft for CT; none for an image in [0, 255] already)",
    )
    reading.add_argument(
        "--series", type=int, metavar="N", help="which DICOM series, where the folder holds several: they are listed"
    )


def modality_name(text: str) -> str:
    """What people and DICOM call a modality -> what the challenge calls it."""
    name = modality_called(text)
    if name is None:
        raise argparse.ArgumentTypeError(f"{text}: no such modality; expected one of {', '.join(MODALITIES)}")
    return name


def read_source(options: argparse.Namespace, earlier: StoredPrompts | None = None) -> Source:
    """Reads what the options name, and says how intensities were brought to [0, 255].

    Args:
        earlier: the prompts that the previous mask was made with, before those of the options.

    Raises:
        ConversionError: an image, a mask or an option that cannot be used.
    """
    image = read_volume(options.image, options.series)
    kind = options.modality or modality(image)
    if kind is not None:
        kind = modality_called(kind) or kind
    if earlier is not None:
        earlier.check_is_of(image, options.image.name)
    previous, known = (None, ()) if options.previous is None else read_labels(options.previous, image)
    before = {} if earlier is None else {item.label: item for item in earlier.objects}
    known = {*known, *before}
    said = options.box or options.click or known
    first_box = 1 if earlier is None else max(known, default=0) + 1
    objects = read_prompts(options.box, options.click, image, known, first_box) if said else ()
    unchanged = frozenset(item.label for item in objects if not item.extents())
    typed, objects = objects, tuple(_after(before.get(item.label), item) for item in objects)
    for line in distant_clicks(objects, typed, image.GetSpacing()[::-1]):
        print(line)
    for item, now in zip(objects, typed, strict=True):
        for line in contradictions(item.label, item.clicks, first=len(item.clicks) - len(now.clicks)):
            print(line)
    raw = sitk.GetArrayViewFromImage(image)
    try:
        volume, note = rescale(raw, kind, options.window)
    except ConversionError as error:
        raise ConversionError(f"{options.image}: {error}") from error
    if not volume.flags.writeable:  # A view of the image, which PyTorch warns of.
        volume = volume.copy()
    shape = "×".join(map(str, volume.shape))
    print(f"{options.image.name}: {shape} voxels (z×y×x), {note}")
    if kind is None and options.window is None and raw.min() < -500:
        print(f"{options.image.name}: values down to {raw.min():g} look like CT; if it is one, say --modality CT")
    return Source(image, volume, objects, previous, kind, unchanged)


def _after(earlier: ObjectPrompts | None, new: ObjectPrompts) -> ObjectPrompts:
    """What was said of an object first, and then what is said of it now."""
    if earlier is None:
        return new
    return replace(new, box=new.box or earlier.box, clicks=(*earlier.clicks, *new.clicks))
