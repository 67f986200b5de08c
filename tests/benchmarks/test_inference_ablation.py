"""Scores of objects larger than the patch, apart from those of objects that fit."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.inference_ablation import by_size
from evaluation.cases import EvaluationCase, read_evaluation_case
from evaluation.metrics import score_segmentation
from tests.evaluation.blocks import write_case


@pytest.fixture
def case(tmp_path: Path) -> EvaluationCase:
    """Two blocks, of 5 and 6 slices, with their boxes."""
    return read_evaluation_case(write_case(tmp_path / "CT_a.npz"))


def test_each_object_counts_for_its_own_size(case: EvaluationCase) -> None:
    only_the_second = np.where(case.truth == 2, 2, 0)
    assert by_size(case, only_the_second, (5, 64, 64)) == [1, 1, 0, 0]


def test_a_size_that_no_object_has_is_left_empty_and_the_other_is_the_challenges_score(case: EvaluationCase) -> None:
    found = np.roll(case.truth, 2, axis=2)
    scores = score_segmentation(case.truth, found, case.spacing)
    assert by_size(case, found, (64, 64, 64)) == [None, None, pytest.approx(scores.dsc), pytest.approx(scores.nsd)]
    assert by_size(case, found, (2, 64, 64)) == [pytest.approx(scores.dsc), pytest.approx(scores.nsd), None, None]
