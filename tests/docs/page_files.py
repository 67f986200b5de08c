"""What the commands of each page find in the folder where they are run: small stand-ins for what a reader has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.rehearsal.__main__ import TINY, WEIGHTS
from benchmarks.training_ablation import HELD_OUT
from tests.docs import pages
from tests.evaluation.blocks import write_case
from tests.inference.factories import write_weights
from tests.stand_in import write_stand_in

SHAPE = (36, 96, 96)
ORIGIN, SPACING = (-60.0, -40.0, -110.0), (1.2, 1.2, 3.0)
"""Of the image, x, y, z in mm: the boxes and clicks of the pages, in voxels and in millimetres, lie inside of it."""


def nothing(folder: Path) -> None:
    """The page makes all that it names."""


def a_scan(folder: Path) -> None:
    """An ellipsoid as ``scan.nii.gz`` and as a DICOM series, its truth, and cases of it in ``DATA``."""
    z, y, x = np.ogrid[tuple(map(slice, SHAPE))]
    inside = ((z - 15) / 5) ** 2 + ((y - 45) / 14) ** 2 + ((x - 60) / 19) ** 2 < 1
    random = np.random.default_rng(0)
    values = np.where(inside, 120, -80) + random.normal(0, 20, SHAPE)
    image = sitk.GetImageFromArray(values.astype(np.int16))
    truth = sitk.GetImageFromArray(inside.astype(np.uint8))
    for item in (image, truth):
        item.SetOrigin(ORIGIN)
        item.SetSpacing(SPACING)
    sitk.WriteImage(image, str(folder / "scan.nii.gz"))
    sitk.WriteImage(truth, str(folder / "truth.nii.gz"))
    _write_series(folder / "dicom_folder", image)
    made = "segfm3d case make scan.nii.gz --mask truth.nii.gz --modality CT -o case.npz\n"
    done = pages.run(made, folder)
    assert done.returncode == 0, done.stderr
    (folder / "DATA").mkdir()
    for number in range(2):
        shutil.copy(folder / "case.npz", folder / "DATA" / f"CT_made_{number}.npz")


def a_scan_and_another_mask(folder: Path) -> None:
    """For Segment images: also the mask of another program, whose object is 7."""
    a_scan(folder)
    truth = sitk.ReadImage(str(folder / "truth.nii.gz"))
    sitk.WriteImage(truth * 7, str(folder / "other.nii.gz"))


def their_weights(folder: Path) -> None:
    """``nnInteractive_v1.0``: weights of a small network in nnInteractive's layout."""
    pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")
    write_stand_in(folder / "nnInteractive_v1.0")


def a_scan_and_their_weights(folder: Path) -> None:
    their_weights(folder)
    a_scan(folder)


def the_challenges_data(folder: Path) -> None:
    """Stand-ins for what the page on the paper says to get: weights in nnInteractive's layout, and made cases."""
    a_scan_and_their_weights(folder)
    (folder / "DATA").rename(folder / "3D_train_npz_random_10percent_16G")
    for name in ("3D_val_npz", "3D_val_gt"):
        (folder / name).mkdir()
    with np.load(folder / "case.npz", allow_pickle=True) as made:
        case = dict(made)
    truth = case.pop("gts")
    for name, left_out in {"CT_with_box.npz": (), "MR_without.npz": ("boxes",)}.items():
        np.savez(folder / "3D_val_npz" / name, **{key: case[key] for key in case if key not in left_out})
        np.savez(folder / "3D_val_gt" / name, gts=truth)


def tiny_weights(folder: Path) -> None:
    """In place of the embedded ones, where many cases are run or trained on."""
    write_weights(folder / "weights" / "default.pt", TINY)


def cases_to_evaluate(folder: Path) -> None:
    """For Evaluate: folders of cases, and a scan to make one of; a case and its result."""
    tiny_weights(folder)
    a_scan(folder)
    _cases(folder / "cases", "MR_blocks_1")
    _cases(folder / "seen", "CT_blocks_1")
    _cases(folder / "unseen", "US_blocks_1")
    _result(folder, "CT_scan")


