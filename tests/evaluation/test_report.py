"""The report and its tables, from results made up so that their means can be worked out by hand."""

import csv
import io
import re

import numpy as np
import pytest
from blocks import write_case
from PIL import Image

from evaluation.baselines import BASELINES
from evaluation.cases import read_evaluation_case
from evaluation.contestants import InProcess, RunOutcome
from evaluation.protocol import evaluate, evaluate_case
from evaluation.report.page import best_and_worst, write_report
from evaluation.report.paper_tables import by_boxes, by_modality
from evaluation.report.pictures import draw_case, worst_slice
from evaluation.report.plots import colour_of, curves, distributions, running_times
from evaluation.results import CaseResult, ResultsFolder, Scores, StepResult
from evaluation.summary import ALL, Measured
from evaluation.table import CSV_FILE, ORGANIZERS_COLUMNS, write_csv
from inference.case import CaseError


def result(case, final, *, has_boxes=True, dropped=False, seconds=1.0, **changes):
    """A case of one object whose scores are the same in every run."""
    steps = (StepResult(seconds, final, final / 2),) * (6 if has_boxes else 5)
    return CaseResult(case, 1, has_boxes, dropped, 90.0, steps, **changes)


def row_of(groups, title, method, boxes=None):
    (group,) = [group for group in groups if (group.title, group.boxes) == (title, boxes)]
    (row,) = [row for row in group.rows if row.method == method]
    return row


OURS = Measured(
    "ours",
    (
        result("CT_a.npz", 0.8),
        result("CT_b.npz", 0.4),
        result("CT_b.npz", 0.2, has_boxes=False, dropped=True),
        result("MR_c.npz", 0.6, has_boxes=False),
        result("MR_d.npz", 0.9, seconds=20.0),
        CaseResult("PET_e.npz", 0, False, False, 0.0, (), failure="no key 'gts'", scorable=False),
    ),
)


def test_table_3_has_the_cases_as_provided_beside_the_published_rows():
    groups = by_modality([OURS])
    ct = row_of(groups, "CT", "ours")
    assert (ct.cases, ct.scores.dsc_final, ct.scores.nsd_auc) == (2, pytest.approx(0.6), pytest.approx(1.2))
    assert ct.raw is None
    assert row_of(groups, "CT", "nnInteractive").scores == Scores(3.4337, 3.5743, 0.8764, 0.9165)
    assert row_of(groups, ALL, "ours").cases == 4


def test_a_late_case_counts_zero_with_the_raw_mean_beside_it():
    row = row_of(by_modality([OURS]), "MRI", "ours")
    assert row.scores.dsc_final == pytest.approx(0.3)
    assert row.raw.dsc_final == pytest.approx(0.75)


def test_table_4_parts_cases_with_and_without_boxes():
    groups = by_boxes([OURS])
    assert row_of(groups, "CT", "ours", True).scores.dsc_final == pytest.approx(0.6)
    assert row_of(groups, "CT", "ours", False).scores.dsc_final == pytest.approx(0.2)
    assert row_of(groups, ALL, "ours", False).cases == 2
    assert row_of(groups, ALL, "the paper", True).scores.dsc_final == 0.8276


