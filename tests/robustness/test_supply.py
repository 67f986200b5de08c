"""What the image is made of: pinned, hashed, and listed in the software bill of materials that it carries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENT = re.compile(r"^(\S+)==(\S+)((?: --hash=\S+)*)$")


@pytest.fixture(scope="module")
def requirements() -> dict[str, tuple[str, set[str]]]:
    """Name -> version and SHA-256 of the image's packages, from requirements.txt."""
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    parsed = [REQUIREMENT.match(line) for line in lines]
    assert all(parsed), "each is one name, one version and its hashes"
    return {match[1]: (match[2], set(re.findall(r"--hash=sha256:([0-9a-f]{64})", match[3]))) for match in parsed}


def test_every_requirement_has_hashes(requirements: dict[str, tuple[str, set[str]]]) -> None:
    assert requirements
    assert [name for name, (_, hashes) in requirements.items() if not hashes] == []
    assert "--require-hashes" in (ROOT / "Dockerfile").read_text()


def test_the_bill_of_materials_lists_them(requirements: dict[str, tuple[str, set[str]]]) -> None:
    bill = json.loads((ROOT / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {
        component["name"]: (
            component["version"],
            {digest["content"] for reference in component["externalReferences"] for digest in reference["hashes"]},
        )
        for component in bill["components"]
    }
    assert listed == requirements, "the bill of materials is stale; docs/explanation/reliability.md says how it is made"
    assert all(f"@{component['version']}" in component["purl"] for component in bill["components"])
