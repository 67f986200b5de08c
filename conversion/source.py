"""What is to be segmented, from the options that ``to-case`` and ``python -m inference IMAGE`` share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from conversion.intensities import rescale
from conversion.masks import read_labels, renumber
from conversion.prompts import BOX_HELP, CLICK_HELP, read_prompts
from conversion.volume import ConversionError, modality, read_volume
from evaluation.modality import CT_WINDOWS, MODALITIES, modality_called
from inference.case import ObjectPrompts

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
    """

    image: sitk.Image
    volume: NDArray
    objects: tuple[ObjectPrompts, ...]
    previous: NDArray[np.unsignedinteger] | None
    modality: str | None = None

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
        return replace(self, objects=objects, previous=previous)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = COORDINATES
    parser.add_argument(
        "image",
        type=Path,
        metavar="IMAGE",
        help="NIfTI, NRRD, MHA, …; a folder with DICOM series, in it or in folders in it; any one slice of a series; "
        "or a DICOM file of many frames",
    )
    parser.add_argument(
        "--series", type=int, metavar="N", help="which DICOM series, where the folder holds several: they are listed"
    )
    parser.add_argument(
        "--modality",
        type=modality_name,
        metavar="|".join(MODALITIES),
        help="what the image is; CT gets a window, all others are clipped at percentiles 0.5 and 99.5 "
        "(default: what DICOM says)",
    )
    parser.add_argument(
        "--window",
        metavar="NAME|W,L",
        help=f"{', '.join(CT_WINDOWS)}, percentile, or width,level; applied whatever the image "
        "(default: soft for CT; none for an image in [0, 255] already)",
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="BOX",
        help=f"an object's box: {BOX_HELP}; repeat for more objects",
    )
    parser.add_argument(
        "--click", action="append", default=[], metavar="CLICK", help=f"a click: {CLICK_HELP}; repeat for more"
    )
    parser.add_argument(
        "--previous", type=Path, metavar="MASK", help="label map of an earlier run that the clicks correct"
    )


def modality_name(text: str) -> str:
    """What people and DICOM call a modality -> what the challenge calls it."""
    name = modality_called(text)
    if name is None:
        raise argparse.ArgumentTypeError(f"{text}: no such modality; expected one of {', '.join(MODALITIES)}")
    return name


def read_source(options: argparse.Namespace) -> Source:
    """Reads what the options name, and says how intensities were brought to [0, 255].

    Raises:
        ConversionError: an image, a mask or an option that cannot be used.
    """
    image = read_volume(options.image, options.series)
    kind = options.modality or modality(image)
    if kind is not None:
        kind = modality_called(kind) or kind
    previous, known = (None, ()) if options.previous is None else read_labels(options.previous, image)
    said = options.box or options.click or known
    objects = read_prompts(options.box, options.click, image, known) if said else ()
    raw = sitk.GetArrayViewFromImage(image)
    try:
        volume, note = rescale(raw, kind, options.window)
    except ConversionError as error:
        raise ConversionError(f"{options.image}: {error}") from error
    print(f"{options.image.name}: {note}")
    if kind is None and options.window is None and raw.min() < -500:
        print(f"{options.image.name}: values down to {raw.min():g} look like CT; if it is one, say --modality CT")
    return Source(image, volume, objects, previous, kind)
