"""The command line, from a folder of cases to the page."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import write_case

from evaluation.__main__ import main
from inference import checkpoint
from inference.checkpoint import ModelConfig
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.options import DEFAULT_WEIGHTS
from inference.predictor import Predictor
from inference.prompts import PAPER_STYLE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cases(tmp_path):
    folder = tmp_path / "cases"
    folder.mkdir()
    for name in ("CT_a", "CT_b", "MR_c"):
        write_case(folder / f"{name}.npz")
    return folder


def run(cases, results, *options):
    return main(["run", "--cases", str(cases), "--results", str(results), "--baseline", "ellipsoid", *options])


def rows(results):
    with (results / "ellipsoid" / "metrics.csv").open(newline="") as stream:
        return [(row["CaseName"], row["Boxes"]) for row in csv.DictReader(stream)]


def test_a_run_with_and_without_boxes_and_the_report(cases, tmp_path, capsys):
    results = tmp_path / "results"
    assert run(cases, results) == 0
    assert run(cases, results, "--drop-boxes") == 0
    assert rows(results) == [
        (f"{name}.npz", boxes) for boxes in ("yes", "dropped") for name in ("CT_a", "CT_b", "MR_c")
    ]
    assert main(["report", "--cases", str(cases), "--results", str(results)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(results / "report.html")


def test_the_segmenter_is_run_in_this_process(cases, tmp_path):
    config = ModelConfig(NetworkConfig((8, 16), (1, 1)), (16, 16, 16), PAPER_STYLE)
    weights = tmp_path / "tiny.pt"
    checkpoint.save(weights, config, ResidualEncoderUNet(config.network).state_dict())
    options = ["run", "--cases", str(cases), "--results", str(tmp_path / "results"), "--weights", str(weights)]
    assert main([*options, "--shard", "1/3", "--device", "cpu"]) == 0
    with (tmp_path / "results" / "segfm3d" / "metrics.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["Remark"] == ""
    assert all(float(row[f"RunningTime_{run}"]) > 0 for run in range(1, 7))


def test_a_network_that_fails_is_an_error_though_something_is_scored(cases, tmp_path, monkeypatch, capsys):
    def fails(self, channels):
        raise ArithmeticError("no answer")

    monkeypatch.setattr(Predictor, "forward", fails)
    arguments = ["--cases", str(cases), "--results", str(tmp_path / "results"), "--weights", str(DEFAULT_WEIGHTS)]
    assert main(["run", *arguments, "--device", "cpu", "--seconds-per-class", "3600"]) == 1
    captured = capsys.readouterr()
    assert "error: the network failed in" in captured.err.splitlines()[-1]
    assert "DSC Final" in captured.out


def test_shards_take_every_case_once_and_can_be_merged(cases, tmp_path):
    for index in (1, 2):
        assert run(cases, tmp_path / f"part{index}", "--shard", f"{index}/2") == 0
    assert rows(tmp_path / "part1") == [("CT_a.npz", "yes"), ("MR_c.npz", "yes")]
    assert rows(tmp_path / "part2") == [("CT_b.npz", "yes")]
    merged = tmp_path / "merged"
    assert main(["merge", "--results", str(merged), str(tmp_path / "part1"), str(tmp_path / "part2")]) == 0
    assert rows(merged) == [("CT_a.npz", "yes"), ("CT_b.npz", "yes"), ("MR_c.npz", "yes")]


def test_parts_of_different_contestants_are_not_merged(cases, tmp_path, capsys):
    assert run(cases, tmp_path / "part1", "--shard", "1/3") == 0
    assert run(cases, tmp_path / "part2", "--shard", "2/3", "--seconds-per-class", "5") == 0
    assert main(["merge", "--results", str(tmp_path / "all"), str(tmp_path / "part1"), str(tmp_path / "part2")]) == 2
    assert "holds the results of" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_makes_no_sense_is_refused(cases, tmp_path, shard):
    with pytest.raises(SystemExit):
        run(cases, tmp_path, "--shard", shard)


def test_several_folders_stand_side_by_side_in_the_terminal(cases, tmp_path, capsys):
    unseen = tmp_path / "unseen"
    unseen.mkdir()
    write_case(unseen / "PET_d.npz")
    results = tmp_path / "results"
    assert run(cases, results, "--cases", str(unseen)) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == ["ellipsoid,", "with", "boxes", "cases", "unseen"]
    assert table.splitlines()[1].split() == ["cases", "3", "1"]
    assert main(["report", "--cases", str(cases), str(unseen), "--results", str(results)]) == 0
    assert capsys.readouterr().out == f"{table}{results / 'report.html'}\n"


def test_the_command_starts_without_the_packages_that_only_some_actions_need():
    absent = ("matplotlib", "jinja2", "skimage", "surface_distance")
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); from evaluation.__main__ import main; main(['--help'])"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "report" in finished.stdout, finished.stderr


def test_errors_are_one_line(tmp_path, capsys):
    assert run(tmp_path / "absent", tmp_path / "results") == 2
    assert capsys.readouterr().err.strip().endswith("no such folder; expected a folder of .npz cases")
    weights = ["run", "--cases", str(tmp_path), "--results", str(tmp_path), "--weights", str(tmp_path / "none.pt")]
    write_case(tmp_path / "CT_a.npz")
    assert main(weights) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*weights, "--device", "no device"]) == 2
    assert capsys.readouterr().err.startswith("error: device 'no device': ")
