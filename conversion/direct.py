"""``segfm3d segment IMAGE``: from an image of any format to a mask beside it, in one go."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from conversion.masks import restore_ids
from conversion.measures import describe, measure, measure_changes
from conversion.prompt_file import StoredPrompts, prompts_path, read_prompt_file, write_prompts
from conversion.prompt_syntax import with_negative_values
from conversion.source import Source, add_options, read_source
from conversion.volume import ConversionError, check_is_no_case, check_mask_can_be_written, check_mask_name, write_mask
from inference.case import MAX_OBJECTS, Case
from inference.command import Parser, run
from inference.deadline import Deadline
from inference.options import add_network_options
from inference.prompt_types import counted

if TYPE_CHECKING:
    from inference.refinement import ObjectReport
    from inference.segmenter import Segmenter

NO_HURRY = 24 * 3600.0
"""Seconds. The challenge's limit is not a person's."""


def main(arguments: list[str], prog: str = "segfm3d segment") -> int:
    """Segments the objects of one image, and writes a label map with the image's geometry."""
    parser = Parser(
        prog,
        main.__doc__,
        "scan.nii.gz --box 10:20,30:60,40:80 -o mask.nii.gz --preview mask.png",
        "scan.nii.gz --box 10:20,30:60,40:80 --previous mask.nii.gz --click bg:15,58,44 -o better.nii.gz",
    )
    add_options(parser)
    earlier = parser.add_argument_group("going on")
    earlier.add_argument(
        "--continue",
        dest="continued",
        type=Path,
        metavar="MASK",
        help="go on from a mask that this command wrote: its prompts, which are stored beside it, come before the new "
        "ones; a new --box is a new object's",
    )
    result = parser.add_argument_group("result")
    result.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="MASK",
        help="label map to write: .nii.gz, .nrrd or .mha (default with --continue: the same file, which is replaced)",
    )
    result.add_argument("--preview", type=Path, metavar="PNG", help="picture to write: three planes an object")
    add_network_options(parser)
    options = parser.parse_args(with_negative_values(arguments))
    return run(lambda: _segment(options), ConversionError)


def _segment(options: argparse.Namespace) -> int:
    # What can be known to be wrong is said before minutes are spent.
    check_is_no_case(options.image)
    options, earlier = _take_up(options)
    check_mask_name(options.output, options.image)
    if options.preview is not None:
        _check_preview(options.preview)
    source = read_source(options, earlier)
    if not source.objects:
        raise ConversionError(f"{options.image}: nothing says what to segment; expected --box, --click or --previous")
    check_mask_can_be_written(options.output, source.image)
    segmenter = _network(options.weights, options.device)
    labels, reports = segmented(source, segmenter, options.image.name)
    done = {path: "replaced" if path.exists() else "written" for path in (options.output, options.preview) if path}
    _write(options.output, labels, source, options)
    for line in described(labels, source, reports):
        print(line)
    print(f"{options.output}: {done[options.output]}, and its prompts in {prompts_path(options.output).name}")
    if options.preview is not None:
        from conversion.preview import write_preview  # Matplotlib takes a second.

        try:
            write_preview(options.preview, source, labels)
        except OSError as error:
            print(f"error: --preview {options.preview}: cannot be written ({error.strerror})", file=sys.stderr)
            return 1
        print(f"{options.preview}: {done[options.preview]}")
    return 1 if segmenter.failures else 0


def _check_preview(path: Path) -> None:
    """Checks that a picture can be written, by its name and by a file beside it; makes the folder.

    Raises:
        ConversionError: it cannot.
    """
    if path.suffix != ".png":
        raise ConversionError(f"--preview {path}: expected a name that ends in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConversionError(
            f"--preview {path}: cannot be written ({error.strerror}); expected another folder"
        ) from None


def _take_up(options: argparse.Namespace) -> tuple[argparse.Namespace, StoredPrompts | None]:
    """The options, completed by those of the run that ``--continue`` goes on from, and its prompts.

    Raises:
        ConversionError: its prompts cannot be read, or the options contradict each other.
    """
    earlier = None
    if options.continued is not None:
        if options.previous is not None:
            raise ConversionError("--continue and --previous: expected one of them, the mask to go on from")
        earlier = read_prompt_file(options.continued)
        options = earlier.completed(options)
        options.previous, options.output = options.continued, options.output or options.continued
        print(f"{earlier.path.name}: {counted(earlier.objects)} of {len(earlier.objects)} object(s)")
    if options.output is None:
        raise ConversionError("nothing says where to write the mask; expected -o MASK, or --continue MASK")
    return options, earlier


