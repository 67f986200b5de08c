"""The protocol: what runs are given, how they are scored, and what becomes of contestants and cases that fail."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blocks import SHAPE, write_case
from torch import nn

from evaluation.cases import list_cases, read_evaluation_case, without_boxes, write_step_input
from evaluation.contestants import Command, ContestantError, DockerImage, InProcess, RunOutcome, given_up, unhurried
from evaluation.protocol import evaluate, evaluate_case
from evaluation.results import CaseResult, ResultsFolder, Scores, StepResult
from evaluation.simulated_user import click_from_error
from evaluation.table import csv_row
from inference.case import CaseError, read_case
from inference.checkpoint import ModelConfig
from inference.deadline import Deadline
from inference.network import NetworkConfig
from inference.predictor import Predictor
from inference.prompts import PAPER_STYLE
from inference.refinement import ObjectReport
from inference.segmenter import Segmenter, segment_case


class Recorder:
    """A contestant that keeps what it is given and does what it is told."""

    name, identity = "recorder", {"kind": "recorder"}

    def __init__(self, *behaviours):
        self.behaviours = list(behaviours)
        self.inputs = []

    def run(self, inputs: Path, outputs: Path, case_name: str, patience: float) -> RunOutcome:
        assert [path.name for path in inputs.iterdir()] == [case_name]
        with np.load(inputs / case_name, allow_pickle=True) as arrays:
            self.inputs.append(dict(arrays))
        behaviour = self.behaviours[min(len(self.inputs), len(self.behaviours)) - 1]
        behaviour(outputs / case_name)
        return RunOutcome()


def writing(segmentation, key="segs"):
    return lambda path: np.savez(path, **{key: segmentation})


def nothing(path):
    pass


def crashing(path):
    raise ContestantError("exit code 1")


@pytest.fixture
def case(case_path):
    return read_evaluation_case(case_path)


EMPTY = np.zeros(SHAPE, np.uint8)


def test_a_case_with_boxes_is_run_with_the_boxes_alone_and_then_with_a_click_more_each_time(case):
    contestant = Recorder(writing(EMPTY))
    result, segmentations = evaluate_case(case, contestant)
    assert [sorted(given) for given in contestant.inputs] == [["boxes", "imgs", "spacing"]] + [
        ["boxes", "clicks", "clicks_order", "imgs", "prev_pred", "spacing"]
    ] * 5
    assert [len(step.clicks) for step in result.steps] == [0, 2, 2, 2, 2, 2]
    last = contestant.inputs[-1]
    assert np.array_equal(last["imgs"], case.image)
    assert [sorted(item) for item in last["clicks"]] == [["bg", "fg"], ["bg", "fg"]]
    assert len(last["clicks"][0]["fg"]) == 5
    assert last["clicks_order"].tolist() == [["fg"] * 5] * 2
    expected = click_from_error(EMPTY == 2, case.truth == 2)[0]
    assert tuple(last["clicks"][1]["fg"][0]) == expected
    assert all(isinstance(value, np.integer) for value in last["clicks"][1]["fg"][0])
    assert len(segmentations) == 6


def test_a_case_without_boxes_starts_with_a_click_and_an_empty_mask(case):
    contestant = Recorder(writing(case.truth))
    result, _ = evaluate_case(without_boxes(case), contestant)
    assert len(contestant.inputs) == 5
    assert sorted(contestant.inputs[0]) == ["clicks", "clicks_order", "imgs", "prev_pred", "spacing"]
    assert not contestant.inputs[0]["prev_pred"].any()
    assert result.dsc == (0, 1, 1, 1, 1, 1)
    assert result.running_times[0] == 0
    assert result.scores == Scores(4, 4, 1, 1)
    assert result.boxes_dropped


def test_an_object_without_error_gets_no_click_and_none_in_the_order(case):
    first_only = np.where(case.truth == 1, 1, 0).astype(np.uint8)
    contestant = Recorder(writing(first_only))
    result, _ = evaluate_case(case, contestant)
    last = contestant.inputs[-1]
    assert last["clicks"][0] == {"fg": [], "bg": []}
    assert last["clicks_order"].dtype == object
    assert last["clicks_order"].tolist() == [[None] * 5, ["fg"] * 5]
    assert result.steps[1].clicks[0] is None


def test_the_segmenter_reads_the_clicks_that_were_written(case, tmp_path):
    clicks = [[((1, 2, 3), True), None, ((4, 5, 6), False)], [None, ((7, 8, 9), True), None]]
    write_step_input(tmp_path / case.name, case, clicks, EMPTY)
    read = read_case(tmp_path / case.name)
    assert [[(click.position, click.positive) for click in item.clicks] for item in read.objects] == [
        [click for click in steps if click is not None] for steps in clicks
    ]
    assert [item.box for item in read.objects] == [item.box for item in case.objects]
    assert read.notes == ()


def test_what_a_failed_run_left_of_the_previous_one_stands(case):
    result, _ = evaluate_case(case, Recorder(writing(case.truth), crashing, nothing))
    assert result.failure == ""
    assert result.dsc == (1,) * 6
    assert "exit code 1, nothing written, the previous output stands" in result.steps[1].note
    assert "nothing written, the previous output stands" in result.remark


def damaged(path):
    """An archive whose compressed voxels are not what its directory says."""
    np.savez_compressed(path, segs=np.random.default_rng(0).integers(0, 3, SHAPE, np.uint8))
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (nothing, "wrote no CT_blocks.npz"),
        (crashing, "wrote no CT_blocks.npz"),
        (writing(EMPTY[1:]), r"wrote shape \(11, 20, 24\); expected \(12, 20, 24\)"),
        (writing(EMPTY, key="masks"), r"no key 'segs' \(found: masks\)"),
        (writing(EMPTY.astype(float)), "wrote dtype float64"),
        (lambda path: path.write_bytes(b"PK no archive"), "wrote no label map that can be read"),
        (lambda path: path.write_bytes(b""), "wrote no label map that can be read"),
        (lambda path: np.save(path.open("wb"), EMPTY), "wrote no label map that can be read"),
        (damaged, "wrote no label map that can be read"),
    ],
)
def test_a_case_without_a_usable_output_counts_zero_and_says_why(case, behaviour, reason):
    result, _ = evaluate_case(case, Recorder(behaviour))
    assert result.scores == Scores(0, 0, 0, 0)
    assert re.search(reason, result.failure)


def test_an_unusable_output_after_usable_ones_counts_zero_too(case):
    result, _ = evaluate_case(case, Recorder(writing(case.truth), writing(EMPTY[1:])))
    assert result.scores == Scores(0, 0, 0, 0)
    assert result.dsc == (1, 0, 0, 0, 0, 0)


def test_an_error_in_this_process_is_the_contestants(case):
    def segment(_):
        raise RuntimeError("out of\nmemory")

    result, _ = evaluate_case(case, InProcess("broken", {}, segment))
    assert "RuntimeError: out of memory" in result.remark
    assert "\n" not in result.remark


def test_objects_that_the_network_failed_on_are_counted_and_said(case, capsys):
    class Broken(nn.Module):
        def forward(self, x):
            raise ArithmeticError("no answer")

    config = ModelConfig(NetworkConfig((8, 16), (1, 1)), (16, 16, 16), PAPER_STYLE)
    result, _ = evaluate_case(case, unhurried(Segmenter(Predictor(Broken(), config, torch.device("cpu")))))
    assert [step.failed_objects for step in result.steps] == [2] * 6
    assert result.failed_objects == 12
    assert result.remark == (
        "runs 1, 2, 3, 4, 5, 6: the network failed on 2 of 2 objects; "
        "run 1: ArithmeticError: no answer, taking the ellipsoid in its box; "
        "runs 2, 3, 4, 5, 6: ArithmeticError: no answer, taking its previous mask"
    )
    assert csv_row(result)["Failed_Objects"] == 12
    assert "ArithmeticError" in capsys.readouterr().err


def test_what_objects_were_not_given_is_a_remark(case):
    config = ModelConfig(NetworkConfig((8, 16), (1, 1)), (16, 16, 16), PAPER_STYLE)
    segmenter = Segmenter(Predictor(nn.Identity(), config, torch.device("cpu"), {(16, 16, 16): 1e6}))

    def segment(shown):
        return segment_case(shown, segmenter, Deadline(600), log=lambda line: None)

    result, _ = evaluate_case(case, InProcess("slow", {}, segment, segmenter))
    assert result.remark.startswith("run 1: no time for a patch of (16, 16, 16), no time for a patch of (8, 8, 8), ")
    assert "taking the ellipsoid in its box" in result.remark and result.failed_objects == 0
    assert csv_row(result)["Remark"] == result.remark


def test_it_is_said_of_how_many_objects_something_holds():
    late, fine = ObjectReport(1.0, "cpu", ("no time for the fine pass",) * 2), ObjectReport(1.0, "cpu")
    assert given_up([late, fine, late]) == "no time for the fine pass (2 of 3 objects)"
    assert given_up([late, late]) == "no time for the fine pass" and given_up([fine]) == given_up([]) == ""


def test_the_dsc_of_each_object_is_kept(case):
    first_only = np.where(case.truth == 1, 1, 0).astype(np.uint8)
    result, _ = evaluate_case(case, Recorder(writing(first_only), writing(case.truth)))
    assert [step.object_dsc for step in result.steps] == [(1, 0)] + [(1, 1)] * 5
    assert not result.lacks_objects


def test_too_long_a_time_counts_zero_and_keeps_the_raw_scores(case):
    in_time, _ = evaluate_case(case, Recorder(writing(case.truth)))
    assert not in_time.over_time
    late = replace(in_time, steps=tuple(replace(step, seconds=31.0) for step in in_time.steps))
    assert late.limit_seconds == 180
    assert late.over_time
    assert late.scores == Scores(0, 0, 0, 0)
    assert late.raw_scores == Scores(4, 4, 1, 1)
    row = csv_row(late)
    assert (row["DSC_Final"], row["Scored_DSC_Final"]) == (1, 0)
    assert "over time (186 s of 180 s)" in row["Remark"]


def test_exactly_the_limit_is_in_time():
    steps = (StepResult(15.0, 1.0, 1.0),) * 6
    assert not CaseResult("CT_a.npz", 1, True, False, 90.0, steps).over_time


def test_a_command_is_given_both_folders(case):
    script = (
        "import sys, glob, numpy; f = glob.glob(sys.argv[1] + '/*.npz')[0]; "
        "numpy.savez(f.replace(sys.argv[1], sys.argv[2]), segs=numpy.load(f)['imgs'] // 100)"
    )
    result, segmentations = evaluate_case(
        case, Command("command", f'{sys.executable} -c "{script}" {{inputs}} {{outputs}}')
    )
    assert result.remark == ""
    assert np.array_equal(segmentations[0], case.image // 100)


def test_a_command_that_fails_says_how(tmp_path):
    for command, reason in (
        ("false", "exit code 1"),
        ("sleep 5", "stopped after 0 s"),
    ):
        with pytest.raises(ContestantError, match=reason):
            Command("command", command).run(tmp_path, tmp_path, "a.npz", 0.2)
    with pytest.raises(CaseError, match="cannot be started"):
        Command("command", "no-such-command-anywhere").run(tmp_path, tmp_path, "a.npz", 0.2)


def test_an_image_is_run_with_the_organizers_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    image = DockerImage("ours", "segfm3d:latest", "sha256:0")
    assert " ".join(image.command(Path("/a/inputs"), Path("/a/outputs"))) == (
        f"docker container run -m 32G --name {image.container} --rm -v /a/inputs/:/workspace/inputs/ "
        "-v /a/outputs/:/workspace/outputs/ segfm3d:latest /bin/bash -c sh predict.sh"
    )
    assert image.container != DockerImage("ours", "segfm3d:latest", "sha256:0").container, "two may run side by side"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "--gpus device=0 -m 32G" in " ".join(image.command(Path("/a"), Path("/b")))


def unusable(path, reason):
    with pytest.raises(CaseError, match=reason) as caught:
        read_evaluation_case(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_a_case_that_cannot_be_evaluated_says_why_in_one_line(tmp_path):
    path = tmp_path / "CT_bad.npz"
    unusable(write_case(path, gts=None), "no key 'gts'")
    unusable(write_case(path, gts=np.ones((1, 2, 3), np.uint8)), r"gts has shape \(1, 2, 3\); expected \(12, 20, 24\)")
    unusable(write_case(path, gts=EMPTY), "gts has the labels none")
    unusable(write_case(path, gts=EMPTY + np.uint8(2)), "gts has the labels 2; expected 1…K")
    unusable(write_case(path, gts=EMPTY + 0.5), "gts has dtype float64")
    unusable(write_case(path, boxes=np.array([{}])), "1 boxes for 2 objects")
    unusable(write_case(path, spacing=None), "no key 'spacing'")
    path.write_bytes(b"not a file of arrays")
    unusable(path, "not a readable .npz")


def test_truths_may_lie_in_a_folder_of_their_own(tmp_path):
    (tmp_path / "truths").mkdir()
    path = write_case(tmp_path / "CT_a.npz", gts=None)
    write_case(tmp_path / "truths" / "CT_a.npz", imgs=None, spacing=None, boxes=None)
    assert read_evaluation_case(path, tmp_path / "truths").classes == 2


def test_a_folder_without_cases_is_refused(tmp_path):
    with pytest.raises(CaseError, match=r"no \.npz file"):
        list_cases(tmp_path)
    with pytest.raises(CaseError, match="no such folder"):
        list_cases(tmp_path / "absent")


def test_one_bad_case_does_not_end_the_run_and_a_second_run_does_only_what_is_missing(tmp_path):
    cases = tmp_path / "cases"
    cases.mkdir()
    write_case(cases / "CT_a.npz")
    write_case(cases / "MR_b.npz", gts=None)
    write_case(cases / "PET_c.npz", boxes=None)
    results = ResultsFolder(tmp_path / "results" / "recorder", Recorder.identity)
    contestant = Recorder(writing(EMPTY))
    first = evaluate(contestant, list_cases(cases), results)
    assert [result.scorable for result in first] == [True, False, True]
    assert len(contestant.inputs) == 6 + 5
    write_case(cases / "MR_b.npz")
    again = Recorder(writing(EMPTY))
    second = evaluate(again, list_cases(cases), results)
    assert len(again.inputs) == 6
    assert (second[0], second[2]) == (first[0], first[2])
    assert {result.case for result in results.read_all() if result.scorable} == {"CT_a.npz", "MR_b.npz", "PET_c.npz"}
    assert len(results.read_all()) == 3


@pytest.mark.parametrize("changed", ["imgs", "spacing", "gts", "boxes"])
def test_a_case_that_was_made_anew_is_measured_anew(changed, tmp_path):
    path = write_case(tmp_path / "CT_a.npz")
    with np.load(path, allow_pickle=True) as arrays:
        before = arrays[changed]
    if changed == "boxes":
        after = np.array([entry | {"z_max": entry["z_max"] - 1} for entry in before])
    else:
        after = before + 1 if changed != "gts" else np.roll(before, 1, axis=0)
    results = ResultsFolder(tmp_path / "results" / "recorder", Recorder.identity)
    for content, runs in ((before, 6), (before, 0), (after, 6), (after, 0)):
        write_case(path, **{changed: content})
        contestant = Recorder(writing(EMPTY))
        evaluate(contestant, [path], results)
        assert len(contestant.inputs) == runs


def test_results_from_before_the_checksum_was_kept_are_taken(case):
    result, _ = evaluate_case(case, Recorder(writing(EMPTY)))
    assert result.measured_on == "" and result.is_of(case.checksum)
    assert not replace(result, measured_on="other").is_of(case.checksum)


def test_results_come_back_as_they_were_written(case, tmp_path):
    folder = ResultsFolder(tmp_path / "recorder", Recorder.identity)
    result, segmentations = evaluate_case(case, Recorder(writing(EMPTY), writing(case.truth)))
    folder.write(result, segmentations)
    assert folder.read(case.name, has_boxes=True) == result
    assert folder.read(case.name, has_boxes=False) is None
    assert np.array_equal(folder.read_segmentations(result), np.stack(segmentations))


def test_results_of_another_contestant_are_not_continued(tmp_path):
    ResultsFolder(tmp_path / "ours", {"weights": "wrong"})
    results = ResultsFolder(tmp_path / "ours", {"weights": "a"})
    assert results.identity == {"weights": "a"}, "nothing was measured before"
    results.write(CaseResult("CT_a.npz", 1, True, False, 90.0, (StepResult(1.0, 0.5, 0.5),) * 6), [])
    with pytest.raises(CaseError, match="choose another --name"):
        ResultsFolder(tmp_path / "ours", {"weights": "b"})
