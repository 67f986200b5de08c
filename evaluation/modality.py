"""The modalities: all that the project knows of each, in one table.

File names of cases begin with a modality's key, which is how the evaluation and the training tell it.
"""

from __future__ import annotations

from dataclasses import dataclass

CT_WINDOWS = {"soft": (400.0, 40.0), "lung": (1500.0, -160.0), "brain": (80.0, 40.0), "bone": (1800.0, 400.0)}
"""Width and level in Hounsfield units, as the paper gives them (section 3.2)."""


@dataclass(frozen=True)
class Modality:
    """A kind of image.

    Args:
        title: its name in the paper's tables.
        words: what else people and DICOM call it, in lower case.
        frequency: how often the default training draws it, relative to the others; 0 for never.
        window: for images in Hounsfield units, which of :data:`CT_WINDOWS` brings them to [0, 255] where no other is
            asked for; None for all others, which are clipped at percentiles.
    """

    title: str
    words: tuple[str, ...]
    frequency: float
    window: str | None = None


MODALITIES = {
    "CT": Modality("CT", (), frequency=1.0, window="soft"),
    "MR": Modality("MRI", ("mri",), frequency=2.0),
    "Microscopy": Modality("Microscopy", ("em", "sm"), frequency=1.0),
    "PET": Modality("PET", ("pt",), frequency=0.7),
    "US": Modality("Ultrasound", ("ultrasound",), frequency=0.5),
}
"""By the first word of case names, in the order of the paper's tables."""

OTHER = "Other"

_WORDS = {word: key for key, item in MODALITIES.items() for word in (key.lower(), *item.words)}


def modality_of(case_name: str) -> str:
    """Returns the title of the modality of a case named like `MR_acdc_patient023.npz`, or `Other` if it says none."""
    found = MODALITIES.get(case_name.split("_")[0])
    return OTHER if found is None else found.title


def modality_called(word: str) -> str | None:
    """Returns the key in :data:`MODALITIES` of what people or DICOM call a modality, or None."""
    return _WORDS.get(word.lower())
