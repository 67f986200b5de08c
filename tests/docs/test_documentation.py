"""What the documentation says about files, commands and options is so. The commands themselves are run elsewhere."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, *DOCS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "weights" / "README.md"]
ROOMS = {"inference", "evaluation", "training", "conversion", "benchmarks", "segfm3d"}

FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\bpython3? -m |(?<![\w/.\-\"])(?=segfm3d ))(?P<module>[\w.]+)(?P<rest>[^|;&\n]*)")
MAKE = re.compile(r"(?:^|[\s`(])(?<!case )make (?P<target>[a-z][a-z-]*)", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def spans(page: Path) -> list[str]:
    """The code spans of a page's sentences."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [span.replace("\n", " ") for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", text)]


def code(page: Path) -> str:
    """The code blocks and code spans of a page, each on lines of its own; lines that go on are joined."""
    text = page.read_text(encoding="utf-8")
    return "\n".join([*(block.replace("\\\n", " ") for block in FENCE.findall(text)), *spans(page)])


def prose(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "`", FENCE.sub("", page.read_text(encoding="utf-8")))


@functools.cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The modules that code runs, and their words."""
    for found in COMMAND.finditer(text):
        yield found["module"], shlex.split(found["rest"], comments=True)


@functools.cache
def help_of(module: str, *words: str) -> str:
    """What ``python -m MODULE WORDS --help`` prints, WORDS being sub-commands or first arguments."""
    runnable = importlib.util.find_spec(f"{module}.__main__") if is_package(module) else None
    imported = importlib.import_module(f"{module}.__main__" if runnable else module)
    printed = io.StringIO()
    arguments = [module, *words, "--help"]
    with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        sys.exit(imported.main())
    return printed.getvalue()


def is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 250


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size <= 300_000, picture.name


@pages
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", prose(README))}
    assert [name_of(page) for page in DOCS if page not in linked] == []


@pages
def test_commands_exist(page: Path) -> None:
    missing = set()
    for module, _ in commands(code(page)):
        if importlib.util.find_spec(module) is None:
            missing.add(module)
        elif is_package(module) and importlib.util.find_spec(f"{module}.__main__") is None:
            missing.add(f"{module} (no __main__)")
    assert not missing


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(MAKE.findall(code(page))) <= targets


@pages
def test_options_exist(page: Path) -> None:
    unknown = []
    for module, words in commands(code(page)):
        options = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
        if options and module.split(".")[0] in ROOMS:
            first = list(itertools.takewhile(lambda word: not word.startswith("-"), words[:2]))
            known = set(re.findall(r"--[a-z][\w-]*", help_of(module, *first)))
            unknown += [f"{module} {' '.join(first)} {option}" for option in options if option not in known]
    assert not unknown
