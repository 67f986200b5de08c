"""What ``segfm3d case`` and ``segfm3d view IMAGE`` do: an image to a case, its result to a mask, and a page."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conversion.case_file import read_ids, read_result, write_case
from conversion.masks import read_labels, renumber, restore_ids
from conversion.prompt_file import PromptFileError, prompts_path, read_prompt_file
from conversion.prompt_syntax import with_negative_values
from conversion.source import Source, add_options, read_source
from conversion.volume import ConversionError, check_mask_name, patient_ends, read_volume, write_mask
from evaluation.modality import MODALITIES
from inference.case import MAX_OBJECTS, Case, CaseError, ObjectPrompts
from inference.command import Parser, choose, run
from inference.geometry import Box
from inference.prompt_types import counted


def main(arguments: list[str] | None = None, prog: str = "segfm3d case") -> int:
    """Makes a case, or reads its result; an image or an option that cannot be used ends it with exit code 2."""
    commands = {
        "make": ("make a case file of an image, and of boxes, clicks and masks", make),
        "read": ("write a result as a label map that lies where the image lies", read),
    }
    description = "NIfTI, NRRD, MHA and DICOM to the challenge's case files, and back."
    return choose(prog, description, commands, sys.argv[1:] if arguments is None else arguments)


def make(arguments: list[str], prog: str) -> int:
    """Makes a case file of an image, and of boxes, clicks and masks."""
    parser = Parser(
        prog, make.__doc__, "scan.nii.gz --mask truth.nii.gz --modality CT -o cases/CT_scan.npz", "scan.nii.gz --box …"
    )
    add_options(parser)
    result = parser.add_argument_group("case")
    result.add_argument("-o", "--output", type=Path, required=True, metavar="CASE.npz", help="case file to write")
    result.add_argument(
        "--mask",
        type=Path,
        help="the true label map, to train on or to evaluate with: stored as gts, labels renumbered 1…K; without "
        "--box and --click, boxes are made of it as the challenge makes them",
    )
    options = parser.parse_args(with_negative_values(arguments))
    return run(lambda: _make(options), ConversionError, CaseError)


def read(arguments: list[str], prog: str) -> int:
    """Writes a result as a label map that lies where the image lies."""
    parser = Parser(prog, read.__doc__, "results/CT_scan.npz --like scan.nii.gz -o mask.nii.gz")
    parser.add_argument("result", type=Path, metavar="RESULT.npz", help="what segfm3d predict wrote (segs)")
    parser.add_argument("--like", type=Path, required=True, metavar="IMAGE", help="the image that the case is of")
    parser.add_argument("--series", type=int, metavar="N", help="which DICOM series, as when the case was made")
    parser.add_argument(
        "--case", type=Path, metavar="CASE.npz", help="the case that was made: its labels become those of its masks"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MASK", help="label map to write: .nii.gz, .nrrd or .mha"
    )
    options = parser.parse_args(arguments)
    return run(lambda: _read(options), ConversionError, CaseError)


def view(arguments: list[str], prog: str) -> int:
    """Makes one HTML page of an image, with a mask and with prompts over it."""
    parser = Parser(prog, view.__doc__, "scan.nii.gz mask.nii.gz")
    add_options(parser)
    parser.add_argument(
        "mask",
        type=Path,
        nargs="?",
        metavar="MASK",
        help="label map to show, with the prompts that are stored beside it",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PAGE.html",
        help="page (default: the name of the mask, else of the image, here)",
    )
    options = parser.parse_args(with_negative_values(arguments))
    return run(lambda: _view(options), ConversionError, CaseError)


def _make(options: argparse.Namespace) -> None:
    if options.output.suffix != ".npz":
        raise ConversionError(f"{options.output}: expected a name that ends in .npz")
    if options.mask is not None and options.mask.resolve() == options.image.resolve():
        raise ConversionError(f"--mask {options.mask}: is the image itself; expected the label map of its objects")
    source = read_source(options)
    named = options.output.name.split("_")[0]
    if source.modality in MODALITIES and named in MODALITIES and named != source.modality:
        raise ConversionError(
            f"{options.output}: is named {named}, but the image is {source.modality}; the evaluation goes by the name, "
            f"so {source.modality}_….npz is expected"
        )
    if named not in MODALITIES:
        example = source.modality if source.modality in MODALITIES else "CT"
        print(
            f"{options.output}: an evaluation takes the modality from the name, and counts this one under Other; "
            f"{example}_{options.output.name} would be counted under {MODALITIES[example].title}"
        )
    ids, source = source.ids, source.renumbered()
    truth, objects = None, source.objects
    if options.mask is not None:
        truth, objects, ids = _with_truth(options.mask, source)
    if not objects:
        raise ConversionError(f"{options.image}: nothing says what to segment; expected --box, --click or --mask")
    write_case(options.output, source.volume, source.spacing, objects, truth, source.previous, ids)
    if ids != tuple(range(1, len(ids) + 1)):
        print(
            f"{options.output}: labels {', '.join(map(str, ids))} become 1 to {len(ids)}; "
            "segfm3d case read --case restores them"
        )
    shape = "×".join(map(str, source.volume.shape))
    print(f"{options.output}: {shape} (z×y×x), {len(objects)} object(s), {counted(objects)}")


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
    boxes = [Box.from_entry(box_from_mask(truth == label, random)) for label in range(1, len(ids) + 1)]
    return truth, tuple(ObjectPrompts(label, box) for label, box in enumerate(boxes, start=1)), ids


def _read(options: argparse.Namespace) -> None:
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
    from evaluation.case_page import Layer, write_view  # What makes pictures takes a second.

    shown = options.mask or options.image
    page = options.output or Path(f"{shown.resolve().name.split('.')[0]}.html")
    source, remark = _source_with_stored_prompts(options)
    labels = None
    if options.mask is not None:
        labels, ids = read_labels(options.mask, source.image)
        if remark:  # Not of a mask that is refused.
            print(remark)
        others = tuple(ObjectPrompts(label) for label in ids if label not in source.ids)
        source = replace(source, objects=tuple(sorted((*source.objects, *others), key=lambda item: item.label)))
    if source.ids and max(source.ids) > MAX_OBJECTS:
        ids, source = source.ids, source.renumbered()
        print(f"{shown.name}: labels {', '.join(map(str, ids))} are shown as 1 to {len(ids)}")
        labels = None if labels is None else renumber(labels, ids)
    layers = [] if labels is None else [Layer("result", labels)]
    if source.previous is not None:
        layers.append(Layer("previous", source.previous.astype(np.uint8)))
    case = Case(options.image.name, source.volume, source.spacing, source.objects, source.previous)
    size = write_view(page, case, layers, ends=patient_ends(source.image))
    print(f"{page}: {size / 1e6:.1f} MB; open it in a browser")


def _source_with_stored_prompts(options: argparse.Namespace) -> tuple[Source, str]:
    """The image with the prompts that are stored beside the mask, if there are any, and those of the options.

    Returns:
        it, and what is to be said if the mask is shown without the prompts beside it.
    """
    if options.mask is None or options.previous is not None or not prompts_path(options.mask).exists():
        return read_source(options), ""
    try:
        earlier = read_prompt_file(options.mask)
        return read_source(earlier.completed(options), earlier), ""
    except PromptFileError as error:  # The mask may still be this image's.
        return read_source(options), f"{error}; the mask is shown without them"


if __name__ == "__main__":
    sys.exit(main())
