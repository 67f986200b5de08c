"""``segfm3d``: one command for all that is done here, and :func:`segment` for the same from Python.

Each sub-command is imported when it is asked for: neither ``segfm3d --help`` nor ``import segfm3d`` loads PyTorch.
"""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from inference.command import choose, fail, leave, run
from inference.options import DEFAULT_WEIGHTS, predict_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inference.segmenter import Segmenter


def _view(arguments: list[str], prog: str) -> int:
    """A case is told from an image by its name; where there is neither, the help is that of both."""
    from conversion.__main__ import view as view_image
    from evaluation.view import main as view_case

    if any(word.endswith(".npz") for word in arguments) or "--results" in arguments:
        return view_case(arguments, prog)
    if {"-h", "--help"} & set(arguments):
        with suppress(SystemExit):
            view_image(["--help"], prog)
        print()
        return view_case(["--help"], prog)
    return view_image(arguments, prog)


def _predict(arguments: list[str], prog: str) -> int:
    """Wrong use is said before PyTorch is imported, which takes seconds."""
    chosen = predict_options(arguments, prog)
    from inference.__main__ import predict

    return predict(chosen)


DESCRIPTION = "Interactive segmentation of 3D medical images: draw a box, click where the mask is wrong."

COMMANDS = {
    "segment": ("segment objects of a NIfTI, NRRD, MHA or DICOM image from boxes and clicks", "conversion.direct:main"),
    "view": ("make a page for the browser of an image or a case, with its masks", _view),
    "case": ("make a case file of an image, and read its result", "conversion.__main__:main"),
    "predict": ("segment a folder of case files, as the challenge's image does", _predict),
    "evaluate": (
        "evaluate weights, an image, a command or a baseline by the challenge's protocol",
        "evaluation.__main__:run",
    ),
    "report": ("write a page and tables of all that was evaluated", "evaluation.__main__:report"),
    "merge": ("join results of evaluations that ran on several machines", "evaluation.__main__:merge"),
    "calibrate": ("compare predicted probabilities with the truth", "evaluation.__main__:calibrate"),
    "train": ("train weights on labelled cases", "training.__main__:main"),
    "doctor": ("say whether training would work on this machine", "training.doctor:main"),
    "weights": ("say what weights are, convert them, set their temperature", "conversion.weights:main"),
}
"""Name -> what it does, and the function that does it, which takes the other words and what it is called."""

EXAMPLES = (
    "segment scan.nii.gz --box 10:20,30:60,40:80 -o mask.nii.gz --preview mask.png",
    "view scan.nii.gz mask.nii.gz",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sub-command.

    Returns:
        0 done, 1 something failed, 2 wrong use, 130 after Ctrl-C, 141 if nobody reads the output any more.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Once more around the sub-command, which is imported for seconds before it can see to itself.
        return run(lambda: choose("segfm3d", DESCRIPTION, COMMANDS, words, *EXAMPLES))
    except ModuleNotFoundError as error:
        return fail(
            f"segfm3d {words[0]} needs {error.name}, which is not installed; python -m pip install "
            "--requirement requirements-dev.txt"
        )


def script() -> NoReturn:
    """What the installed command calls."""
    leave(main())


def segment(
    image: str | Path,
    *,
    box: str | Sequence = (),
    clicks: str | Iterable = (),
    previous: str | Path | None = None,
    modality: str | None = None,
    window: str | None = None,
    series: int | None = None,
    output: str | Path | None = None,
    weights: str | Path = DEFAULT_WEIGHTS,
    device: str = "auto",
) -> NDArray[np.unsignedinteger]:
    """Segments objects of an image, as ``segfm3d segment`` does.

    Args:
        image: a file that SimpleITK reads, or a folder with a DICOM series.
        box: of an object, as it is typed (``"10:20,30:60,40:80"``) or ((z0, z1), (y0, y1), (x0, x1)), in voxels from 0,
            both ends included; or a list of boxes, one an object.
        clicks: one or several, as they are typed (``"bg:15,58,44"``, ``"2:15,45,60"``), or (z, y, x) in voxels: inside
            object 1.
        previous: label map of an earlier run that the clicks correct.
        modality: CT, MR, PET, US or Microscopy; by default what DICOM says.
        window: as ``--window``, applied whatever the image.
        series: which DICOM series of several.
        output: label map to write too, where the image lies: .nii.gz, .nii, .nrrd or .mha; its prompts go beside it.
        weights: our file, or an nnInteractive folder.
        device: auto, cpu, cuda, cuda:1, …

    Returns:
        (D, H, W) label map: 0 is background, the n-th box is object n, labels of ``previous`` stay.

    Raises:
        ConversionError: an image, a prompt or an output that cannot be used; a ValueError, as all of these are.
        CheckpointError: weights that cannot be used.
        DeviceError: a device that is not there.
    """
    from conversion.direct import segmented
    from conversion.prompt_file import write_prompts
    from conversion.source import modality_name, read_source
    from conversion.volume import ConversionError, check_mask_can_be_written, check_mask_name, write_mask

    target = None if output is None else Path(output)
    if target is not None:
        check_mask_name(target, Path(image))
    try:
        kind = None if modality is None else modality_name(modality)
    except argparse.ArgumentTypeError as error:
        raise ConversionError(str(error)) from None
    options = argparse.Namespace(
        image=Path(image),
        series=series,
        modality=kind,
        window=window,
        box=_boxes(box),
        click=_clicks(clicks),
        previous=None if previous is None else Path(previous),
    )
    source = read_source(options)
    if not source.objects:
        raise ConversionError(f"{image}: nothing says what to segment; expected a box, clicks or a previous mask")
    if target is not None:
        check_mask_can_be_written(target, source.image)
    segmenter = _segmenter(Path(weights), device)
    before = segmenter.failures
    labels, _ = segmented(source, segmenter, options.image.name)
    if segmenter.failures > before:
        warnings.warn(f"{image}: the network failed, and a rough mask stands in for it; see above", stacklevel=2)
    if target is not None:
        write_mask(target, labels, source.image)
        name = options.image.resolve().name
        write_prompts(target, source.image, name, source.objects, options.modality, options.window)
    return labels


def _boxes(box: str | Sequence) -> list[str]:
    """One box or several, typed or as numbers -> as they are typed."""
    if isinstance(box, str):
        return [box]
    several = any(isinstance(each, str) or not isinstance(each[0], Real) for each in box if not isinstance(each, Real))
    if any(isinstance(each, Real) for each in box):
        from conversion.volume import ConversionError

        raise ConversionError(f"box {box}: expected ((z0, z1), (y0, y1), (x0, x1)), first and last voxel of each axis")
    box = box if several or not len(box) else [box]
    return [each if isinstance(each, str) else ",".join(f"{low}:{high}" for low, high in each) for each in box]


def _clicks(clicks: str | Iterable) -> list[str]:
    """One click or several, typed or as numbers -> as they are typed."""
    if isinstance(clicks, str):
        return [clicks]
    several = list(clicks)
    if several and all(isinstance(each, Real) for each in several):
        several = [several]
    if any(isinstance(each, Real) for each in several):
        from conversion.volume import ConversionError

        raise ConversionError(f"clicks {several}: expected (z, y, x), or a list of such")
    return [each if isinstance(each, str) else ",".join(map(str, each)) for each in several]


@functools.lru_cache(maxsize=1)
def _segmenter(weights: Path, device: str) -> Segmenter:
    """Kept, so that a click does not load the network again."""
    from inference.segmenter import load_segmenter

    return load_segmenter(weights, device)


if __name__ == "__main__":
    script()
