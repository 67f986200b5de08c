"""The command line, from a folder of cases to the page."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import write_case

from evaluation import view
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
    assert main(["report", "--results", str(results)]) == 0
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


def test_the_worst_case_is_shown_by_the_command_that_a_run_ends_with(cases, tmp_path, capsys):
    assert run(cases, tmp_path / "results", "--drop-boxes") == 0
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("the case with the lowest DSC Final")
    ]
    words = shlex.split(line.partition("segfm3d view ")[2])
    assert "--drop-boxes" in words
    assert view.main([*words, "-o", str(tmp_path / "page.html")]) == 0


def command(cases, results, text):
    return main(["run", "--cases", str(cases), "--results", str(results), "--command", text])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("true", "no {inputs} and no {outputs} in 'true'; expected both"),
        ("cp {inputs} {output}", "no {outputs} in 'cp {inputs} {output}'; expected both"),
        ("no-such-program {inputs} {outputs}", "no-such-program: no such program"),
        ("cp '{inputs} {outputs}", "cannot be read (No closing quotation)"),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_the_first_case(cases, tmp_path, capsys, text, reason):
    assert command(cases, tmp_path / "results", text) == 2
    said = capsys.readouterr()
    assert reason in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not (tmp_path / "results").exists()


def test_a_script_without_an_interpreter_is_refused_and_may_be_corrected_under_its_name(cases, tmp_path, capsys):
    script = tmp_path / "segment"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert command(cases, tmp_path / "results", f"{script} {{inputs}} {{outputs}}") == 2
    assert f"error: {script}: cannot be started" in capsys.readouterr().err
    assert command(cases, tmp_path / "results", "ls {inputs} {outputs}") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("ls {inputs} {outputs} {print}", "exit code 2"), ("test -d {inputs} -a -d {outputs}", "nothing written")],
)
def test_a_command_that_fails_on_every_case_ends_with_one(cases, tmp_path, capsys, text, reason):
    assert command(cases, tmp_path / "results", text) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("error: command failed in every run of every case")
    assert reason in (tmp_path / "results" / "command" / "metrics.csv").read_text()
    assert "DSC Final" in said.out and "metrics.csv" in said.out


def test_a_case_that_cannot_be_used_is_an_error_and_the_others_are_measured(cases, tmp_path, capsys):
    write_case(cases / "US_broken.npz", gts=None)
    assert run(cases, tmp_path / "results") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: 1 of 4 case(s) cannot be used")
    assert len(rows(tmp_path / "results")) == 4


def test_a_baseline_that_cannot_run_is_refused(cases, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    arguments = ["run", "--cases", str(cases), "--results", str(tmp_path / "results"), "--baseline", "random-walker"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: random-walker: cannot run here (ModuleNotFoundError: ")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("started", [True, False])
def test_an_image_that_cannot_start_is_refused(cases, tmp_path, capsys, monkeypatch, started):
    """Docker is a script that knows the image, and whose containers do not start."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    if started:
        docker.write_text('#!/bin/sh\n[ "$1" = image ] && echo sha256:0 && exit 0\necho "no /bin/bash" >&2\nexit 127\n')
        docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent) + (os.pathsep + os.environ["PATH"] if started else ""))
    arguments = ["run", "--cases", str(cases), "--results", str(tmp_path / "results"), "--image", "theirs"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("theirs:latest: cannot be started (no /bin/bash)" if started else "docker cannot be started") in said
    assert not (tmp_path / "results").exists()


def test_shards_take_every_case_once_and_can_be_merged(cases, tmp_path):
    for index in (1, 2):
        assert run(cases, tmp_path / f"part{index}", "--shard", f"{index}/2") == 0
    assert rows(tmp_path / "part1") == [("CT_a.npz", "yes"), ("MR_c.npz", "yes")]
    assert rows(tmp_path / "part2") == [("CT_b.npz", "yes")]
    merged = tmp_path / "merged"
    assert main(["merge", "--results", str(merged), str(tmp_path / "part1"), str(tmp_path / "part2")]) == 0
    assert rows(merged) == [("CT_a.npz", "yes"), ("CT_b.npz", "yes"), ("MR_c.npz", "yes")]


def test_what_is_merged_is_one_group_and_one_result_a_case(cases, tmp_path, capsys):
    """Parts were measured in folders of one name on several machines; one could not read a case that another could."""
    for part in ("part1", "part2"):
        shutil.copytree(cases, tmp_path / part / "cases")
    (tmp_path / "part2" / "cases" / "CT_a.npz").write_bytes(b"")
    merged = str(tmp_path / "merged")
    run(tmp_path / "part1" / "cases", tmp_path / "1")
    run(tmp_path / "part2" / "cases", tmp_path / "2")
    for parts in (("1", "2"), ("2", "merged", "1")):
        assert main(["merge", "--results", merged, *(str(tmp_path / part) for part in parts)]) == 0
        assert rows(tmp_path / "merged") == [("CT_a.npz", "yes"), ("CT_b.npz", "yes"), ("MR_c.npz", "yes")]
    capsys.readouterr()
    assert main(["report", "--results", merged]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["ellipsoid,", "with", "boxes", "cases"]


def test_cases_are_grouped_by_the_folder_that_was_given_wherever_it_lies_and_links_lead(cases, tmp_path, capsys):
    for name, linked in (("seen", ("CT_a", "CT_b")), ("unseen", ("MR_c",))):
        (tmp_path / name).mkdir()
        for case in linked:
            (tmp_path / name / f"{case}.npz").symlink_to(cases / f"{case}.npz")
    results, folders = tmp_path / "results", [str(tmp_path / "seen"), str(tmp_path / "unseen")]
    evaluation = ["run", "--results", str(results), "--baseline", "ellipsoid", "--cases"]
    assert main([*evaluation, *folders]) == 0
    assert main(["report", "--results", str(results)]) == 0
    titles = [line.split()[3:] for line in capsys.readouterr().out.splitlines() if line.startswith("ellipsoid, with")]
    assert titles == [["seen", "unseen"]] * 2
    (tmp_path / "unseen").rename(tmp_path / "other")
    assert main([*evaluation, folders[0], str(tmp_path / "other")]) == 0
    capsys.readouterr()
    assert main(["report", "--results", str(results)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[3:] == ["other", "seen"]


def test_a_case_that_has_boxes_now_is_not_counted_without_them_too(tmp_path):
    folder, results = tmp_path / "cases", tmp_path / "results"
    folder.mkdir()
    write_case(folder / "CT_a.npz", boxes=None)
    assert run(folder, results) == 0 and rows(results) == [("CT_a.npz", "no")]
    write_case(folder / "CT_a.npz")
    assert run(folder, results) == 0 and rows(results) == [("CT_a.npz", "yes")]


def test_a_report_of_cases_that_could_not_be_used_says_why(tmp_path, capsys):
    folder, results = tmp_path / "cases", tmp_path / "results"
    folder.mkdir()
    write_case(folder / "CT_a.npz", gts=None)
    assert run(folder, results) == 1
    assert main(["report", "--results", str(results)]) == 0
    assert "no key &#39;gts&#39;" in (results / "report.html").read_text()


@pytest.mark.parametrize("option", ["--command", "--image"])
def test_a_contestant_without_a_name(cases, tmp_path, capsys, option):
    assert main(["run", "--cases", str(cases), "--results", str(tmp_path), option, ""]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("seconds", ["0", "nan"])
def test_no_time_is_refused(cases, tmp_path, capsys, seconds):
    with pytest.raises(SystemExit):
        run(cases, tmp_path, "--seconds-per-class", seconds)
    assert f"{seconds}: expected a number above 0" in capsys.readouterr().err


def test_parts_of_different_contestants_are_not_merged(cases, tmp_path, capsys):
    assert run(cases, tmp_path / "part1", "--shard", "1/3") == 0
    assert run(cases, tmp_path / "part2", "--shard", "2/3", "--seconds-per-class", "5") == 0
    assert main(["merge", "--results", str(tmp_path / "all"), str(tmp_path / "part1"), str(tmp_path / "part2")]) == 2
    said = capsys.readouterr().err
    assert "holds the results of {'seconds per class': '90'}; expected {'seconds per class': '5'}:" in said


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
    table, said = table.split("\n\n")
    assert said.splitlines()[0] == f"table of cases: {results / 'ellipsoid' / 'metrics.csv'}"
    command = shlex.split(said.splitlines()[-1].partition("segfm3d ")[2])
    assert command == ["report", "--results", str(results)]
    for folders in ([], ["--cases", str(cases), str(unseen)]):
        assert main([*command, *folders]) == 0
        assert capsys.readouterr().out == f"{table}\n{results / 'report.html'}\n"


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
