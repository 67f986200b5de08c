"""The picture's planes are called, and turned, as the image lies in the patient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from grids import place, rotation
from matplotlib.figure import Figure

from conversion.preview import FAINT, UNKNOWN, write_preview
from conversion.source import Source
from conversion.volume import NO_ORIENTATION, patient_ends, read_volume
from evaluation.cases import EvaluationCase
from evaluation.demo import draw as draw_demo
from evaluation.orientation import axis_ends, turned
from inference.case import Click, ObjectPrompts
from inference.geometry import Box


def source(direction: np.ndarray) -> Source:
    image = place((40, 40, 40), direction)
    image.SetSpacing((1, 1, 1))
    objects = (ObjectPrompts(1, Box((5, 5, 5), (9, 9, 9)), (Click((7, 7, 7), True),)),)
    return Source(image, np.zeros((40, 40, 40), np.uint8), objects, None)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (np.eye(3), ((False, False), (True, False), (True, False))),
        (np.diag([-1.0, -1.0, 1.0]), ((True, True), (True, True), (True, True))),
        # Sagittal slices from left to right, their rows from the head down: x runs back, y down, z to the right.
        (np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]), ((False, False), (True, False), (True, True))),
    ],
    ids=["straight", "flipped", "sagittal"],
)
def test_how_planes_are_turned(direction: np.ndarray, expected: tuple) -> None:
    ends = axis_ends(direction)
    assert tuple(turned(axis, ends) for axis in range(3)) == expected


def test_of_an_image_that_says_nothing_of_the_patient_planes_are_drawn_as_stored_which_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def keep(figure: Figure, path: Path, **_: object) -> None:
        drawn["said"] = figure.get_suptitle()
        figure.draw_without_rendering()
        (title,) = figure.texts
        drawn["fits"] = figure.bbox.x0 < title.get_window_extent().x0 and title.get_window_extent().x1 < figure.bbox.x1
        drawn["turned"] = [(view.yaxis_inverted(), view.xaxis_inverted()) for view in figure.axes]
        drawn["letters"] = [text for view in figure.axes for text in view.texts]
        path.write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", keep)
    image = source(np.diag([-1.0, -1.0, -1.0]))  # Of a file without a form, these directions mean nothing.
    write_preview(tmp_path / "a.png", image, np.zeros((40, 40, 40), np.uint8))
    assert UNKNOWN not in drawn["said"] and len(drawn["letters"]) == 12
    image.image.SetMetaData(NO_ORIENTATION, "")
    write_preview(tmp_path / "a.png", image, np.zeros((40, 40, 40), np.uint8))
    # Of the image's rows, the first is at the top: the axis is inverted. z runs upwards.
    assert drawn["turned"] == [(True, False), (False, False), (False, False)]
    assert UNKNOWN in drawn["said"] and drawn["letters"] == [] and drawn["fits"]


def test_the_demo_s_picture_is_turned_as_a_preview_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def keep(figure: Figure, *_: object, **__: object) -> None:
        for view in figure.axes:
            letters = {text.get_position(): text.get_text() for text in view.texts}
            drawn.append("".join(letters[place] for place in ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))))

    monkeypatch.setattr(Figure, "savefig", keep)
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[2:4, 2:5, 3:7] = 1
    objects = (ObjectPrompts(1, Box((2, 2, 3), (3, 4, 6))),)
    case = EvaluationCase("MR_a.npz", labels, labels, (1.0, 1.0, 1.0), objects, {})
    draw_demo(case, labels, [((2, 2, 3), True)], tmp_path / "demo.png")
    # Left, right, top, bottom of axial, coronal and sagittal planes.
    assert drawn == ["RLAP", "RLSI", "APSI"] * 2


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, -1), (-1, -1, 1)], ids=str)
def test_however_a_patient_is_stored_he_looks_at_us_from_the_same_side(signs: tuple, tmp_path: Path) -> None:
    """A mark at the left, front and top of the patient: right of the middle, at the top, and left in profile."""
    mark = np.zeros((40, 40, 40), np.uint8)
    mark[28:36, 4:12, 28:36] = 1
    stored = mark[tuple(slice(None, None, sign) for sign in signs[::-1])]
    image = source(np.diag(np.array(signs, float))).image
    write_preview(tmp_path / "a.png", Source(image, stored * 200, (ObjectPrompts(1),), None), stored)
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png")))[..., :3]
    bright = (picture > 240).all(axis=-1)
    bright[:80] = False  # The titles.
    rows, columns = bright.nonzero()
    panels = picture.shape[1] / 3
    axial, coronal, sagittal = (
        (rows[inside].mean() - (80 + picture.shape[0]) / 2, columns[inside].mean() - (panel + 0.5) * panels)
        for panel in range(3)
        if (inside := (columns // panels).astype(int) == panel).any()
    )
    assert axial[0] < -30 and axial[1] > 30
    assert coronal[0] < -30 and coronal[1] > 30
    assert sagittal[0] < -30 and sagittal[1] < -30


def test_oblique_pictures_are_written(tmp_path: Path) -> None:
    write_preview(tmp_path / "a.png", source(rotation()), np.zeros((40, 40, 40), np.uint8))
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_letters_stand_at_the_edges_that_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sagittal slices from left to right, their rows from the head down: every plane is turned in its own way."""
    drawn = {}

    def keep(figure: Figure, path: Path, **_: object) -> None:
        for axes in figure.axes:
            letters = {text.get_position(): text.get_text() for text in axes.texts}
            name = axes.get_title().splitlines()[-1].split(",")[0]
            drawn[name] = tuple(letters[place] for place in ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015)))
        path.write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", keep)
    labels = np.zeros((40, 40, 40), np.uint8)
    for direction in (np.eye(3), np.diag([-1.0, -1.0, -1.0]), np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])):
        drawn.clear()
        write_preview(tmp_path / "a.png", source(direction), labels)
        # Left, right, top, bottom.
        assert drawn["sagittal"] == ("A", "P", "S", "I")
        assert drawn["coronal"] in [("R", "L", "S", "I"), ("I", "S", "R", "L")]
        assert drawn["axial"] in [("R", "L", "A", "P"), ("A", "P", "R", "L")]
    write_preview(tmp_path / "a.png", source(np.array(sitk.Euler3DTransform((0, 0, 0), 0.4, 0, 0).GetMatrix())), labels)
    assert drawn["sagittal"] == ("AI", "PS", "SA", "IP")


