"""The pages name every modality and every CT window that the table holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evaluation.modality import CT_WINDOWS, MODALITIES

ROOT = Path(__file__).resolve().parents[2]
USUAL = {item.window for item in MODALITIES.values()}


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/segment-images.md", "docs/reference/formats.md"])
def test_windows(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(\w+)`", text))
    assert CT_WINDOWS.keys() - USUAL - named == set()


def test_modalities() -> None:
    formats = (ROOT / "docs/reference/formats.md").read_text(encoding="utf-8")
    train = (ROOT / "docs/how-to/train.md").read_text(encoding="utf-8")
    assert [key for key in MODALITIES if key not in formats or f"`{key}_`" not in train] == []
