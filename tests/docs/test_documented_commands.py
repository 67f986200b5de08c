"""The commands of the pages: each is run, in its place, in a clean folder, or is listed with a reason.

The words of all of them, run or not, are put before the commands' own parsers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn
from unittest import mock

import nibabel
import numpy as np
import pytest

import inference.__main__ as inference_main
import segfm3d
from inference.command import Parser
from inference.model import read_weights
from tests.docs.page_files import FILES
from tests.docs.pages import (
    GPU,
    INSTEAD,
    NOT_RUN,
    PAGES,
    PAPER,
    README,
    ROOT,
    SUBMIT,
    TUTORIAL,
    Block,
    blocks,
    prepare,
    run_page,
)
from tests.docs.test_documentation import ROOMS, commands, is_package, name_of, spans
from tests.image.evaluator import COMMAND as ORGANIZERS_LINE

PROGRAMS = {"python", "segfm3d", "make", "torchrun", "timeout"}
"""What a command that is run may begin with, beside words of the shell."""

SHELL = {".", "set", "test", "mkdir", "for", "do", "done"}
OUTPUT_IS_NO_COMMAND = re.compile(
    r"^(python3?|segfm3d|make|torchrun|docker|sh|pip|git|apptainer) +[\w./-]", re.MULTILINE
)

pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_what_is_listed_stands_on_the_pages() -> None:
    lines = [(page, line) for page in PAGES for block in blocks(page) for line in block.lines]
    assert [
        (page.name, start)
        for page, start in NOT_RUN
        if not any(other == page and line.startswith(start) for other, line in lines)
    ] == []
    for page, replaced in INSTEAD.items():
        text = "\n".join("\n".join(block.lines) for each in ([page] if page else PAGES) for block in blocks(each))
        assert [written for written in replaced if written not in text] == []


def test_the_pages_with_commands_have_their_files() -> None:
    with_commands = {page for page in PAGES for block in blocks(page) if block.run}
    assert {page.name for page in with_commands} == {page.name for page in FILES}


@pages
def test_blocks_are_run_or_listed(page: Path) -> None:
    for block in blocks(page):
        assert block.language in {"", "sh", "bash", "python", "text"}, block.text
        if block.language == "text":
            assert not OUTPUT_IS_NO_COMMAND.search(block.text), f"a command in a block of text:\n{block.text}"
            continue
        checked = subprocess.run(["bash", "-n", "-c", block.script], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        if block.language != "python":
            words = {line.split()[0] for line in block.run}
            unknown = {word for word in words if "=" not in word} - PROGRAMS - SHELL
            assert not unknown, f"run it, or list why not, in tests/docs/pages.py:\n{block.text}"


@pages
def test_words_are_understood(page: Path) -> None:
    """Those of the blocks whole; a command in a sentence may leave out what it is not about."""
    for module, words in (command for block in blocks(page) for command in _commands_of(block)):
        assert not (said := objection(module, words)), f"{module} {' '.join(words)}\n{said}"
    for module, words in commands("\n".join(spans(page))):
        if module.split(".")[0] in ROOMS and words and "…" not in words:
            said = objection(module, words)
            assert not said or re.search(r"required|expected a command", said), f"{module} {' '.join(words)}\n{said}"


@pages
def test_make_takes_the_targets(page: Path) -> None:
    for block in blocks(page):
        for line in block.lines if block.language != "text" else ():
            if line.startswith("make "):
                done = subprocess.run(
                    ["bash", "-c", line.replace("make ", "make --dry-run MAKE=true ", 1)],
                    cwd=ROOT,
                    env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr


def test_the_organizers_line_is_the_one_that_the_image_is_tested_with() -> None:
    (line,) = (line for block in blocks(SUBMIT) for line in block.lines if line.startswith("docker container run"))
    written = ORGANIZERS_LINE.format(
        gpu='--gpus "device=0" ', container="team", options="", image="team", script="predict.sh"
    )
    assert line.split() == written.split()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in FILES if page not in {README, TUTORIAL, PAPER}], ids=name_of)
def test_the_commands_of(page: Path, folder: Path) -> None:
    FILES[page](folder)
    run_page(page, folder)
    if page == GPU:  # As the page says: the new weights have taken the place of the old ones.
        assert (folder / "weights" / "default.pt").read_bytes() == (folder / "runs/gpu/weights.pt").read_bytes()


@pytest.mark.slow
def test_the_readme(folder: Path) -> None:
    FILES[README](folder)
    printed = run_page(README, folder)
    assert "mine, with boxes" in printed and "segfm3d, with boxes" in printed
    clicked = nibabel.load(folder / "better.nii.gz").dataobj[44, 58, 15]  # --click bg:15,58,44
    assert clicked == 0
    assert (folder / "runs" / "evaluation" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_tutorial(folder: Path) -> None:
    printed = run_page(TUTORIAL, folder)
    said = {"2. sh predict.sh: the box alone", "3. sh predict.sh: the box and one click", "ellipsoid, with boxes"}
    assert [line for line in said if line not in printed] == []
    # The page says that the click lies where the first mask is wrong, and that the second is better.
    first, second, truth = (
        np.asarray(nibabel.load(folder / name).dataobj).T > 0
        for name in ("mask.nii.gz", "better.nii.gz", "brain.nii.gz")
    )
    clicks = re.findall(r"--click bg:(\d+),(\d+),(\d+)", TUTORIAL.read_text(encoding="utf-8"))
    assert len(clicks) == 1
    place = tuple(map(int, clicks[0]))
    assert first[place] and not truth[place] and not second[place]
    assert _dice(second, truth) > _dice(first, truth)


@pytest.mark.slow
def test_the_page_on_the_paper(folder: Path) -> None:
    FILES[PAPER](folder)
    printed = run_page(PAPER, folder)
    assert all(found in printed for found in ("start, with boxes", "trained, with boxes", "trained, without boxes"))
    page = (folder / "runs" / "tables" / "report.html").read_text(encoding="utf-8")
    assert "the paper" in page and "trained" in page
    # What make build would be given.
    assert read_weights(folder / "runs" / "paper" / "weights.pt")[0].patch == (16, 16, 16)
    assert read_weights(folder / "runs" / "paper" / "nninteractive")[0].patch == (16, 16, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path)
    return tmp_path


class Understood(BaseException):
    """Raised once a command's parser has taken its words: the command itself is not to begin."""


