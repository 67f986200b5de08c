"""Short runs with one thing changed: what judges them, and the table of those that are done."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import training_ablation
from benchmarks.training_ablation import HELD_OUT, INIT, OBJECTS, VARIANTS, held_out_cases, main, table
from evaluation.cases import read_evaluation_case
from evaluation.results import CaseResult, ResultsFolder, StepResult
from inference.case import CaseError
from training.config import DEFAULT


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    labels = np.zeros((8, 24, 24), np.uint8)
    for number in range(6):
        labels[2:6, 4 * number : 4 * number + 3, 5:9] = number + 2
    for source in HELD_OUT:
        for patient in range(3):
            arrays = {"imgs": labels * 20, "gts": labels, "spacing": np.ones(3)}
            np.savez_compressed(folder / f"{source}_{patient}.npz", **arrays)
    return folder


def test_the_cases_that_judge_hold_a_few_objects_with_boxes(data: Path, tmp_path: Path):
    held_out_cases(data, tmp_path / "out")
    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == 2 * len(HELD_OUT)
    case = read_evaluation_case(written[0])
    assert case.classes == OBJECTS and case.has_boxes
    for label, prompts in enumerate(case.objects, start=1):
        z, y, _ = np.nonzero(case.truth == label)
        assert (prompts.box.lower[0], prompts.box.upper[0]) == (z.min(), z.max()) == (2, 5)
        assert prompts.box.lower[1] <= y.min() and prompts.box.upper[1] >= y.max()


def test_a_source_that_is_missing_is_named(data: Path, tmp_path: Path):
    for path in data.glob(f"{HELD_OUT[2]}_*"):
        path.unlink()
    with pytest.raises(CaseError, match=f"no case of {HELD_OUT[2]}; expected"):
        held_out_cases(data, tmp_path / "out")


def test_every_variant_changes_something():
    assert [name for name, (_, change) in VARIANTS.items() if change(DEFAULT) == DEFAULT] == ["default"]


def write_results(folder: Path) -> None:
    results = ResultsFolder(folder, {})
    for boxes in (True, False):
        steps = tuple(
            StepResult(1.0, dsc, dsc, (((0, 0, 0), True),), object_dsc=(dsc,)) for dsc in (0.5, 0.6, 0.4, 0.7, 0.8, 0.9)
        )
        result = CaseResult("CT_a_b.npz", 1, boxes, not boxes, 90.0, steps if boxes else steps[1:])
        results.write(result, [])


FIGURES = "0.900 | 0.900 | 0.900 | 16.7% | 0.900 | 0.900 | 0.900 | 20.0% |"


def test_the_table_has_a_row_a_run_with_both_kinds_of_cases(tmp_path: Path):
    assert table(tmp_path).count("\n") == 2
    write_results(tmp_path / "results" / "default-0")
    assert table(tmp_path).splitlines()[2] == f"| nothing | 0 | {FIGURES}"


def test_the_weights_that_the_runs_begin_with_are_only_evaluated(data: Path, tmp_path: Path, monkeypatch):
    asked = []

    def evaluation(arguments: list[str]) -> int:
        asked.append(arguments)
        write_results(tmp_path / "out" / "results" / INIT)
        return 0

    monkeypatch.setattr(training_ablation, "evaluation", evaluation)
    monkeypatch.setattr(training_ablation, "train", None)
    folders = ["--data", str(data), "--shapes", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*folders, "--init", "some.pt", "--only", "init"]) == 0
    assert ["--drop-boxes" in arguments for arguments in asked] == [False, True]
    assert all(arguments[arguments.index("--weights") + 1] == "some.pt" for arguments in asked)
    rows = (tmp_path / "out" / "TABLE.md").read_text(encoding="utf-8").splitlines()
    assert rows[2:] == [f"| the weights that the runs begin with | – | {FIGURES}"]