def _network(weights: Path, device: str) -> Segmenter:
    # Torch takes seconds, and whatever was wrong so far has been said without it.
    from inference.checkpoint import CheckpointError
    from inference.predictor import DeviceError
    from inference.segmenter import load_segmenter

    try:
        return load_segmenter(weights, device)
    except (CheckpointError, DeviceError) as error:
        raise ConversionError(str(error)) from error


def described(
    labels: NDArray[np.unsignedinteger], source: Source, reports: Mapping[int, ObjectReport]
) -> Iterator[str]:
    """What people are told of each object: its size, how that changed, what it took, and what it was not given.

    Args:
        labels: (D, H, W), the result.
        reports: by the labels of the source; none for an object that stays as it was.
    """
    found = measure(labels, source.ids)
    changes = {} if source.previous is None else measure_changes(source.previous, labels, source.ids)
    for label in source.ids:
        gained, lost = changes.get(label, (0, 0))
        told = label in changes and (label in reports or gained or lost)  # What stays as it is has no change to tell.
        change = f"+{gained} −{lost}" if told else ""
        if label in found:
            size = describe(*found[label], source.spacing, change and f", {change}")
        else:
            size = "nothing found" + (change and f" ({change} voxels)")
        report = reports.get(label)
        as_it_was = "nothing new was said of it" if any(changes.get(label, ())) else "unchanged"
        how = as_it_was if report is None else f"{report.seconds:.1f} s on {report.device}"
        lacking = "" if report is None or not report.given_up else f"; {', '.join(dict.fromkeys(report.given_up))}"
        yield f"object {label}: {size}; {how}{lacking}"


def _write(path: Path, labels: NDArray[np.unsignedinteger], source: Source, options: argparse.Namespace) -> None:
    """Writes the result and its prompts, elsewhere if it cannot be written where it should: it may have taken minutes.

    Raises:
        ConversionError: it is not where it should be; it says where it is.
    """

    def write(where: Path) -> None:
        write_mask(where, labels, source.image)
        name = options.image.resolve().name
        write_prompts(where, source.image, name, source.objects, options.modality, options.window)

    try:
        write(path)
    except (ConversionError, OSError) as error:
        kept = Path(tempfile.mkdtemp(prefix="segfm3d-")) / "mask.nrrd"
        write(kept)
        raise ConversionError(f"{path}: cannot be written ({error}); the result is kept in {kept}") from error


def segmented(
    source: Source, segmenter: Segmenter, name: str
) -> tuple[NDArray[np.unsignedinteger], dict[int, ObjectReport]]:
    """The label map of a source's objects, and what became of each that was segmented.

    An object of the previous mask of which nothing new was said stays as it is, voxel for voxel, except where a
    foreground click gives a voxel of it to another object.

    Args:
        name: of the image, for people.

    Returns:
        (D, H, W), the labels as they are in the source; and label -> report.
    """
    ids = source.ids
    numbered = source if max(ids) <= MAX_OBJECTS else source.renumbered()
    names = dict(zip(numbered.ids, ids))
    prompted = tuple(item for item in numbered.objects if item.label not in numbered.unchanged)
    case = Case(name, numbered.volume, numbered.spacing, prompted, numbered.previous)
    if source.previous is not None and not prompted:
        print(f"{name}: no new box and no new click, so every object stays as it is")
        return source.previous, {}
    from inference.segmenter import segment_case

    def log(line: str) -> None:
        tqdm.write(re.sub(r"^object (\d+):", lambda found: f"object {names[int(found[1])]}:", line))

    labels = segment_case(
        case,
        segmenter,
        Deadline(NO_HURRY),
        log=log,
        progress=lambda objects: tqdm(objects, desc="objects", unit="object"),
    )
    reports = {names[label]: report for label, report in segmenter.reports.items()}
    if numbered.previous is not None:
        kept = np.isin(numbered.previous, list(numbered.unchanged))
        for inside in (inside for item in prompted for inside in item.inside()):
            kept[inside.slices] = False
        labels[kept] = numbered.previous[kept]
    return (labels if numbered is source else restore_ids(labels, ids)), reports
