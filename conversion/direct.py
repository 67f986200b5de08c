"""``python -m inference IMAGE``: from an image of any format to a mask beside it, in one go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from conversion.preview import write_preview
from conversion.source import Source, add_options, read_source
from conversion.volume import ConversionError, check_mask_name, write_mask
from inference.__main__ import add_network_options
from inference.case import Case
from inference.checkpoint import CheckpointError
from inference.deadline import Deadline
from inference.predictor import DeviceError
from inference.segmenter import load_segmenter, segment_case

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
    options = parser.parse_args(arguments)
    try:
        return _segment(options)
    except (ConversionError, CheckpointError, DeviceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _segment(options: argparse.Namespace) -> int:
    # What can be known to be wrong is said before minutes are spent.
    check_mask_name(options.output)
    if options.preview is not None and (options.preview.suffix != ".png" or not options.preview.parent.is_dir()):
        raise ConversionError(f"{options.preview}: expected a name that ends in .png, in a folder that exists")
    source = read_source(options)
    if not source.objects:
        raise ConversionError(f"{options.image}: nothing says what to segment; expected --box, --click or --previous")
    segmenter = load_segmenter(options.weights, options.device)
    labels = segment_case(
        _case(options.image.name, source),
        segmenter,
        Deadline(NO_HURRY),
        log=tqdm.write,
        progress=lambda objects: tqdm(objects, desc="objects", unit="object"),
    )
    write_mask(options.output, labels, source.image)
    for item in source.objects:
        print(f"object {item.label}: {int((labels == item.label).sum())} voxels")
    print(f"{options.output}: written")
    if options.preview is not None:
        write_preview(options.preview, source, labels)
        print(f"{options.preview}: written")
    return 1 if segmenter.failures else 0


def _case(name: str, source: Source) -> Case:
    return Case(name, source.volume, source.spacing, source.objects, source.previous)
