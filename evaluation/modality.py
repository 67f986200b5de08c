"""A case's modality, which the challenge's file names begin with."""

MODALITIES = {"CT": "CT", "MR": "MRI", "Microscopy": "Microscopy", "PET": "PET", "US": "Ultrasound"}
"""File name prefix to the name in the paper's tables, in the tables' order."""

OTHER = "Other"


def modality_of(case_name: str) -> str:
    """Return the modality of a case named like `MR_acdc_patient023.npz`, or `Other` if the name says none."""
    return MODALITIES.get(case_name.split("_")[0], OTHER)