def a_case_and_its_result(folder: Path) -> None:
    tiny_weights(folder)
    _cases(folder / "cases", "CT_case")
    _result(folder, "CT_case")


def an_image_that_was_evaluated(folder: Path) -> None:
    """For Submit: a case and its result, and in place of what an evaluation of the image leaves, one of weights."""
    their_weights(folder)
    a_case_and_its_result(folder)
    line = "segfm3d evaluate --cases cases --results runs/evaluation --weights weights/default.pt --name image\n"
    done = pages.run(line, folder)
    assert done.returncode == 0, done.stderr


def data_to_train_on(folder: Path) -> None:
    """For Train: cases, some of the sources that the ablation holds out, label maps, and pieces that came back."""
    tiny_weights(folder)
    _cases(folder / "DATA", *(f"{source}_1" for source in ("CT_a", "MR_b", *HELD_OUT)))
    _cases(folder / "VALIDATION", "CT_c_1")
    _label_maps(folder / "SHAPES")
    line = (
        f"python -m training --data DATA --init weights/default.pt --out lent --pieces RETURNED/pieces{pages.SHORT}\n"
    )
    done = pages.run(line, folder)
    assert done.returncode == 0, done.stderr


def data_to_carry(folder: Path) -> None:
    """For Train on a GPU: cases for three parts, and those that weights are judged on."""
    tiny_weights(folder)
    (folder / WEIGHTS).parent.mkdir()
    write_weights(folder / WEIGHTS, TINY)
    _cases(folder / "DATA", *(f"{source}_{number}" for source in ("CT_a", "MR_b") for number in range(3)))
    _cases(folder / "DATA" / "val", "CT_c_1")
    _cases(folder / "DATA" / "val_unseen", "MR_d_1")
    _label_maps(folder / "SHAPES")
    (folder / "RETURNED").mkdir()


def cases_with_boxes(folder: Path) -> None:
    tiny_weights(folder)
    _cases(folder / "CASES", "CT_a_1")


FILES: dict[Path, Callable[[Path], None]] = {
    pages.README: a_scan,
    pages.TUTORIAL: nothing,
    pages.PAPER: the_challenges_data,
    pages.SEGMENT: a_scan_and_another_mask,
    pages.EVALUATE: cases_to_evaluate,
    pages.NNINTERACTIVE: a_scan_and_their_weights,
    pages.SUBMIT: an_image_that_was_evaluated,
    pages.TRAIN: data_to_train_on,
    pages.GPU: data_to_carry,
    pages.CLUSTER: nothing,
    pages.EXPERIMENTS: cases_with_boxes,
}
"""Page -> what writes its files, for all pages that have a command which is run."""


def _cases(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        write_case(folder / f"{name}.npz")


def _label_maps(folder: Path) -> None:
    folder.mkdir()
    write_case(folder / "blocks_1.npz", imgs=None, boxes=None)


def _result(folder: Path, name: str) -> None:
    """A case in ``inputs``, and what ``predict.sh`` would have written of it: its truth."""
    _cases(folder / "inputs", name)
    (folder / "outputs").mkdir()
    with np.load(folder / "inputs" / f"{name}.npz", allow_pickle=True) as case:
        np.savez(folder / "outputs" / f"{name}.npz", segs=case["gts"])


def _write_series(folder: Path, image: sitk.Image) -> None:
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    common = {"0008|0060": "CT", "0020|000d": "1.2.3.4", "0020|000e": "1.2.3.4.5", "0020|0052": "1.2.3.4.6"}
    for index in range(image.GetDepth()):
        plane = image[:, :, index]
        position = "\\".join(str(value) for value in image.TransformIndexToPhysicalPoint((0, 0, index)))
        tags = {"0020|0032": position, "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(index + 1)}
        tags |= {"0008|0018": f"1.2.3.4.5.{index + 1}"}
        for key, value in (common | tags).items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{index:03}.dcm"))
        writer.Execute(plane)