def test_the_numbers_along_the_edges_are_voxels_as_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def keep(figure: Figure, path: Path, **_: object) -> None:
        for view in figure.axes:
            for name, axis in ((view.get_xlabel(), view.xaxis), (view.get_ylabel(), view.yaxis)):
                shown = [int(label.get_text()) for label in axis.get_ticklabels()]
                assert shown == axis.get_majorticklocs().tolist()
                drawn.setdefault(name, []).append(shown)
        path.write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", keep)
    image = place((60, 30, 12), np.diag([-1.0, -1.0, 1.0]))
    objects = (ObjectPrompts(1, Box((5, 5, 5), (9, 9, 9))),)
    labels = np.zeros((12, 30, 60), np.uint8)
    write_preview(tmp_path / "a.png", Source(image, labels, objects, None), labels)
    assert drawn == {"z": [[0, 2, 4, 6, 8, 10]] * 2, "y": [[0, 5, 10, 15, 20, 25]] * 2, "x": [[*range(0, 60, 10)]] * 2}


def test_an_axis_between_two_directions_has_both_letters_the_nearer_one_first() -> None:
    turn = np.deg2rad(30)
    direction = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    assert axis_ends(direction) == (("I", "S"), ("AL", "PR"), ("RA", "LP"))


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nii.gz", "a.tif", "no_forms.nii", "no_space.nrrd"])
def test_letters_only_where_the_file_says_how_the_patient_lies(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "no_forms.nii":
        nibabel.Nifti1Image(np.zeros((5, 6, 7), np.int16), None).to_filename(path)
    elif name == "no_space.nrrd":
        header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nspacings: 1 1 1\nencoding: raw\n\n"
        path.write_bytes(header + bytes(8))
    else:
        sitk.WriteImage(place(), str(path))
    ends = patient_ends(read_volume(path))
    assert ends == (
        None if name in ("a.tif", "no_forms.nii", "no_space.nrrd") else (("I", "S"), ("A", "P"), ("R", "L"))
    )


def test_what_lies_in_other_slices_is_faint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}

    def keep(figure: Figure, path: Path, **_: object) -> None:
        drawn["clicks"] = [[line.get_alpha() for line in view.lines] for view in figure.axes]
        drawn["box"] = [view.patches[0].get_alpha() for view in figure.axes]
        path.write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", keep)
    image = source(np.eye(3))
    clicks = (Click((7, 7, 7), True), Click((9, 7, 10), False))  # On the box's last slice, and past its last column.
    item = ObjectPrompts(1, Box((5, 5, 5), (9, 9, 9)), clicks)
    write_preview(tmp_path / "a.png", replace(image, objects=(item,)), np.zeros((40, 40, 40), np.uint8))
    assert drawn == {"clicks": [[FAINT, 1], [1, 1], [FAINT, 1]], "box": [1, 1, FAINT]}
