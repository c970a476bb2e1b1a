"""Imports go downwards, no circle exists, and each room says what it is for."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from architecture import FLOORS, NOT_FOR, ROOT, floor_of, imports, modules, room_of

MODULES = dict(modules())
DOORS = {"engine", "io", "training"}
"""Packages that offer the names of the rooms inside them."""


@cache
def uses() -> dict[str, set[str]]:
    """Which modules each one imports; found when the first test asks, since collecting tests would wait for it."""
    return {
        module: {
            name if name in MODULES else name.rpartition(".")[0]
            for name in imports(module, file)
            if name in MODULES or name.rpartition(".")[0] in MODULES
        }
        for module, file in MODULES.items()
    }


@pytest.mark.parametrize("module", sorted(set(MODULES) - DOORS))
def test_imports_go_downwards(module: str) -> None:
    room = room_of(module)
    for used in uses()[module]:
        below = room_of(used)
        assert below == room or floor_of(room) < floor_of(below), (
            f"{module} imports {used}: {below} is not below {room}"
        )
        assert below not in NOT_FOR.get(room, ()), f"{module} imports {used}: {room} does not use {below}"


def test_there_is_no_circle() -> None:
    TopologicalSorter({module: used - {module} - DOORS for module, used in uses().items()}).prepare()


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith("io")))
def test_io_does_not_name_modules_above_it_to_import_them_later(module: str) -> None:
    texts = [
        node.value
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    ]
    assert [text for text in texts if re.fullmatch(r"safron\.(engine|training)[\w.]*", str(text))] == []


@pytest.mark.parametrize("room", [room for floor in FLOORS for room in floor])
def test_a_room_says_what_it_is_for(room: str) -> None:
    file = ROOT / room.replace(".", "/") / "__init__.py"
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file}: has no docstring"


@pytest.mark.parametrize("file", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda file: file.stem)
def test_what_tests_share_lies_in_helper_modules(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"^\s*from (?:test_|conftest).*", text, re.MULTILINE) == []
