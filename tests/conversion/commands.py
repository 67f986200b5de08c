"""What tests of the commands share: an image with its label map on disk, and what a refusal is."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from conversion.__main__ import main
from conversion.volume import write_mask


def labelled(folder: Path, image: sitk.Image, labels: tuple[int, ...] = (1, 2)) -> tuple[Path, Path, np.ndarray]:
    """An image and its label map on disk, and the labels (D, H, W): a block an object."""
    mask = np.zeros(image.GetSize()[::-1], np.uint16)
    for index, label in enumerate(labels):
        mask[1:4, 1 + 3 * index : 4 + 3 * index, 2:5] = label
    sitk.WriteImage(image, str(folder / "scan.nii.gz"))
    write_mask(folder / "truth.nii.gz", mask, image)
    return folder / "scan.nii.gz", folder / "truth.nii.gz", mask


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object, command=main) -> str:
    """What a command says when it refuses: one line, and nothing is written."""
    output = next((Path(str(b)) for a, b in itertools.pairwise(arguments) if a == "-o"), None)
    assert command([str(argument) for argument in arguments]) != 0
    assert output is None or not output.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]
