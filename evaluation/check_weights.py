"""``python -m evaluation.check_weights PATH``: whether weights can be used, before anything is built with them.

``PATH`` is a file of ours or a folder in nnInteractive's layout. It is read as the image reads it, and the network is
run once on a real image, the demo's head MRI with a box around the brain. ``--stage FOLDER`` then writes what
``make build WEIGHTS=PATH`` puts into the image: the weights as one file of ours, a short model card that says where
they are from, and the image's labels.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.baselines import inscribed_ellipsoid
from evaluation.contestants import UNHURRIED
from evaluation.metrics import score_segmentation
from inference import checkpoint
from inference.atomic import replacing
from inference.case import Case, read_case
from inference.checkpoint import CheckpointError, ModelConfig
from inference.deadline import Deadline
from inference.geometry import Box, three
from inference.model import read_weights
from inference.npz import read_array
from inference.options import DEFAULT_WEIGHTS
from inference.predictor import DeviceError
from inference.refinement import ONE_FORWARD
from inference.segmenter import load_segmenter, segment_case

CODE_LICENCE = "Apache-2.0"
EMBEDDED_LICENCE = "CC-BY-NC-SA-4.0"
LABELS = "labels.txt"
WEIGHTS, CARD = "default.pt", "README.md"
"""Under these names ``weights/`` of the image holds them."""

STAND_IN = "stand-in: the network answers, its mask was not judged"

_IDENTIFIER = r"[A-Za-z0-9][A-Za-z0-9.+-]*"
_LICENCE = re.compile(rf"{_IDENTIFIER}(?: (?:AND|OR|WITH) {_IDENTIFIER})*")


class UnusableWeightsError(ValueError):
    """Weights that can be read and are of no use; the message is one line: which, what is wrong, what is expected."""


@dataclass(frozen=True)
class Checked:
    """What a check has found.

    Args:
        source: the name of the file or folder.
        sha256: of the file that holds the tensors, in hexadecimal digits.
        parameters: how many.
        config: what the weights were trained for.
        found: what the network did on the real image, in words.
    """

    source: str
    sha256: str
    parameters: int
    config: ModelConfig
    found: str


def check_weights(path: Path, stand_in: bool = False) -> Checked:
    """Reads weights strictly and runs them once on a real image.

    Args:
        path: a file of ours or a folder in nnInteractive's layout.
        stand_in: the weights are known to be untrained, so that their mask is not judged.

    Raises:
        CheckpointError: missing, truncated, unsafe or of another architecture.
        UnusableWeightsError: they hold numbers that are not finite, or the network answers nothing or nonsense.
    """
    config, state = read_weights(path)
    checkpoint.build(config, state, path)
    broken = sorted(name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all()))
    if broken:
        raise UnusableWeightsError(f"{path}: {broken[0]} holds NaN or infinity; expected finite numbers in all tensors")
    parameters = sum(tensor.numel() for tensor in state.values())
    case, truth = real_case()
    labels = _answer(path, case)
    found = STAND_IN if stand_in else _judged(path, case, truth, labels)
    source = "".join(letter if letter.isprintable() else "?" for letter in path.resolve().name)
    return Checked(source, sha256_of(tensor_file(path)), parameters, config, found)


def real_case() -> tuple[Case, NDArray[np.uint8]]:
    """The demo's head MRI with a box around the brain, and the brain."""
    from evaluation.demo import NAME, make_case  # It imports nilearn and matplotlib, which takes seconds.

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / NAME
        make_case(file)
        return read_case(file), read_array(file, "gts")


def _answer(path: Path, case: Case) -> NDArray[np.uint8]:
    """What one forward in the weights' own patch says of a case."""
    segmenter = load_segmenter(path)
    segmenter.refinement = ONE_FORWARD
    given_up: list[str] = []
    with contextlib.redirect_stderr(io.StringIO()):  # A traceback of what is said in one line below.
        labels = segment_case(case, segmenter, Deadline(UNHURRIED), log=given_up.append)
    if given_up or segmenter.failures:  # With all the time there is, nothing is given up but for an error.
        raise UnusableWeightsError(f"{path}: the network does not answer on {case.name}: {given_up[0]}")
    return labels


def _judged(path: Path, case: Case, truth: NDArray[np.uint8], labels: NDArray[np.uint8]) -> str:
    box = case.objects[0].box
    assert box is not None, "the brain has one"
    mask = labels == 1
    if not mask.any():
        raise UnusableWeightsError(
            f"{path}: an empty mask for the brain of {case.name}, given its box; are the weights trained? "
            "(--stand-in, or STAND_IN=1 for make, builds with weights that are not)"
        )
    inside = mask[neighbourhood(box, case.image.shape).slices].sum() / mask.sum()
    if inside < 0.5:
        raise UnusableWeightsError(
            f"{path}: {1 - inside:.0%} of the mask lies far from the brain's box in {case.name}; are the weights "
            "trained? (--stand-in, or STAND_IN=1 for make, builds with weights that are not)"
        )
    found, simplest = (
        score_segmentation(truth, segmentation, case.spacing).dsc
        for segmentation in (labels, inscribed_ellipsoid(case))
    )
    return f"DSC {found:.3f} for the brain of {case.name} from its box, where the box's ellipsoid has {simplest:.3f}"


