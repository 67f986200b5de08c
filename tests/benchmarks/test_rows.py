"""Measurements in rows: none in another's way, each written as it is there, within a budget."""

import json
from pathlib import Path

from benchmarks.rows import Unavailable, measure


def failing() -> dict:
    raise RuntimeError("it broke\nover two lines")


def unavailable() -> dict:
    raise Unavailable("no data")


def test_a_row_that_fails_is_named_and_the_others_are_measured(tmp_path: Path, capsys):
    out = tmp_path / "out.json"
    written = []

    def fine() -> dict:
        written.append(len(json.loads(out.read_text())["rows"]) if out.exists() else 0)
        return {"ms": 1.23456, "voxels": 7, "GiB": None}

    plan = [("first", fine), ("broken", failing), ("absent", unavailable), ("last", fine)]
    rows = measure(plan, out, {"device": "cpu"}, 60)
    assert [(row.name, row.error, row.skipped) for row in rows] == [
        ("first", None, None),
        ("broken", "RuntimeError: it broke over two lines", None),
        ("absent", None, "no data"),
        ("last", None, None),
    ]
    assert written == [0, 3], "each row is in the file before the next one is measured"
    content = json.loads(out.read_text())
    assert content["device"] == "cpu" and content["rows"][0]["values"] == {"ms": 1.23456, "voxels": 7, "GiB": None}
    said = capsys.readouterr().out
    assert "FAILED: RuntimeError: it broke" in said and "skipped: no data" in said and "ms 1.235  voxels 7" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_after_the_budget_no_row_is_begun(tmp_path: Path):
    now = [0.0]

    def slow() -> dict:
        now[0] += 40
        return {"s": 40}

    rows = measure([(str(n), slow) for n in range(4)], tmp_path / "out.json", {}, 70, clock=lambda: now[0])
    assert [row.skipped for row in rows] == [None, None, "80 s of 70 s are spent", "80 s of 70 s are spent"]
    assert [row.seconds for row in rows] == [40, 40, 0, 0]