def test_the_csv_has_the_organizers_columns_first(tmp_path):
    folder = ResultsFolder(tmp_path / "ours", {"weights": "a"})
    for item in OURS.results:
        folder.write(item, [])
    write_csv(folder)
    with (folder.path / CSV_FILE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[: len(ORGANIZERS_COLUMNS)] == list(ORGANIZERS_COLUMNS)
    by_case = {(row["CaseName"], row["Boxes"]): row for row in rows}
    without = by_case["MR_c.npz", "no"]
    assert (without["DSC_1"], without["RunningTime_1"]) == ("0.0", "0.0")
    assert float(without["DSC_AUC"]) == pytest.approx(2.4)
    late = by_case["MR_d.npz", "yes"]
    assert (float(late["DSC_Final"]), float(late["Scored_DSC_Final"])) == (0.9, 0)
    assert (by_case["PET_e.npz", "no"]["DSC_Final"], by_case["PET_e.npz", "no"]["Remark"]) == (
        "",
        "no key 'gts'",
    )
    assert ("CT_b.npz", "dropped") in by_case


def test_the_best_and_the_worst_case_are_those_with_most_and_least_final_dsc():
    assert [item.case for _, item in best_and_worst(OURS.usable)] == ["MR_d.npz", "CT_b.npz"]
    assert [rank for rank, _ in best_and_worst(OURS.usable[:1])] == ["Only"]


def test_a_picture_shows_the_slice_with_most_error():
    truth = np.zeros((6, 5, 5), np.uint8)
    truth[2:4, 1:3, 1:3] = 1
    found = truth.copy()
    found[4, :4, :4] = 1
    assert worst_slice(truth, np.stack([found, truth])) == 4
    truth[3, 3, 3] = 1
    assert worst_slice(truth, np.stack([truth])) == 3


class Contestant:
    """Writes the truth for some cases and nothing, or something wrong, for others."""

    def __init__(self, name, outputs):
        self.name, self.outputs, self.identity = name, outputs, {"baseline" if name in BASELINES else "kind": "test"}

    def run(self, inputs, outputs, case_name, patience):
        if self.outputs.get(case_name) is not None:
            np.savez(outputs / case_name, segs=self.outputs[case_name])
        return RunOutcome()


@pytest.fixture
def results(tmp_path):
    cases = tmp_path / "cases"
    cases.mkdir()
    paths = [
        write_case(cases / "CT_good.npz"),
        write_case(cases / "MR_silent.npz"),
        write_case(cases / "PET_shape.npz", boxes=None),
        write_case(cases / "US_no_truth.npz", gts=None),
        write_case(cases / "US_<b>_mismatch.npz", gts=np.ones((2, 2, 2), np.uint8)),
    ]
    truth = np.load(paths[0])["gts"]
    outputs = {"CT_good.npz": truth, "PET_shape.npz": truth[1:]}
    for name, written in (("ours", outputs), ("ellipsoid", outputs)):
        contestant = Contestant(name, written)
        evaluate(contestant, paths, ResultsFolder(tmp_path / "results" / name, contestant.identity))
    return tmp_path / "results"


def test_the_page_is_whole_and_names_every_failure(results):
    page = write_report(results, [results.parent / "cases"]).read_text()
    for name, reason in (
        ("MR_silent.npz", "wrote no MR_silent.npz"),
        ("PET_shape.npz", "wrote shape (11, 20, 24); expected (12, 20, 24)"),
        ("US_no_truth.npz", "no key &#39;gts&#39;"),
        ("US_&lt;b&gt;_mismatch.npz", "gts has shape (2, 2, 2)"),
    ):
        assert re.search(f"<td>{re.escape(name)}</td>.*{re.escape(reason)}", page), name
    assert "<b>_mismatch" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert "url(" not in page and "@import" not in page
    assert page.count("data:image/webp") == 2  # of CT and MRI; there is no usable output of the others
    assert "Best and worst cases of ours" in page and "2 contestants, 5 cases. " in page
    assert colour_of("ours") in page and colour_of("ellipsoid") in page, "names have the colours of the plots"
    assert (results / "ours" / CSV_FILE).exists()


def test_one_contestant_and_one_case_are_not_plural(tmp_path):
    path = write_case(tmp_path / "CT_a.npz")
    ours = Contestant("ours", {path.name: np.load(path)["gts"]})
    evaluate(ours, [path], ResultsFolder(tmp_path / "results" / "ours", ours.identity))
    assert "1 contestant, 1 case. " in write_report(tmp_path / "results", [tmp_path]).read_text()


def test_the_focus_can_be_chosen_and_must_exist(results):
    page = write_report(results, [results.parent / "cases"], focus="ellipsoid").read_text()
    assert "Best and worst cases of ellipsoid" in page
    with pytest.raises(CaseError, match="no such contestant; expected one of ellipsoid, ours"):
        write_report(results, [results.parent / "cases"], focus="theirs")


def test_a_report_without_the_cases_still_has_the_figures(results, tmp_path):
    page = write_report(results, [tmp_path / "elsewhere"]).read_text()
    assert page.count("Not drawn: ") == 2


def test_the_report_knows_where_the_cases_were_measured(results, tmp_path):
    assert write_report(results).read_text().count("data:image/webp") == 2
    (results.parent / "cases").rename(tmp_path / "moved")
    page = write_report(results).read_text()
    assert page.count("Not drawn: CT_good.npz: the case file is not there") == 1 and "give --cases FOLDER" in page
    assert write_report(results, [tmp_path / "moved"]).read_text().count("data:image/webp") == 2


def test_a_case_that_was_made_anew_is_not_drawn_with_older_results(results):
    smaller = np.arange(24).reshape(2, 3, 4)
    write_case(results.parent / "cases" / "CT_good.npz", gts=smaller % 3, imgs=smaller)
    page = write_report(results, [results.parent / "cases"]).read_text()
    assert page.count("Not drawn: ") == 1 and "is another file than was measured; evaluate it again" in page


def test_masks_of_a_case_before_are_not_drawn_for_a_result_without_any(tmp_path):
    path = write_case(tmp_path / "cases" / "CT_a.npz") if (tmp_path / "cases").mkdir() is None else None
    results = ResultsFolder(tmp_path / "results" / "ours", {"outputs": "made up"})
    evaluate(Contestant("ours", {path.name: np.load(path)["gts"]}), [path], results)
    smaller = np.arange(24).reshape(2, 3, 4)
    write_case(path, gts=smaller % 3, imgs=smaller)
    evaluate(Contestant("ours", {path.name: smaller[1:]}), [path], results)
    assert "data:image/webp" not in write_report(tmp_path / "results").read_text()


def test_a_report_needs_results(tmp_path):
    with pytest.raises(CaseError, match="no results in it"):
        write_report(tmp_path, [tmp_path])


def test_a_case_of_which_nothing_was_found_can_be_drawn(case_path):
    case = read_evaluation_case(case_path)
    outcome, runs = evaluate_case(case, InProcess("empty", {}, lambda item: np.zeros(item.image.shape, np.uint8)))
    with Image.open(io.BytesIO(draw_case(case, outcome, np.stack(runs)))) as picture:
        assert picture.format == "WEBP"
        assert picture.width > 5 * picture.height


def test_a_contestant_keeps_its_colour_in_every_plot_whatever_others_there_are():
    colour = colour_of("ours")
    for plot in (curves, distributions, running_times):
        alone, among = plot([OURS]), plot([Measured("first", OURS.results), OURS, Measured("last", OURS.results)])
        assert colour in alone and among.count(colour) >= alone.count(colour), plot.__name__
        assert colour_of("first") in among and colour_of("first") not in alone
