"""Figures of groups of cases, from results made up so that they can be worked out by hand."""

import csv

import pytest
from blocks import write_case

from evaluation.console import group_table, old_results
from evaluation.groups import ELSEWHERE, by_group, click_changes, group_figures, group_titles
from evaluation.report.page import write_report
from evaluation.report.plots import COLOURS, colour_of
from evaluation.results import CaseResult, ResultsFolder, StepResult
from evaluation.summary import ALL, Measured
from evaluation.table import CSV_FILE, OBJECTS_FILE, write_csv
from inference.case import CaseError

CLICK = ((1, 2, 3), True)


def case_of(name, *objects, has_boxes=True, clicks=None, seconds=1.0, **changes):
    """A case whose objects have these DSC, one a run; each run with clicks has one for each object."""
    runs = list(zip(*objects, strict=True))
    made = clicks or [[CLICK] * len(objects)] * 5
    made = [[], *made] if has_boxes else made
    steps = tuple(
        StepResult(seconds, sum(run) / len(run), 0.5, tuple(given), object_dsc=run)
        for run, given in zip(runs, made, strict=True)
    )
    return CaseResult(name, len(objects), has_boxes, False, 90.0 * len(objects), steps, **changes)


def old(result):
    """The same as it was written before the DSC of each object was kept."""
    steps = tuple(StepResult(step.seconds, step.dsc, step.nsd, step.clicks) for step in result.steps)
    return CaseResult(result.case, result.classes, result.has_boxes, False, result.limit_seconds, steps)


RISING = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
FALLING = (0.9, 0.9, 0.895, 0.8, 0.85, 0.7)


def test_a_click_is_harmful_if_its_object_gets_worse_by_more_than_a_hundredth():
    figures = group_figures([case_of("CT_a.npz", RISING, FALLING)])
    assert (figures.clicks, figures.harmful_share) == (10, 0.2)


def test_an_object_without_a_click_does_not_count():
    clicks = [[CLICK, None]] * 3 + [[CLICK, CLICK]] * 2
    assert click_changes(case_of("CT_a.npz", RISING, FALLING, clicks=clicks)) == pytest.approx(
        [0.1, 0.1, 0.1, 0.1, 0.05, 0.1, -0.15]
    )
    nowhere = case_of("CT_a.npz", (1.0,) * 6, clicks=[[None]] * 5)
    assert group_figures([nowhere]).harmful_share is None


def test_without_boxes_the_first_click_starts_from_nothing():
    assert click_changes(case_of("CT_a.npz", FALLING[1:], has_boxes=False))[0] == 0.9


def test_the_table_says_that_the_worst_tenth_is_of_objects():
    rows = by_group([Measured("ours", (case_of("CT_a.npz", RISING, FALLING),))])
    assert f"\n  {'DSC Final, worst 10 % of objects':34}{'0.6000':>12}\n" in group_table(rows)


def test_the_worst_tenth_is_rounded_up_and_counts_late_cases_as_zero():
    finals = [(value / 20,) * 6 for value in range(1, 12)]
    assert group_figures([case_of("CT_a.npz", *finals)]).worst_tenth == pytest.approx((0.05 + 0.1) / 2)
    late = case_of("CT_b.npz", (0.9,) * 6, seconds=100.0)
    assert group_figures([case_of("CT_a.npz", *finals[:10]), late]).worst_tenth == pytest.approx((0 + 0.05) / 2)


def test_scores_are_means_of_modalities_and_curves_show_where_the_mean_falls():
    results = [
        case_of("CT_a.npz", (0.2,) * 6),
        case_of("CT_b.npz", (0.4,) * 6),
        case_of("MR_c.npz", (0.5, 0.6, 0.7, 0.6, 0.6, 0.9)),
    ]
    figures = group_figures(results)
    assert figures.scores.dsc_final == pytest.approx((0.3 + 0.9) / 2)
    ct, mri = figures.curves
    assert (ct.modality, ct.cases, ct.dsc) == ("CT", 2, pytest.approx((0.3,) * 6))
    assert mri.falls == (False, False, False, True, False, False)
    without = group_figures([case_of("CT_a.npz", (0.5, 0.4, 0.6, 0.7, 0.8), has_boxes=False)]).curves[0]
    assert without.dsc == pytest.approx((None, 0.5, 0.4, 0.6, 0.7, 0.8))
    assert without.falls == (False, False, True, False, False, False)


