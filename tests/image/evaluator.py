"""The organizers' evaluator as far as a container sees it: folders, command line, and the case file of every step."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.simulated_user import click_from_error

CLICK_STEPS = 5

COMMAND = (
    "docker container run {gpu}-m 32G --name {container} --rm {options}-v $PWD/inputs/:/workspace/inputs/"
    ' -v $PWD/outputs/:/workspace/outputs/ {image}:latest /bin/bash -c "sh {script}"'
)


@dataclass(frozen=True)
class Evaluator:
    """An image under evaluation.

    Attributes:
        image: the image's name, without the tag.
        folder: holds `inputs` and `outputs`, which the container gets; open to any user, as the organizers leave them.
    """

    image: str
    folder: Path

    def __post_init__(self) -> None:
        for folder in (self.inputs, self.outputs):
            folder.mkdir()
            folder.chmod(0o777)

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def run(self, *options: str, script: str = "predict.sh") -> subprocess.CompletedProcess[str]:
        """Run one container on all that lies in `inputs`: the organizers' line, plus `options`, minus the network."""
        line = COMMAND.format(
            gpu='--gpus "device=0" ' if shutil.which("nvidia-smi") else "",
            container=f"{self.image}-test-{os.getpid()}",
            options=" ".join(("--network none", *options, "")),
            image=self.image,
            script=script,
        )
        return subprocess.run(line, shell=True, cwd=self.folder, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class LabelledCase:
    """A case with its truth.

    Attributes:
        name: the case file's name.
        image: (D, H, W), axes z, y, x.
        spacing: (3,), mm, in the axes' order.
        truth: (D, H, W), labels 0…K.
        boxes: object array (K,) of the challenge's box dicts; `None` for a case without boxes.
    """

    name: str
    image: NDArray[Any]
    spacing: NDArray[np.floating]
    truth: NDArray[np.integer]
    boxes: NDArray[np.object_] | None

    @property
    def labels(self) -> range:
        return range(1, int(self.truth.max()) + 1)


@dataclass(frozen=True)
class Step:
    """What one container did: its process, and the label map that it left (`None` if there is none)."""

    process: subprocess.CompletedProcess[str]
    segmentation: NDArray[Any] | None


def read_segmentation(path: Path) -> NDArray[Any]:
    """Return `segs` of an output, which must be readable without unpickling."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["segs"]


def evaluate(evaluator: Evaluator, case: LabelledCase) -> Iterator[Step]:
    """Play all steps of a case: the box alone if there is one, then five times one more click an object."""
    clicks: list[dict[str, list[list[np.intp]]]] = [{"fg": [], "bg": []} for _ in case.labels]
    order: list[list[str | None]] = [[] for _ in case.labels]
    constant = {"imgs": case.image, "spacing": case.spacing}
    if case.boxes is not None:
        constant["boxes"] = case.boxes
        yield _step(evaluator, case.name, constant)
    for _ in range(CLICK_STEPS):
        output = evaluator.outputs / case.name
        previous = read_segmentation(output) if output.exists() else np.zeros(case.truth.shape, np.uint8)
        for index, label in enumerate(case.labels):
            click = click_from_error(previous == label, case.truth == label)
            if click is None:
                order[index].append(None)
                continue
            position, positive = click
            kind = "fg" if positive else "bg"
            clicks[index][kind].append([np.intp(coordinate) for coordinate in position])
            order[index].append(kind)
        yield _step(evaluator, case.name, {**constant, "clicks": clicks, "clicks_order": order, "prev_pred": previous})


def _step(evaluator: Evaluator, name: str, arrays: dict[str, Any]) -> Step:
    np.savez_compressed(evaluator.inputs / name, **arrays)
    process = evaluator.run()
    output = evaluator.outputs / name
    return Step(process, read_segmentation(output) if output.exists() else None)