def neighbourhood(box: Box, shape: tuple[int, int, int]) -> Box:
    """The box with a sixth of its size more on every side, within an image of ``shape``: the paper's margin."""
    margin = [size // 6 for size in box.size]
    lower = three(value - more for value, more in zip(box.lower, margin))
    upper = three(value + more for value, more in zip(box.upper, margin))
    return Box(lower, upper).clipped(shape) or box


def tensor_file(path: Path) -> Path:
    """The file of ``path`` that holds the tensors: of a folder that was read, its checkpoint."""
    if not path.is_dir():
        return path
    folds = (path / fold / "checkpoint_final.pth" for fold in ("fold_all", "fold_0"))
    return next(file for file in folds if file.is_file())


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def licence_of(path: Path, named: str | None) -> str:
    """The licence of weights as an SPDX expression: what was named, or our own for the embedded file.

    Raises:
        ValueError: none was named for other weights, or what was named is no SPDX expression.
    """
    if named:
        if not _LICENCE.fullmatch(named):
            raise ValueError(
                f"licence {named!r}: expected SPDX's name of it, such as CC-BY-NC-SA-4.0, or LicenseRef-NAME"
            )
        return named
    if path.is_file() and sha256_of(path) == sha256_of(DEFAULT_WEIGHTS):
        return EMBEDDED_LICENCE
    raise ValueError(
        f"{path}: no licence is given for these weights; name it: --licence, or LICENCE=… for make, as SPDX writes it "
        "(nnInteractive's published weights are CC-BY-NC-SA-4.0, and so is what is trained from them)"
    )


def stage(path: Path, checked: Checked, licence: str, folder: Path) -> None:
    """Writes what goes into an image: ``default.pt``, ``README.md``, and the labels as options of ``docker build``.

    Args:
        checked: what :func:`check_weights` has found of ``path``.
        licence: an SPDX expression.
        folder: made if it is missing.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        config, state = read_weights(path)
        checkpoint.save(folder / WEIGHTS, config, state, checkpoint.widest(state))
    else:
        with replacing(folder / WEIGHTS) as unfinished:
            shutil.copyfile(path, unfinished)
    with replacing(folder / CARD) as unfinished:
        unfinished.write_text(_card(checked, licence), encoding="utf-8")
    labels = {
        "org.opencontainers.image.licenses": f"{CODE_LICENCE} AND {_in_brackets(licence)}",
        "segfm3d.weights.source": checked.source,
        "segfm3d.weights.source.sha256": checked.sha256,
        "segfm3d.weights.licence": licence,
        "segfm3d.weights.check": checked.found,
        "segfm3d.weights.sha256": sha256_of(folder / WEIGHTS),
    }
    with replacing(folder / LABELS) as unfinished:
        unfinished.write_text("".join(f"--label={name}={value}\n" for name, value in labels.items()), encoding="utf-8")


def _card(checked: Checked, licence: str) -> str:
    if checked.sha256 == sha256_of(DEFAULT_WEIGHTS):
        return (DEFAULT_WEIGHTS.parent / CARD).read_text(encoding="utf-8")
    return (
        f"# Weights of this image: `{checked.source}`\n\n"
        f"- Licence: {licence}\n"
        f"- SHA-256 of the source's tensors: {checked.sha256}\n"
        f"- {checked.parameters:,} parameters, patch {'×'.join(map(str, checked.config.patch))}\n"
        f"- Before this image was built: {checked.found}\n\n"
        "These are not the weights that the project ships: none of its figures were measured with them. Not for "
        "clinical use.\n"
    )


def _in_brackets(licence: str) -> str:
    return f"({licence})" if " " in licence else licence


def main(arguments: list[str] | None = None) -> int:
    """Checks weights: reads them strictly and runs them once on a real image, with a box."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.check_weights", description=main.__doc__)
    parser.add_argument("weights", type=Path, help="a file of ours, or an nnInteractive folder")
    parser.add_argument("--stage", type=Path, metavar="FOLDER", help="write what make build puts into the image")
    parser.add_argument("--licence", help="of the weights, as SPDX names it, such as CC-BY-NC-SA-4.0; with --stage")
    parser.add_argument("--stand-in", action="store_true", help="the weights are untrained: do not judge their mask")
    options = parser.parse_args(arguments)
    path = options.weights
    try:
        licence = licence_of(path, options.licence) if options.stage else None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        print(f"{path}: reading it, and running it once on a head MRI; on a CPU that may take minutes", flush=True)
        checked = check_weights(path, options.stand_in)
        if licence is not None:
            stage(path, checked, licence, options.stage)
    except (CheckpointError, DeviceError, UnusableWeightsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    patch = "×".join(map(str, checked.config.patch))
    print(f"{path}: {checked.parameters:,} parameters, patch {patch}, SHA-256 {checked.sha256}")
    print(f"{path}: {checked.found}" + (f"; licence {licence}" if licence else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