def objection(module: str, words: list[str]) -> str:
    """What a command's own parser says against its words; nothing where it takes them."""

    def then_stop(parse: Callable) -> Callable:
        def parse_and_stop(*arguments: object, **named: object) -> NoReturn:
            parse(*arguments, **named)
            raise Understood

        return parse_and_stop

    said = io.StringIO()
    imported = importlib.import_module(f"{module}.__main__" if is_package(module) else module)
    with contextlib.ExitStack() as patches:
        for owner, name in (
            (Parser, "parse_args"),
            (argparse.ArgumentParser, "parse_args"),
            (segfm3d, "predict_options"),
            (inference_main, "predict_options"),
        ):
            patches.enter_context(mock.patch.object(owner, name, then_stop(getattr(owner, name))))
        patches.enter_context(mock.patch.object(sys, "argv", [module, *words]))
        patches.enter_context(contextlib.redirect_stdout(said))
        patches.enter_context(contextlib.redirect_stderr(said))
        try:
            imported.main()
        except Understood:
            return ""
        except SystemExit as ended:
            return said.getvalue() if ended.code else ""
    raise AssertionError(f"{module} has begun without reading its words")


def _commands_of(block: Block) -> Iterator[tuple[str, list[str]]]:
    """The commands of this project in a block, run or not: module and words, what may be left out too."""
    if block.language not in {"text", "python"}:
        text = "\n".join(re.sub(r"\btorchrun .*? -m training", "python -m training", line) for line in block.lines)
        for module, words in commands(re.sub(r"\$\w+", "1", text)):
            if module.split(".")[0] in ROOMS and words:
                yield module, [word.strip("[]") for word in words]


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
