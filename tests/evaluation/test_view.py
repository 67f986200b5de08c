"""The page of a case: what it holds is the case, it needs nothing else, and a browser shows it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blocks import SHAPE, write_case
from PIL import Image

from evaluation import case_page
from evaluation.contestants import InProcess
from evaluation.protocol import evaluate
from evaluation.results import ResultsFolder
from evaluation.view import main
from inference.case import Case, read_case, write_segmentation

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

CLICKS = {
    "clicks": np.array([{"fg": [[5, 8, 6]], "bg": [[1, 2, 3]]}, {"fg": [], "bg": []}]),
    "clicks_order": np.array([["bg", "fg"], [None, None]], object),
}


def content_of(page: Path) -> dict:
    return json.loads(re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])


def image_of(content: dict) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in content["slices"]])


def labels_of(content: dict, name: str) -> np.ndarray:
    text = next(layer["labels"] for layer in content["layers"] if layer["name"] == name)
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(content["shown"])


def dump(page: Path, folder: Path) -> str:
    """What a browser has made of the page."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    flags += " --disable-sync --no-first-run --window-size=1400,900 --virtual-time-budget=60000 --dump-dom"
    command = [BROWSER, *flags.split(), f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture
def shown(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray, dict, str]:
    """A case with clicks, its truth and its result, and the page that was made of them."""
    previous = np.zeros(SHAPE, np.uint8)
    previous[2:4] = 1
    case = write_case(tmp_path / "CT_blocks.npz", prev_pred=previous, **CLICKS)
    truth = np.load(case)["gts"]
    result = np.roll(truth, 1, axis=0)
    write_segmentation(tmp_path / "result.npz", result)
    page = tmp_path / "page.html"
    assert main([str(case), str(tmp_path / "result.npz"), "-o", str(page)]) == 0
    return case, truth, result, content_of(page), page.read_text(encoding="utf-8")


def test_what_an_evaluation_leaves_is_shown_run_by_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = write_case(tmp_path / "CT_blocks.npz")
    runs = np.stack([np.roll(np.load(case)["gts"], by, axis=0) for by in (0, 1, 2)])
    np.savez(tmp_path / "CT_blocks.segmentations.npz", segs=runs)
    arguments = [str(case), str(tmp_path / "CT_blocks.segmentations.npz"), "-o", str(tmp_path / "page.html")]
    for more, expected in ([[], runs[2]], [["--run", "1"], runs[0]], [["--run", "3"], runs[2]]):
        assert main([*arguments, *more]) == 0
        np.testing.assert_array_equal(labels_of(content_of(tmp_path / "page.html"), "result"), expected)
    assert main([*arguments, "--run", "4"]) == 2
    assert "holds 3 runs, not 4; expected --run 1 to 3" in capsys.readouterr().err


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """The results of a contestant that moves every object by a voxel, with boxes and without, and of a baseline."""

    def shifted(case: Case) -> np.ndarray:
        return np.roll(np.load(tmp_path / "cases" / case.name)["gts"], 1, axis=2)

    (tmp_path / "cases").mkdir()
    paths = [write_case(tmp_path / "cases" / f"CT_{name}.npz") for name in ("a", "b")]
    paths.append(write_case(tmp_path / "cases" / "CT_broken.npz", gts=None))
    for name, identity in (("ball", {"baseline": "ball"}), ("theirs", {"command": "x"})):
        results = ResultsFolder(tmp_path / "results" / name, identity)
        for drop in (False, True):
            evaluate(InProcess(name, identity, shifted), paths, results, drop_boxes=drop)
    return tmp_path / "results"


def test_a_case_of_an_evaluation_is_shown_with_all_its_runs(evaluated: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ["--results", str(evaluated), "--case", "CT_b", "-o", str(page)]
    assert main(arguments) == 0
    content = content_of(page)
    truth = np.load(tmp_path / "cases" / "CT_b.npz")["gts"]
    assert content["notes"] == ["theirs"], "the baseline comes last"
    assert [run["title"] for run in content["runs"]] == ["box", "1 click", *(f"{n} clicks" for n in range(2, 6))]
    assert content["begin"] == 5 and content["objects"] == content["runs"][5]["objects"]
    np.testing.assert_array_equal(labels_of(content, "truth"), truth)
    result = ResultsFolder(evaluated / "theirs").read("CT_b.npz", True)
    for number, (run, step) in enumerate(zip(content["runs"], result.steps, strict=True)):
        labels = np.frombuffer(gzip.decompress(base64.b64decode(run["labels"])), np.uint8).reshape(truth.shape)
        np.testing.assert_array_equal(labels, np.roll(truth, 1, axis=2))
        assert [entry["dsc"] for entry in run["objects"]] == pytest.approx(step.object_dsc)
        assert all(entry["box"] and len(entry["clicks"]) == number for entry in run["objects"])
        if number:
            place, positive = step.clicks[1]
            assert run["objects"][1]["clicks"][-1] == [*place, positive]
    assert main(arguments[:4]) == 0
    assert (evaluated / "CT_b.html").read_bytes() == page.read_bytes(), "beside the report, where nothing else is said"
    assert main([*arguments, "--drop-boxes", "--name", "ball", "--run", "2"]) == 0
    content = content_of(page)
    assert content["notes"] == ["ball"] and content["begin"] == 1
    assert [run["title"] for run in content["runs"]] == ["1 click", *(f"{n} clicks" for n in range(2, 6))]
    assert all(entry["box"] is None for run in content["runs"] for entry in run["objects"])


def test_a_case_that_was_moved_is_named_and_can_be_given(evaluated: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--results", str(evaluated), "--case", "CT_a", "-o", str(tmp_path / "page.html")]
    (tmp_path / "cases").rename(tmp_path / "moved")
    for more, reason in (
        ([], f"CT_a.npz: the case file is not there ({tmp_path / 'cases'}); give --cases FOLDER"),
        (["--case", "CT_none"], "--case CT_none.npz: theirs has no result of it; expected one of: CT_a, CT_b"),
        (["--case", "CT_broken"], "CT_broken.npz: no run of theirs left a label map: no key 'gts'"),
        (["--name", "ours"], "--name ours: no such contestant; expected one of ball, theirs"),
        (["--run", "9", "--cases", str(tmp_path / "moved")], "has 6 runs, not 9; expected --run 1 to 6"),
    ):
        assert main([*arguments, *more]) == 2
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 1
    assert main([*arguments, "--cases", str(tmp_path / "moved")]) == 0
    write_case(tmp_path / "moved" / "CT_a.npz", imgs=np.zeros(SHAPE, np.uint8))
    assert main([*arguments, "--cases", str(tmp_path / "moved")]) == 2
    assert "CT_a.npz: is another file than was measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["--case", "a"], ["a.npz", "--results", "r", "--case", "a"], ["--results", "r"]]
)
def test_either_files_or_a_case_of_an_evaluation(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "expected" in capsys.readouterr().err


def test_an_image_is_shown_by_another_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"hello")
    assert main([str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "page.html")]) == 2
    assert "expected an .npz, or an image and its mask" in capsys.readouterr().err


def test_the_page_holds_the_case(shown: tuple) -> None:
    case, truth, result, content, _ = shown
    assert content["ends"] is None, "a case file does not say how the patient lies"
    assert content["turned"] == [[False, False], [True, False], [True, False]], "as stored, z upwards"
    np.testing.assert_array_equal(image_of(content), read_case(case).image)
    np.testing.assert_array_equal(labels_of(content, "truth"), truth)
    np.testing.assert_array_equal(labels_of(content, "result"), result)
    np.testing.assert_array_equal(labels_of(content, "previous"), read_case(case).previous)
    assert content["quality"] is None and content["step"] == [1, 1, 1]
    assert content["spacing"] == [2.0, 1.0, 1.0]
    for entry, item in zip(content["objects"], read_case(case).objects, strict=True):
        assert entry["label"] == item.label
        assert entry["box"] == [list(item.box.lower), list(item.box.upper)]
        mask, found = truth == item.label, result == item.label
        assert entry["voxels"] == {"result": found.sum(), "truth": mask.sum(), "previous": entry["voxels"]["previous"]}
        assert entry["dsc"] == pytest.approx(2 * (mask & found).sum() / (mask.sum() + found.sum()))
    assert content["objects"][0]["clicks"] == [[1, 2, 3, False], [5, 8, 6, True]]


def test_the_page_asks_for_nothing(shown: tuple) -> None:
    """No address of anything outside it, and a policy under which a browser would not fetch any."""
    *_, text = shown
    markup = re.sub(r'id="content">.*?</script>', "", text, flags=re.DOTALL)
    assert "default-src 'none'" in markup
    assert not re.search(r"https?://|<link|@import|<script[^>]+src|<img|fetch\(", markup)


def test_without_boxes_result_or_truth(tmp_path: Path) -> None:
    case = write_case(tmp_path / "case.npz", boxes=None, gts=None, spacing=None)
    assert main([str(case), "-o", str(tmp_path / "page.html")]) == 0
    content = content_of(tmp_path / "page.html")
    assert content["layers"] == [] and content["objects"][0]["box"] is None
    assert any("spacing" in note for note in content["notes"])


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_values_of_any_range_are_shown_and_told(dtype: type, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 500, SHAPE).astype(dtype)
    case = write_case(tmp_path / "case.npz", imgs=values)
    assert main([str(case), "-o", str(tmp_path / "page.html")]) == 0
    content = content_of(tmp_path / "page.html")
    told = content["low"] + image_of(content) * (content["high"] - content["low"]) / 255
    step = (content["high"] - content["low"]) / 255
    assert np.abs(told - np.clip(values, content["low"], content["high"])).max() <= 0.5 * step + 1
    assert (values > content["high"]).mean() < 0.002 and content["low"] == values.min()


def test_a_page_that_would_be_too_large_is_stored_coarser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 100, 100), dtype=np.uint8)
    case = write_case(tmp_path / "case.npz", imgs=noise, gts=np.zeros(noise.shape, np.uint8), boxes=None)
    monkeypatch.setattr(case_page, "PAGE_BYTES", 400_000)
    assert main([str(case), "-o", str(tmp_path / "page.html")]) == 0
    content = content_of(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 400_000
    assert content["quality"] is not None
    assert np.abs(image_of(content).astype(int) - noise).mean() < 60
    monkeypatch.setattr(case_page, "PAGE_BYTES", 110_000)
    assert main([str(case), "-o", str(tmp_path / "none.html")]) == 2
    assert "do not fit" in capsys.readouterr().err
    assert not (tmp_path / "none.html").exists()


def test_a_volume_that_no_browser_would_hold_is_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = write_case(tmp_path / "case.npz")
    monkeypatch.setattr(case_page, "SHOWN_VOXELS", np.prod(SHAPE) // 3)
    assert main([str(case), "-o", str(tmp_path / "page.html")]) == 0
    content, image = content_of(tmp_path / "page.html"), read_case(case).image
    z, y, x = content["step"]
    assert np.prod(content["shown"]) <= np.prod(SHAPE) // 3
    np.testing.assert_array_equal(image_of(content), image[::z, ::y, ::x])
    np.testing.assert_array_equal(labels_of(content, "truth"), np.load(case)["gts"][::z, ::y, ::x])


def test_names_and_notes_cannot_break_the_page(tmp_path: Path) -> None:
    case = replace(read_case(write_case(tmp_path / "case.npz")), name="</script><b>&", notes=("</script><i>",))
    assert case_page.write_view(tmp_path / "page.html", case, []) == (tmp_path / "page.html").stat().st_size
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and "<b>&" not in text and "<i>" not in text
    content = content_of(tmp_path / "page.html")
    assert (content["name"], content["notes"]) == (case.name, list(case.notes))


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = write_case(tmp_path / "case.npz")
    write_segmentation(tmp_path / "other.npz", np.zeros((2, 3, 4), np.uint8))
    page = tmp_path / "page.html"
    for arguments, message in [
        ([tmp_path / "none.npz"], "none.npz: not a readable .npz file"),
        ([case, case], "case.npz: no key 'segs'"),
        ([case, tmp_path / "other.npz"], "other.npz: segs has shape (2, 3, 4); expected (12, 20, 24)"),
    ]:
        assert main([*map(str, arguments), "-o", str(page)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not page.exists()


@pytest.mark.slow
def test_a_large_volume_stays_under_thirty_megabytes(tmp_path: Path) -> None:
    """The worst there is: noise, which nothing compresses."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 512, 512), dtype=np.uint8)
    truth = np.zeros(noise.shape, np.uint8)
    truth[50:150, 100:400, 100:400] = 1
    case = write_case(tmp_path / "case.npz", imgs=noise, gts=truth, boxes=None)
    assert main([str(case), "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size < 30_000_000


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_lets_a_run_be_chosen(evaluated: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["--results", str(evaluated), "--case", "CT_a", "-o", str(page)]) == 0
    chosen = "start().then(() => showRun(1))"
    chosen += ".then(() => { document.body.dataset.chosen = content.objects[0].clicks.length; })"
    page.write_text(page.read_text(encoding="utf-8").replace("start().catch", f"{chosen}.catch"), encoding="utf-8")
    shown = dump(page, tmp_path)
    assert 'data-state="ready"' in shown and 'data-chosen="1"' in shown
    assert re.findall(r'aria-pressed="(\w+)"', shown) == ["false", "true", *["false"] * 4]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_it(shown: tuple, tmp_path: Path) -> None:
    """It reads slices and label maps, and says of the first object's middle what the case holds there."""
    case, truth, result, content, _ = shown
    dumped = dump(tmp_path / "page.html", tmp_path)
    assert 'data-state="ready"' in dumped
    told = re.sub(r"<[^>]*>", "", re.search(r'<pre id="here">(.*?)</pre>', dumped, re.DOTALL)[1])
    said = dict(line.split(maxsplit=1) for line in told.replace("as prompt", "prompt").splitlines() if line.strip())
    voxel = tuple(content["objects"][0]["middle"])
    assert said["z,y,x"] == ",".join(map(str, voxel))
    assert said["value"] == str(read_case(case).image[voxel])
    assert said["result"] == (str(result[voxel]) if result[voxel] else "background")
    assert said["truth"] == (str(truth[voxel]) if truth[voxel] else "background")
    assert said["prompt"] == f"--click {said['z,y,x']}"


def test_an_image_is_not_replaced_by_a_page(tmp_path, capsys):
    case = write_case(tmp_path / "CT_a.npz")
    before = case.read_bytes()
    assert main([str(case), "-o", str(case)]) == 2
    assert capsys.readouterr().err == f"error: {case}: expected a name that ends in .html\n"
    assert case.read_bytes() == before
