"""``python -m evaluation.demo``: a real head MRI, from box to mask to click to better mask, and a picture of it.

The image is the ICBM 152 head template that nilearn ships (the average T1 image of 152 people, 1 mm). Its object is
the brain: what nilearn's tissue maps call grey or white matter, and what that encloses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import cc3d
import numpy as np
from matplotlib import pyplot
from nilearn import datasets
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from evaluation.cases import EvaluationCase, PlacedClick, read_evaluation_case, write_step_input
from evaluation.metrics import score_segmentation
from evaluation.orientation import axis_ends, orient
from evaluation.simulated_user import box_from_mask, click_from_error
from evaluation.voxel_axes import draw_voxel_numbers
from inference.command import Parser, run

ROOT = Path(__file__).resolve().parent.parent
NAME = "MR_icbm152.npz"
OBJECTS = ("brain",)
COLOURS = ("tab:orange", "tab:cyan")
ENDS = axis_ends(np.diag([-1.0, -1.0, 1.0]))
"""Of z, y, x: the template's axes run to the right, the front and the head."""

WITHOUT_DEADLINE = 24 * 3600
"""Seconds an object: on the slowest machine, no step is left out for lack of time."""


def make_case(path: Path) -> None:
    """Writes the head MRI as the challenge would: intensities as in the paper's section 3.2, boxes from the masks."""
    image = datasets.load_mni152_template(resolution=1)
    grey = datasets.load_mni152_gm_template(resolution=1)
    white = datasets.load_mni152_wm_template(resolution=1)
    # nilearn's axes are x, y, z with z upwards; the challenge's are z, y, x.
    head, grey, white = (np.asarray(volume.dataobj, dtype=np.float32).T for volume in (image, grey, white))
    low, high = np.percentile(head[head > 0], (0.5, 99.5))
    intensities = (np.clip((head - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    tissue = cc3d.largest_k(((grey + white) > 0.5).astype(np.uint8), k=1) > 0
    truth = binary_fill_holes(tissue).astype(np.uint8)
    random = np.random.default_rng(0)
    boxes = [box_from_mask(truth == label, random) for label in range(1, len(OBJECTS) + 1)]
    np.savez_compressed(path, imgs=intensities, gts=truth, spacing=np.ones(3), boxes=np.array(boxes))


def predict(inputs: Path, outputs: Path) -> None:
    """Runs ``predict.sh`` as the image does, with this interpreter and without the challenge's deadline.

    Raises:
        ChildProcessError: it failed; it has said why.
    """
    environment = os.environ | {
        "SEGFM3D_INPUTS": str(inputs.resolve()),
        "SEGFM3D_OUTPUTS": str(outputs.resolve()),
        "SEGFM3D_SECONDS_PER_CLASS": str(WITHOUT_DEADLINE),
        "PYTHON": sys.executable,
    }
    if subprocess.run(["sh", str(ROOT / "predict.sh")], env=environment, check=False).returncode:
        raise ChildProcessError("sh predict.sh failed, see above")


def draw(case: EvaluationCase, segmentation: NDArray[np.uint8], clicks: list[PlacedClick | None], path: Path) -> None:
    """Writes a picture: three slices with boxes and clicks (projected), the truth above and the result below."""
    # Each plane's slice is the one that shows most of the object.
    areas = [(case.truth > 0).sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    middle = [int(np.argmax(area)) for area in areas]
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 9), facecolor="black", layout="constrained")
    for column, (axis, plane) in enumerate(zip(range(3), ("axial", "coronal", "sagittal"))):
        rows, columns = (a for a in range(3) if a != axis)
        for row, (labels, title) in enumerate(((case.truth, "truth"), (segmentation, "result"))):
            view = axes[row, column]
            view.imshow(np.take(case.image, middle[axis], axis), cmap="gray", interpolation="nearest")
            for prompts, click, colour in zip(case.objects, clicks, COLOURS):
                mask = np.take(labels == prompts.label, middle[axis], axis)
                if mask.any() and not mask.all():
                    view.contour(mask, levels=[0.5], colors=[colour], linewidths=0.8)
                if prompts.box is None:
                    continue
                lower, size = prompts.box.lower, prompts.box.size
                view.add_patch(
                    pyplot.Rectangle(
                        (lower[columns] - 0.5, lower[rows] - 0.5),
                        size[columns],
                        size[rows],
                        fill=False,
                        edgecolor=colour,
                        linestyle="--",
                        linewidth=0.8,
                    )
                )
                if click is not None:
                    position, positive = click
                    view.plot(position[columns], position[rows], "+" if positive else "x", color=colour, markersize=10)
            orient(view, axis, ENDS)
            view.set_title(f"{plane}, {title}", color="white")
            draw_voxel_numbers(view, rows, columns)
    names = ", ".join(f"{name} in {colour.removeprefix('tab:')}" for name, colour in zip(OBJECTS, COLOURS))
    figure.suptitle(f"ICBM 152 head MRI: {names}; dashed: boxes, +/×: clicks (projected)", color="white")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Segments a real head MRI from a box, then with one simulated click, and draws the result."""
    parser = Parser("python -m evaluation.demo", main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to")
    return run(lambda: _demonstrate(parser.parse_args(arguments).out))


def _demonstrate(out: Path) -> None:
    inputs, outputs = out / "inputs", out / "outputs"
    for folder in (inputs, outputs):
        folder.mkdir(parents=True, exist_ok=True)
    print("1. making a case of the ICBM 152 head MRI, with a box around the brain")
    make_case(out / NAME)
    case = read_evaluation_case(out / NAME)
    clicks: list[list[PlacedClick | None]] = [[] for _ in OBJECTS]
    segmentation = None
    for step in ("the box alone", "the box and one click"):
        print(f"\n{2 if segmentation is None else 3}. sh predict.sh: {step}")
        write_step_input(inputs / NAME, case, clicks, segmentation)
        predict(inputs, outputs)
        with np.load(outputs / NAME) as written:
            segmentation = written["segs"]
        scores = score_segmentation(case.truth, segmentation, case.spacing)
        print(f"   DSC {scores.dsc:.3f}, NSD at 2 mm {scores.nsd:.3f}")
        if not clicks[0]:
            for label, made in enumerate(clicks, start=1):
                made.append(click_from_error(segmentation == label, case.truth == label))
    draw(case, segmentation, [made[0] for made in clicks], out / "demo.png")
    print(f"\nlook at {out / 'demo.png'}; the label map is in {outputs / NAME} (key segs)")


if __name__ == "__main__":
    sys.exit(main())