def test_groups_stand_side_by_side_and_each_contestant_has_its_rows():
    ours = Measured("ours", (case_of("CT_a.npz", (0.8,) * 6), case_of("CT_b.npz", (0.4,) * 6)))
    theirs = Measured("theirs", (case_of("CT_a.npz", (0.3,) * 5, has_boxes=False), case_of("CT_x.npz", (0.1,) * 6)))
    rows = by_group([ours, theirs], {"CT_a.npz": "seen", "CT_b.npz": "unseen", "CT_c.npz": "unseen"})
    assert [(row.contestant, row.boxes) for row in rows] == [("ours", True), ("theirs", True), ("theirs", False)]
    assert all(list(row.figures) == ["seen", "unseen", ELSEWHERE] for row in rows)
    finals = [[figures and round(figures.scores.dsc_final, 6) for figures in row.figures.values()] for row in rows]
    assert finals == [[0.8, 0.4, None], [None, None, 0.1], [0.3, None, None]]
    assert list(by_group([ours])[0].figures) == [ALL]
    text = group_table(rows)
    assert "ours, with boxes                            seen      unseen  in no folder" in text
    assert "  DSC Final                               0.8000      0.4000             –" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_results_without_the_dsc_of_each_object_are_read_and_named(tmp_path):
    folder = ResultsFolder(tmp_path / "ours", {"weights": "a"})
    folder.write(case_of("CT_a.npz", FALLING), [])
    folder.write(old(case_of("CT_b.npz", RISING)), [])
    file = tmp_path / "ours" / "with_boxes" / "CT_b.json"
    text = file.read_text()
    assert text.count('"object_dsc"') == 6
    file.write_text(text.replace('"object_dsc": [],', "").replace('"failed_objects": 0', '"note": ""'))
    rows = by_group([Measured("ours", tuple(folder.read_all()))])
    (figures,) = rows[0].figures.values()
    assert figures.scores.dsc_final == pytest.approx(0.65)
    assert (figures.without_objects, figures.harmful_share, figures.worst_tenth) == (1, None, None)
    (line,) = old_results(rows)
    assert line.startswith("ours: 1 result was written before")
    write_csv(folder)
    with (folder.path / CSV_FILE).open(newline="") as stream:
        rows = {row["CaseName"]: (row["Clicks"], row["Harmful_Clicks"]) for row in csv.DictReader(stream)}
    assert rows == {"CT_a.npz": ("5", "2"), "CT_b.npz": ("", "")}


def test_the_table_of_objects_holds_each_with_its_clicks(tmp_path):
    folder = ResultsFolder(tmp_path / "ours", {"weights": "a"})
    clicks = [[CLICK, None], [((0, 0, 0), False), CLICK], *[[None, CLICK]] * 3]
    folder.write(case_of("CT_a.npz", RISING[1:], FALLING[1:], has_boxes=False, clicks=clicks), [])
    write_csv(folder)
    with (folder.path / OBJECTS_FILE).open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert (first["CaseName"], first["Boxes"], first["Object"], second["Object"]) == ("CT_a.npz", "no", "1", "2")
    assert [first[f"DSC_{run}"] for run in range(1, 7)] == ["", "0.2", "0.3", "0.4", "0.5", "0.6"]
    assert [first[f"Click_{run}"] for run in range(1, 7)] == ["", "fg", "bg", "", "", ""]
    assert [second[f"Click_{run}"] for run in range(1, 7)] == ["", "", "fg", "fg", "fg", "fg"]


@pytest.fixture
def folders(tmp_path):
    for folder, name in (("val", "CT_a.npz"), ("val_unseen", "CT_b.npz")):
        (tmp_path / folder).mkdir()
        write_case(tmp_path / folder / name)
    return tmp_path / "val", tmp_path / "val_unseen"


def test_a_group_is_named_like_its_folder(folders, tmp_path):
    assert group_titles(folders) == {"CT_a.npz": "val", "CT_b.npz": "val_unseen"}
    (tmp_path / "more" / "val").mkdir(parents=True)
    write_case(tmp_path / "more" / "val" / "MR_c.npz")
    assert group_titles([folders[0], tmp_path / "more" / "val"]) == {
        "CT_a.npz": str(folders[0]),
        "MR_c.npz": str(tmp_path / "more" / "val"),
    }


def test_two_folders_with_the_same_case_are_refused(folders):
    write_case(folders[1] / "CT_a.npz")
    with pytest.raises(CaseError, match=r"val_unseen/CT_a\.npz: .*val/CT_a\.npz has the same name"):
        group_titles(folders)


def test_the_page_shows_both_groups_and_marks_a_fall(folders, tmp_path):
    results = ResultsFolder(tmp_path / "results" / "ours", {"weights": "a"})
    results.write(case_of("CT_a.npz", FALLING, RISING), [])
    results.write(case_of("CT_b.npz", (0.25,) * 6), [])
    page = write_report(tmp_path / "results", folders).read_text()
    assert "Groups of cases side by side" in page
    assert page.count('<th class="n">val</th><th class="n">val_unseen</th>') == 7
    assert '<td class="n">20.0%</td><td class="n">0.0%</td>' in page
    assert "0.600 ↓" not in page and page.count(" ↓</td>") == 1
    one = write_report(tmp_path / "results", folders[:1]).read_text()
    assert "Groups of cases side by side" not in one and "Figures that count" in one
    assert ">val_unseen<" not in one


def test_a_contestant_has_its_colour_whatever_others_there_are():
    assert colour_of("segfm3d") == COLOURS["segfm3d"]
    names = ["segfm3d", "ellipsoid", "random-walker", "ours", "ours2", "theirs", "a", "b"]
    colours = [colour_of(name) for name in names]
    assert colours[3] == "#83212e"
    assert len(set(colours)) == len(names)
    assert all(len(colour) == 7 for colour in colours)
