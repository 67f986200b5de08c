"""Which room may import which, that no files of a room import each other in a circle, and how long a file may be."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 330

ALLOWED = {
    "inference": set(),
    "evaluation": {"inference"},
    "training": {"inference", "evaluation"},
    "conversion": {"inference", "evaluation"},
    "benchmarks": {"inference", "evaluation", "training", "conversion"},
    "segfm3d": {"inference", "evaluation", "training", "conversion", "benchmarks"},
}
"""Room -> what it may import beside itself; ``segfm3d.py`` is a room of one file. Nobody may import ``tests``."""


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py")) or [path for path in [ROOT / f"{room}.py"] if path.exists()]


ROOM_FILES = {str(path.relative_to(ROOT)): room for room in ALLOWED for path in files(room)}


class _Run(ast.NodeTransformer):
    """Leaves out what only a type checker sees."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)


@cache
def imported(name: str, for_types: bool = True) -> frozenset[str]:
    """The modules that a file imports anywhere in it, also in functions, with their dots: ``a``, ``a.b`` for ``b``.

    Args:
        for_types: those too that are imported under ``TYPE_CHECKING``.
    """
    package = Path(name).parent.parts
    modules: set[str] = set()
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree if for_types else _Run().visit(tree)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            modules |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(modules)


def module_of(name: str) -> str:
    return ".".join(Path(name).with_suffix("").parts).removesuffix(".__init__")


def test_every_room_has_files() -> None:
    assert {room for room in ALLOWED if files(room)} >= set(ALLOWED) - {"segfm3d"}


@pytest.mark.parametrize("name", ROOM_FILES)
def test_imports_go_downwards(name: str) -> None:
    rooms = {module.split(".")[0] for module in imported(name)} & {*ALLOWED, "tests"}
    assert rooms - ALLOWED[ROOM_FILES[name]] - {ROOM_FILES[name]} == set()


@pytest.mark.parametrize("room", ALLOWED)
def test_no_files_of_a_room_import_each_other_in_a_circle(room: str) -> None:
    """An import in a function counts too: it hides a circle and does not open it."""
    modules = {module_of(name): name for name, of in ROOM_FILES.items() if of == room}
    edges = {module: imported(name, for_types=False) & modules.keys() - {module} for module, name in modules.items()}
    ends: set[str] = set()
    while ready := {module for module, targets in edges.items() if module not in ends and targets <= ends}:
        ends |= ready
    assert sorted(modules.keys() - ends) == []


@pytest.mark.parametrize("name", ROOM_FILES)
def test_a_file_is_one_subject_and_not_long(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES
