"""Short runs with one thing changed: what is held out, and the table of those that are done."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from inference.network import LogOddsUNet, NetworkConfig
from training.ablation import BASE, COLUMNS, VARIANTS, held_out, selected, strided_stem, strided_stem_for_cpu, table


def write_run(folder: Path, scores: list[tuple]) -> None:
    folder.mkdir()
    (folder / "log.csv").write_text("step,seconds\n1,30\n2,90\n")
    with (folder / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *scores])


def score(case: str, boxes: bool, value: float) -> tuple:
    return (case.split("_")[0], case, boxes, value, value, value)


def both(case: str, value: float) -> list[tuple]:
    return [score(case, boxes, value) for boxes in (True, False)]


def test_patients_are_held_out_by_their_number_whatever_comes_before_it():
    assert held_out("MR_acdc_patient016_frame01") and held_out("MR_acdc_patient016_frame12")
    assert not held_out("MR_acdc_patient017_frame16")
    assert not held_out("CT_spleen2")  # A single digit numbers no patient.


def test_rows_are_means_of_modalities_over_the_cases_that_all_runs_have(tmp_path: Path):
    every = both("CT_a_b_08.npz", 0.5) + both("CT_a_b_16.npz", 0.7) + both("MR_a_b_08.npz", 0.9)
    write_run(tmp_path / "baseline", every)
    write_run(tmp_path / "small", both("CT_a_b_08.npz", 0.4) + both("MR_a_b_08.npz", 0.6))
    rows = table(tmp_path).splitlines()[2:]
    assert rows == [
        "| nothing | 2 | 1.5 | 0.700 | 0.700 | 0.700 | 0.700 | 0.700 |",
        "| half the channels | 2 | 1.5 | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 |",
    ]


def test_a_source_that_is_left_out_stands_beside_the_run_that_has_seen_it(tmp_path: Path):
    source = "US_deepreg"
    write_run(tmp_path / "baseline", both(f"{source}_simus_case08.npz", 0.8) + both("MR_a_b_08.npz", 0.2))
    write_run(tmp_path / f"without-{source}", both(f"{source}_simus_case08.npz", 0.6))
    figures = [row.split("|")[4].strip() for row in table(tmp_path).splitlines()[2:]]
    assert figures == ["0.500", "0.600", "0.800"]


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("without-")])
def test_a_variant_changes_something(name: str):
    variant = VARIANTS[name]
    changed = variant.config(BASE) != BASE or (variant.seed, variant.steps, variant.share) != (0, 1, 1)
    assert changed is (name != "baseline")


def test_half_of_the_volumes_are_half_of_each_source():
    volumes = [SimpleNamespace(source=source, name=name) for source in ("CT_a", "MR_b") for name in range(5)]
    volumes.append(SimpleNamespace(source="US_c", name=0))
    kept = selected(volumes, VARIANTS["half-the-volumes"])
    assert [(v.source, v.name) for v in kept] == [
        *(("CT_a", n) for n in range(3)),
        *(("MR_b", n) for n in range(3)),
        ("US_c", 0),
    ]
    assert selected(volumes, VARIANTS["baseline"]) == volumes
    assert {v.source for v in selected(volumes, replace(VARIANTS["baseline"], without="MR_b"))} == {"CT_a", "US_c"}


def test_the_strided_stem_is_evaluated_by_what_it_computes():
    torch.manual_seed(0)
    network = LogOddsUNet(strided_stem(NetworkConfig(features=(4, 6), blocks=(1, 1)))).eval()
    channels = torch.randn(1, 8, 16, 16, 16)
    with torch.no_grad():
        expected = network(channels)
        assert expected.shape == (1, 1, 16, 16, 16)
        torch.testing.assert_close(strided_stem_for_cpu(network)(channels), expected, rtol=1e-3, atol=1e-4)
