"""What is counted for a calibration, and the command that writes it down."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blocks import write_case
from torch import nn

from evaluation.__main__ import main
from evaluation.calibration import count_case, read_calibration, size_class, summarize
from evaluation.cases import read_evaluation_case
from evaluation.summary import ALL
from inference import checkpoint
from inference.case import CaseError
from inference.checkpoint import ModelConfig
from inference.geometry import Box
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.predictor import Predictor
from inference.prompts import PAPER_STYLE
from inference.segmenter import Segmenter

CONFIG = ModelConfig(NetworkConfig((8, 16), (1, 1)), (16, 16, 16), PAPER_STYLE)
ROOT = Path(__file__).parents[2]


class Answers(nn.Module):
    """Says the same of every voxel."""

    def __init__(self, log_odds: float):
        super().__init__()
        self.log_odds = log_odds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x[:, :1], self.log_odds)


def segmenter(log_odds: float, config: ModelConfig = CONFIG) -> Segmenter:
    return Segmenter(Predictor(Answers(log_odds), config, torch.device("cpu")))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "tiny.pt"
    checkpoint.save(path, CONFIG, ResidualEncoderUNet(CONFIG.network).state_dict())
    return path


@pytest.fixture
def cases(tmp_path):
    folder = tmp_path / "cases"
    folder.mkdir()
    write_case(folder / "CT_a.npz")
    write_case(folder / "MR_b.npz", boxes=None)
    return folder


def calibrate(cases, results, weights, *options):
    words = ["calibrate", "--cases", str(cases), "--results", str(results), "--weights", str(weights)]
    return main([*words, "--device", "cpu", *options])


def test_every_voxel_of_an_objects_window_is_counted_once(case_path):
    case = read_evaluation_case(case_path)
    counts = count_case(case, segmenter(3.05), clicks=1)
    assert [(count.label, count.clicks) for count in counts] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    for count in counts:
        (filled,) = np.flatnonzero(count.histogram.voxels)
        assert filled == 190  # 3.05 from −16 in steps of 0.1
        assert count.histogram.positives.sum() == np.count_nonzero(case.truth == count.label)
        assert count.histogram.total <= case.truth.size


def test_the_weights_own_temperature_is_part_of_what_is_measured(case_path):
    case = read_evaluation_case(case_path)
    counts = count_case(case, segmenter(3.05, replace(CONFIG, temperature=2.0)), clicks=0)
    assert all(np.flatnonzero(count.histogram.voxels) == [175] for count in counts)


def test_a_case_without_boxes_begins_with_a_click(tmp_path):
    case = read_evaluation_case(write_case(tmp_path / "CT_a.npz", boxes=None))
    assert {count.clicks for count in count_case(case, segmenter(-1.0), clicks=2)} == {1, 2}
    assert count_case(case, segmenter(-1.0), clicks=0) == []


def test_a_network_that_fails_is_not_measured_by_what_stood_in_for_it(case_path):
    with pytest.raises(CaseError, match="the network failed"):
        count_case(read_evaluation_case(case_path), segmenter(float("nan")), clicks=0)


def test_the_groups_hold_the_objects_that_they_name(case_path):
    counts = count_case(read_evaluation_case(case_path), segmenter(3.05), clicks=1)
    groups = summarize(counts).groups
    assert list(groups) == [ALL, "CT", "box alone", "after click 1", "medium objects"]
    mean = np.mean([count.histogram.positives.sum() / count.histogram.total for count in counts])
    assert groups[ALL].curve().observed == pytest.approx([mean])


@pytest.mark.parametrize(("edges", "size"), [((4, 4, 4), "small"), ((4, 4, 5), "medium"), ((2, 2, 11), "large")])
def test_sizes_are_beside_the_patch(edges, size):
    assert size_class(Box((5, 5, 5), tuple(4 + edge for edge in edges)), (16, 16, 16)) == size


def test_the_command_writes_curves_and_goes_on_where_it_stopped(cases, tmp_path, weights, capsys):
    results = tmp_path / "results"
    assert calibrate(cases, results, weights) == 0
    output = capsys.readouterr().out
    folder = results / "segfm3d" / "calibration"
    assert f"OUT.pt --temperature {json.loads((folder / 'calibration.json').read_text())['temperature']:.3f}" in output
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG")
    written = {path: path.stat().st_mtime_ns for path in (folder / "objects").iterdir()}
    assert [path.name for path in sorted(written)] == ["CT_a.json", "MR_b.json"]
    (folder / "objects" / "MR_b.json").unlink()
    assert calibrate(cases, results, weights) == 0
    assert capsys.readouterr().out == output
    assert (folder / "objects" / "CT_a.json").stat().st_mtime_ns == written[folder / "objects" / "CT_a.json"]


def test_errors_are_one_line(cases, tmp_path, weights, capsys):
    assert calibrate(tmp_path / "absent", tmp_path / "results", weights) == 2
    assert calibrate(cases, tmp_path / "results", weights, "--clicks", "0") == 0
    assert calibrate(cases, tmp_path / "results", weights, "--clicks", "1") == 2
    (cases / "CT_a.npz").unlink()
    assert calibrate(cases, tmp_path / "other", weights, "--clicks", "0") == 2
    objects = tmp_path / "results" / "segfm3d" / "calibration" / "objects"
    (objects / "MR_b.json").write_text("[{}]")
    assert calibrate(cases, tmp_path / "results", weights, "--clicks", "0") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [
        reason in line
        for reason, line in zip(
            ("no such folder", "holds the results of", "no run was made", "delete it"), lines, strict=True
        )
    ] == [True] * 4


def test_a_calibration_before_an_evaluation_and_one_of_other_weights(cases, tmp_path, weights, capsys):
    results, other = tmp_path / "results", tmp_path / "other.pt"
    assert calibrate(cases, results, weights) == 0
    run = ["run", "--cases", str(cases), "--results", str(results), "--weights", str(weights), "--device", "cpu"]
    assert main(run) == 0
    assert calibrate(cases, results, weights) == 0
    other.write_bytes(weights.read_bytes() + b" ")
    assert calibrate(cases, results, other) == 2
    assert "segfm3d: holds the results of others than" in capsys.readouterr().err.splitlines()[-1]


def test_the_report_shows_the_curves_of_contestants_that_have_them(cases, tmp_path, weights):
    results = tmp_path / "results"
    run = ["run", "--cases", str(cases), "--results", str(results)]
    assert main([*run, "--weights", str(weights), "--device", "cpu"]) == 0
    assert main([*run, "--baseline", "ellipsoid"]) == 0
    report = ["report", "--results", str(results)]
    assert main(report) == 0
    assert 'id="calibration"' not in (results / "report.html").read_text()
    assert calibrate(cases, results, weights) == 0
    assert main(report) == 0
    page = (results / "report.html").read_text()
    assert page.count('alt="Reliability curves') == 1
    assert f"segfm3d {read_calibration(results / 'segfm3d').temperature:.2f}" in page


def test_a_calibration_that_is_none_is_named(tmp_path):
    assert read_calibration(tmp_path) is None
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "calibration.json").write_text("{}")
    with pytest.raises(CaseError, match=r"calibration\.json: not a calibration"):
        read_calibration(tmp_path)


def test_real_weights_on_a_real_case(tmp_path):
    path = ROOT.parent / "shared" / "data" / "val" / "US_deepreg_simus_case000002.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in ../shared/data/val")
    cases = tmp_path / "cases"
    cases.mkdir()
    (cases / path.name).symlink_to(path)
    assert calibrate(cases, tmp_path / "results", ROOT / "weights" / "default.pt", "--clicks", "0") == 0
    (histogram, *_) = read_calibration(tmp_path / "results" / "segfm3d").groups.values()
    curve = histogram.curve()
    assert curve.observed[-1] > 0.7 > 0.3 > curve.observed[0], "what it is sure of is mostly true"
