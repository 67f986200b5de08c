"""Short runs with one thing changed: what judges them, and the table of those that are done."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import training_ablation
from benchmarks.training_ablation import (
    CLICKS,
    HELD_OUT,
    VARIANTS,
    held_out_volumes,
    judge,
    judging_samples,
    main,
    scaled,
)
from inference.case import CaseError
from inference.network import NetworkConfig
from inference.prompts import IMAGE
from training.config import DEFAULT


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    labels = np.zeros((8, 24, 24), np.uint8)
    for number in range(3):
        labels[2:6, 8 * number : 8 * number + 6, 5:15] = number + 2
    for source in (*HELD_OUT, "CT_other"):
        for patient in range(2):
            arrays = {"imgs": (labels > 0) * np.uint8(100), "gts": labels, "spacing": np.ones(3)}
            np.savez_compressed(folder / f"{source}_{patient}.npz", **arrays)
    return folder


class Brightest(nn.Module):
    """Says that all that is brighter than the image's mean is the object; ``after`` forwards it says the opposite."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.after, self.asked = after, 0

    def forward(self, channels: Tensor) -> Tensor:
        self.asked += 1
        sign = 1 if self.asked <= self.after else -1
        image = channels[:, IMAGE]
        return torch.stack([torch.zeros_like(image), sign * self.scale * image], dim=1)


def test_a_source_that_is_missing_is_named(data: Path) -> None:
    for path in data.glob(f"{HELD_OUT[2]}_*"):
        path.unlink()
    with pytest.raises(CaseError, match=f"no case of {HELD_OUT[2]}; expected"):
        held_out_volumes([data])


def test_what_judges_is_every_source_with_and_without_boxes(data: Path) -> None:
    samples = judging_samples(DEFAULT, held_out_volumes([data]), 3)
    assert list(samples) == ["boxes", "no boxes"]
    for kind, sources in samples.items():
        assert len(sources) == len(HELD_OUT)
        for batches in sources:
            assert sum(len(batch.truth) for batch in batches) == 3
            assert all(bool(batch.first_click.all()) is (kind == "no boxes") for batch in batches)
    again = judging_samples(DEFAULT, held_out_volumes([data]), 3)
    assert torch.equal(samples["boxes"][0][0].channels, again["boxes"][0][0].channels)


def test_a_network_is_judged_after_the_box_and_after_each_click(data: Path) -> None:
    samples = judging_samples(DEFAULT, held_out_volumes([data])[:1], 2)
    network = Brightest(after=CLICKS)
    figures = judge(network, DEFAULT.model.style, {"boxes": samples["boxes"]})["boxes"]
    assert network.asked == CLICKS + 1
    assert figures.first > 0.3 > figures.final
    assert figures.worst_tenth <= figures.final
    assert figures.harmful == pytest.approx(1 / CLICKS)
    network = Brightest(after=99)
    judge(network, DEFAULT.model.style, {"no boxes": samples["no boxes"]})
    assert network.asked == CLICKS


def test_every_variant_changes_something() -> None:
    assert [name for name, (_, change) in VARIANTS.items() if change(DEFAULT) == DEFAULT] == ["default"]


def test_a_patch_that_the_network_cannot_halve_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path), "--shapes", str(tmp_path), "--out", str(tmp_path), "--patch", "40"])
    assert "--patch 40: expected a multiple of 16" in capsys.readouterr().err


def test_a_network_of_half_the_channels() -> None:
    assert scaled(NetworkConfig((16, 32), (1, 1)), 0.5) == NetworkConfig((8, 16), (1, 1))


def test_the_runs_and_their_table(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(DEFAULT.model, network=NetworkConfig((8, 16), (1, 1)))
    monkeypatch.setattr(training_ablation, "DEFAULT", replace(DEFAULT, model=small))
    monkeypatch.setattr(training_ablation, "HELD_OUT", HELD_OUT[:2])
    words = ["--data", str(data), "--shapes", str(data), "--out", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--samples", "1", "--batch", "1", "--judging", "1", "--width", "0.5", "--patch", "16"]
    words += ["--seeds", "0"]
    assert main([*words, "--only", "default"]) == 0
    first = (tmp_path / "out" / "TABLE.md").read_text(encoding="utf-8").splitlines()
    assert len(first) == 3 and first[2].startswith("| nothing | 0 | 0.")
    capsys.readouterr()
    assert main([*words, "--only", "default", "hard-clicks"]) == 0
    assert "default" not in capsys.readouterr().err
    table = (tmp_path / "out" / "TABLE.md").read_text(encoding="utf-8").splitlines()
    assert table[2] == first[2] and table[3].startswith("| a further round")
