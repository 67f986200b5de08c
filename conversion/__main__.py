"""The command line: ``python -m conversion to-case``, then ``python -m conversion from-case``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conversion.case_file import read_ids, read_result, write_case
from conversion.masks import read_labels, renumber, restore_ids
from conversion.prompts import with_negative_values
from conversion.source import Source, add_options, read_source
from conversion.volume import ConversionError, check_mask_name, read_volume, write_mask
from evaluation.modality import MODALITIES
from inference.case import Box, Case, CaseError, ObjectPrompts


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; errors of use end it with one line and exit code 2."""
    options = _parser().parse_args(with_negative_values(sys.argv[1:] if arguments is None else arguments))
    try:
        options.action(options)
    except (ConversionError, CaseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conversion", description="NIfTI, NRRD, MHA and DICOM to the challenge's case files, and back."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    to_case = actions.add_parser("to-case", help="make a case file of an image, and of boxes, clicks and masks")
    add_options(to_case)
    to_case.add_argument("-o", "--output", type=Path, required=True, metavar="CASE.npz", help="case file to write")
    to_case.add_argument(
        "--mask",
        type=Path,
        help="the true label map, to train on or to evaluate with: stored as gts, labels renumbered 1…K; without "
        "--box and --click, boxes are made of it as the challenge makes them",
    )
    to_case.set_defaults(action=_to_case)

    from_case = actions.add_parser("from-case", help="write a result as a label map that lies where the image lies")
    from_case.add_argument("result", type=Path, metavar="RESULT.npz", help="what inference wrote (segs)")
    from_case.add_argument("--like", type=Path, required=True, metavar="IMAGE", help="the image that the case is of")
    from_case.add_argument("--series", type=int, metavar="N", help="which DICOM series, as in to-case")
    from_case.add_argument(
        "--case", type=Path, metavar="CASE.npz", help="the case that to-case made: its labels become those of its masks"
    )
    from_case.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MASK", help="label map to write: .nii.gz, .nrrd or .mha"
    )
    from_case.set_defaults(action=_from_case)

    view = actions.add_parser("view", help="make one HTML page of an image, with a mask and with prompts over it")
    add_options(view)
    view.add_argument("mask", type=Path, nargs="?", metavar="MASK", help="label map to show")
    view.add_argument("-o", "--output", type=Path, metavar="PAGE.html", help="page (default: the image's name, here)")
    view.set_defaults(action=_view)
    return parser


def _to_case(options: argparse.Namespace) -> None:
    if options.output.suffix != ".npz" or not options.output.parent.is_dir():
        raise ConversionError(f"{options.output}: expected a name that ends in .npz, in a folder that exists")
    source = read_source(options)
    named = options.output.name.split("_")[0]
    if source.modality in MODALITIES and named in MODALITIES and named != source.modality:
        raise ConversionError(
            f"{options.output}: is named {named}, but the image is {source.modality}; the evaluation goes by the name, "
            f"so {source.modality}_….npz is expected"
        )
    ids, source = source.ids, source.renumbered()
    truth, objects = None, source.objects
    if options.mask is not None:
        truth, objects, ids = _with_truth(options.mask, source)
    if not objects:
        raise ConversionError(f"{options.image}: nothing says what to segment; expected --box, --click or --mask")
    write_case(options.output, source.volume, source.spacing, objects, truth, source.previous, ids)
    if ids != tuple(range(1, len(ids) + 1)):
        print(f"{options.output}: labels {', '.join(map(str, ids))} become 1 to {len(ids)}; from-case --case restores")
    boxes = sum(item.box is not None for item in objects)
    clicks = sum(len(item.clicks) for item in objects)
    shape = "×".join(map(str, source.volume.shape))
    print(f"{options.output}: {shape} (z×y×x), {len(objects)} object(s), {boxes} box(es), {clicks} click(s)")


def _with_truth(path: Path, source: Source) -> tuple[NDArray[np.uint8], tuple[ObjectPrompts, ...], tuple[int, ...]]:
    """The true label map; the objects, as they were given, else with boxes made of it; and their labels in the map."""
    labels, ids = read_labels(path, source.image)
    if not ids:
        raise ConversionError(f"{path}: is empty; expected at least one label")
    truth = renumber(labels, ids)
    if source.objects:
        if len(source.objects) != len(ids):
            raise ConversionError(
                f"{path}: {len(ids)} label(s) for {len(source.objects)} object(s) with prompts; expected as many"
            )
        return truth, source.objects, ids
    from evaluation.simulated_user import box_from_mask  # Its libraries take a second.

    random = np.random.default_rng(0)
    boxes = [_box(box_from_mask(truth == label, random)) for label in range(1, len(ids) + 1)]
    return truth, tuple(ObjectPrompts(label, box) for label, box in enumerate(boxes, start=1)), ids


def _box(entry: dict[str, int]) -> Box:
    return Box(
        (entry["z_min"], entry["z_mid_y_min"], entry["z_mid_x_min"]),
        (entry["z_max"], entry["z_mid_y_max"], entry["z_mid_x_max"]),
    )


def _from_case(options: argparse.Namespace) -> None:
    check_mask_name(options.output, options.like)
    labels = read_result(options.result)
    image = read_volume(options.like, options.series)
    expected = image.GetSize()[::-1]
    if labels.shape != expected:
        raise ConversionError(
            f"{options.result}: is {labels.shape}, {options.like.name} is {expected} (z, y, x); expected the image "
            "that the case was made of"
        )
    ids = [] if options.case is None else read_ids(options.case)
    if ids:
        if labels.max() > len(ids):
            raise ConversionError(
                f"{options.result}: holds label {labels.max()}, {options.case.name} has {len(ids)} objects; expected a "
                "result of that case"
            )
        labels = restore_ids(labels, ids)
    write_mask(options.output, labels, image)
    present = ", ".join(str(label) for label in np.unique(labels) if label) or "none"
    print(f"{options.output}: labels {present}")


def _view(options: argparse.Namespace) -> None:
    from evaluation.view import Layer, write_view  # What makes pictures takes a second.

    page = options.output or Path(f"{options.image.resolve().name.split('.')[0]}.html")
    source = read_source(options)
    layers = []
    if options.mask is not None:
        labels, ids = read_labels(options.mask, source.image)
        if labels.dtype != np.uint8:
            print(f"{options.mask.name}: labels {', '.join(map(str, ids))} are shown as 1 to {len(ids)}")
            labels = renumber(labels, ids)
        layers.append(Layer("result", labels))
    if source.previous is not None and source.previous.dtype != np.uint8:
        source = source.renumbered()
    if source.previous is not None:
        layers.append(Layer("previous", source.previous.astype(np.uint8)))
    case = Case(options.image.name, source.volume, source.spacing, source.objects, source.previous)
    size = write_view(page, case, layers)
    print(f"{page}: {size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    sys.exit(main())
