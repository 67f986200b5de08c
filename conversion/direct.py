"""``python -m inference IMAGE``: from an image of any format to a mask beside it, in one go."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from conversion.masks import restore_ids
from conversion.prompts import with_negative_values
from conversion.source import Source, add_options, read_source
from conversion.volume import ConversionError, check_mask_can_be_written, check_mask_name, write_mask
from inference.case import MAX_OBJECTS, Case
from inference.deadline import Deadline
from inference.options import add_network_options

if TYPE_CHECKING:
    from inference.segmenter import Segmenter

NO_HURRY = 24 * 3600.0
"""Seconds. The challenge's limit is not a person's."""


def main(arguments: list[str]) -> int:
    """Segments the objects of one image, and writes a label map with the image's geometry."""
    parser = argparse.ArgumentParser(prog="python -m inference", description=main.__doc__)
    add_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MASK", help="label map to write: .nii.gz, .nrrd or .mha"
    )
    parser.add_argument("--preview", type=Path, metavar="PNG", help="picture to write: three planes an object")
    add_network_options(parser)
    options = parser.parse_args(with_negative_values(arguments))
    try:
        return _segment(options)
    except (ConversionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _segment(options: argparse.Namespace) -> int:
    # What can be known to be wrong is said before minutes are spent.
    check_mask_name(options.output, options.image)
    if options.preview is not None and (options.preview.suffix != ".png" or not options.preview.parent.is_dir()):
        raise ConversionError(f"{options.preview}: expected a name that ends in .png, in a folder that exists")
    source = read_source(options)
    if not source.objects:
        raise ConversionError(f"{options.image}: nothing says what to segment; expected --box, --click or --previous")
    check_mask_can_be_written(options.output, source.image)
    segmenter = _network(options.weights, options.device)
    labels = segmented(source, segmenter, options.image.name)
    _write(options.output, labels, source.image)
    _summarize(labels, source.ids)
    print(f"{options.output}: written")
    if options.preview is not None:
        from conversion.preview import write_preview  # Matplotlib takes a second.

        write_preview(options.preview, source, labels)
        print(f"{options.preview}: written")
    return 1 if segmenter.failures else 0


def _network(weights: Path, device: str) -> Segmenter:
    # Torch takes seconds, and whatever was wrong so far has been said without it.
    from inference.checkpoint import CheckpointError
    from inference.predictor import DeviceError
    from inference.segmenter import load_segmenter

    try:
        return load_segmenter(weights, device)
    except (CheckpointError, DeviceError) as error:
        raise ConversionError(str(error)) from error


def _summarize(labels: NDArray[np.unsignedinteger], ids: tuple[int, ...]) -> None:
    counts = dict(zip(*np.unique(labels, return_counts=True)))
    for label in ids:
        if label in counts:
            print(f"object {label}: {counts[label]} voxels")
    empty = [str(label) for label in ids if label not in counts]
    if empty:
        print(f"nothing found of object(s) {', '.join(empty)}")


def _write(path: Path, labels: NDArray[np.unsignedinteger], like: sitk.Image) -> None:
    """Writes the result, elsewhere if it cannot be written where it should: it may have taken minutes.

    Raises:
        ConversionError: it is not where it should be; it says where it is.
    """
    try:
        write_mask(path, labels, like)
    except (ConversionError, OSError) as error:
        kept = Path(tempfile.mkdtemp(prefix="segfm3d-")) / "mask.nrrd"
        write_mask(kept, labels, like)
        raise ConversionError(f"{path}: cannot be written ({error}); the result is kept in {kept}") from error


def segmented(source: Source, segmenter: Segmenter, name: str) -> NDArray[np.unsignedinteger]:
    """The label map of a source's objects.

    An object of the previous mask that has no box and no click stays as it is, voxel for voxel, except where a
    foreground click gives a voxel of it to another object.

    Args:
        name: of the image, for people.

    Returns:
        (D, H, W), the labels as they are in the source.
    """
    ids = source.ids
    numbered = source if max(ids) <= MAX_OBJECTS else source.renumbered()
    prompted = tuple(item for item in numbered.objects if item.box is not None or item.clicks)
    case = Case(name, numbered.volume, numbered.spacing, prompted, numbered.previous)
    if source.previous is not None and not prompted:
        print(f"{name}: neither a box nor a click, so every object stays as it is")
        return source.previous
    from inference.segmenter import segment_case

    labels = segment_case(
        case,
        segmenter,
        Deadline(NO_HURRY),
        log=tqdm.write,
        progress=lambda objects: tqdm(objects, desc="objects", unit="object"),
    )
    if numbered.previous is not None:
        kept = np.isin(numbered.previous, [item.label for item in numbered.objects if item not in prompted])
        for click in (click for item in prompted for click in item.clicks if click.positive):
            kept[click.position] = False
        labels[kept] = numbered.previous[kept]
    return labels if numbered is source else restore_ids(labels, ids)
