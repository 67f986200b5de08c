"""The image as the organizers run it: real cases where they are present, every step, no network."""

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.image.evaluator import CLICK_STEPS, Evaluator, LabelledCase, evaluate, read_segmentation

pytestmark = pytest.mark.image

REAL_CASES = Path(__file__).parents[3] / "shared" / "data" / "val"


def real_case(name: str) -> LabelledCase:
    path = REAL_CASES / name
    if not path.exists():
        pytest.skip(f"no {name} in ../shared/data/val")
    with np.load(path, allow_pickle=True) as archive:
        return LabelledCase(name, archive["imgs"], archive["spacing"], archive["gts"], archive["boxes"])


def check_steps(evaluator: Evaluator, case: LabelledCase) -> int:
    """Play a case, check the contract after each of its steps, and return how many there were."""
    steps = []
    for step in evaluate(evaluator, case):
        assert step.process.returncode == 0, step.process.stdout + step.process.stderr
        assert step.process.stdout.strip()
        assert [path.name for path in evaluator.outputs.iterdir()] == [case.name]
        assert stat.S_IMODE((evaluator.outputs / case.name).stat().st_mode) == 0o644
        assert [path.name for path in evaluator.inputs.iterdir()] == [case.name]
        assert step.segmentation is not None
        assert step.segmentation.dtype == np.uint8
        assert step.segmentation.shape == case.image.shape
        assert set(np.unique(step.segmentation)) <= {0, *case.labels}
        steps.append(step)
    # Maps of background only would pass all of the above.
    assert steps[-1].segmentation.any()
    return len(steps)


def test_generated_case_with_boxes(evaluator: Evaluator, two_balls: LabelledCase) -> None:
    assert check_steps(evaluator, two_balls) == 1 + CLICK_STEPS


def test_generated_case_without_boxes(evaluator: Evaluator, two_balls: LabelledCase) -> None:
    assert check_steps(evaluator, replace(two_balls, boxes=None)) == CLICK_STEPS


@pytest.mark.parametrize(
    "name",
    [
        "MR_msd_hippocampus_hippocampus_184.npz",
        pytest.param("CT_msd_spleen_crop_spleen2.npz", marks=pytest.mark.slow),
        pytest.param("PET_ibsi_sts_PET_STS_003_PET.npz", marks=pytest.mark.slow),
        pytest.param("US_deepreg_simus_case000002.npz", marks=pytest.mark.slow),
        pytest.param("Microscopy_plantseg_1135_mini.npz", marks=pytest.mark.slow),
    ],
)
def test_real_case(evaluator: Evaluator, name: str) -> None:
    assert check_steps(evaluator, real_case(name)) == 1 + CLICK_STEPS


def write_box_step(evaluator: Evaluator, case: LabelledCase) -> None:
    np.savez_compressed(evaluator.inputs / case.name, imgs=case.image, spacing=case.spacing, boxes=case.boxes)


def test_runs_for_an_unprivileged_user_on_a_read_only_filesystem(evaluator: Evaluator, two_balls: LabelledCase) -> None:
    write_box_step(evaluator, two_balls)
    process = evaluator.run("--read-only", "--user 1000:1000")
    assert process.returncode == 0, process.stdout + process.stderr
    output = evaluator.outputs / two_balls.name
    assert output.stat().st_uid == 1000
    assert read_segmentation(output).shape == two_balls.image.shape
    assert list(evaluator.outputs.iterdir()) == [output]


def test_a_broken_case_harms_no_other(evaluator: Evaluator, two_balls: LabelledCase) -> None:
    write_box_step(evaluator, two_balls)
    whole = (evaluator.inputs / two_balls.name).read_bytes()
    (evaluator.inputs / "broken.npz").write_bytes(whole[: len(whole) // 2])
    process = evaluator.run()
    assert process.returncode != 0
    assert "broken.npz" in process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr
    assert [path.name for path in evaluator.outputs.iterdir()] == [two_balls.name]


def test_every_module_of_a_run_is_compiled_ahead(evaluator: Evaluator, two_balls: LabelledCase) -> None:
    write_box_step(evaluator, two_balls)
    process = evaluator.run("--env PYTHONVERBOSE=1", "--env SEGFM3D_SECONDS_PER_CLASS=3600")
    assert process.returncode == 0, process.stdout + process.stderr
    loaded = [line for line in process.stderr.splitlines() if line.startswith("# code object from ")]
    assert any("torch" in line for line in loaded)
    assert [line for line in loaded if line.rstrip("'").endswith(".py")] == []
