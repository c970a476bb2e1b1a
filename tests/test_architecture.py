"""Imports go downwards, no circle exists, and each room says what it is for."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter

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


def test_imports_go_downwards() -> None:
    faults = []
    pairs = [(name, used) for name in sorted(set(MODULES) - DOORS) for used in sorted(uses()[name])]
    for module, used in pairs:
        room, below = room_of(module), room_of(used)
        if below != room and floor_of(room) >= floor_of(below):
            faults.append(f"{module} imports {used}: {below} is not below {room}")
        if below in NOT_FOR.get(room, ()):
            faults.append(f"{module} imports {used}: {room} does not use {below}")
    assert faults == []


def test_there_is_no_circle() -> None:
    TopologicalSorter({module: used - {module} - DOORS for module, used in uses().items()}).prepare()


def test_io_does_not_name_modules_above_it_to_import_them_later() -> None:
    texts = [
        (module, node.value)
        for module, file in MODULES.items()
        if module.startswith("io")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    ]
    assert texts
    assert [named for named in texts if re.fullmatch(r"safron\.(engine|training)[\w.]*", str(named[1]))] == []


@pytest.mark.parametrize("room", [room for floor in FLOORS for room in floor])
def test_a_room_says_what_it_is_for(room: str) -> None:
    file = ROOT / room.replace(".", "/") / "__init__.py"
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file}: has no docstring"


def test_what_tests_share_lies_in_helper_modules() -> None:
    found = {
        file.name: re.findall(
            r"^\s*from (?:test_|conftest).*", file.read_text(encoding="utf-8"), re.MULTILINE
        )
        for file in (ROOT / "tests").glob("test_*.py")
    }
    assert found
    assert {name: lines for name, lines in found.items() if lines} == {}
