"""The look-up of advisories that pip-audit is served from a checkout."""

import pytest

yaml = pytest.importorskip("yaml", reason="the audit wants PyYAML")
from packaging.version import Version  # noqa: E402

from benchmarks.audit import advisories_for, affects  # noqa: E402

ADVISORY = """
id: PYSEC-1
affected:
- package: {name: torch, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: abc}]
  - type: ECOSYSTEM
    events:
    - introduced: "0"
    - fixed: 1.13.1
    - introduced: "2.0"
    - last_affected: 2.1.2
  versions: [2.5.0]
modified: 2024-01-01T00:00:00Z
"""


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("1.0", True),
        ("1.13.1", False),
        ("2.0", True),
        ("2.1.2", True),
        ("2.1.3", False),
        ("2.5.0", True),
        ("2.7.1", False),
    ],
)
def test_versions_between_events_are_affected(version, affected):
    assert affects(yaml.safe_load(ADVISORY), "torch", Version(version)) is affected


def test_other_packages_and_ecosystems_are_not():
    advisory = yaml.safe_load(ADVISORY)
    assert not affects(advisory, "numpy", Version("1.0"))
    advisory["affected"][0]["package"]["ecosystem"] = "npm"
    assert not affects(advisory, "torch", Version("1.0"))


def test_a_checkout_is_searched(tmp_path):
    (tmp_path / "vulns" / "torch").mkdir(parents=True)
    (tmp_path / "vulns" / "torch" / "PYSEC-1.yaml").write_text(ADVISORY)
    assert [each["id"] for each in advisories_for(tmp_path, "torch", Version("2.0"))] == ["PYSEC-1"]
    assert advisories_for(tmp_path, "numpy", Version("2.0")) == []
