"""The table of modalities, and what follows it."""

from __future__ import annotations

import pytest

from evaluation.modality import CT_WINDOWS, MODALITIES, OTHER, modality_called, modality_of
from training.config import DEFAULT


def test_the_papers_tables_are_found_by_title():
    assert {item.title for item in MODALITIES.values()} >= {"CT", "MRI", "Microscopy", "PET", "Ultrasound"}


def test_a_word_means_one_modality():
    words = [word for key, item in MODALITIES.items() for word in {key.lower(), *item.words}]
    assert len(words) == len(set(words)) and all(word == word.lower() for word in words)


def test_usual_windows_exist():
    assert {item.window for item in MODALITIES.values()} - {None} <= CT_WINDOWS.keys()


def test_the_default_training_draws_as_the_table_says():
    weights = {"CT": 1.0, "MR": 2.0, "Microscopy": 1.0, "PET": 0.7, "US": 0.5}
    assert dict(DEFAULT.sampling.modalities).items() >= weights.items()


@pytest.mark.parametrize(
    ("word", "key"),
    [("CT", "CT"), ("mri", "MR"), ("PT", "PET"), ("Ultrasound", "US"), ("SM", "Microscopy"), ("x", None)],
)
def test_words_of_people_and_dicom(word: str, key: str | None):
    assert modality_called(word) == key


@pytest.mark.parametrize(
    ("name", "title"), [("MR_acdc_1.npz", "MRI"), ("US", "Ultrasound"), ("mr_x", OTHER), ("", OTHER)]
)
def test_a_case_is_told_by_its_name(name: str, title: str):
    assert modality_of(name) == title
