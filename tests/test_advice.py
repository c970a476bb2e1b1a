"""A message names options of the command that prints it, or says whose they are."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from cases import run_program
from programs import PROGRAMS, commands
from safron.engine import generator_cli, mask_cli
from safron.engine.evaluation import cli as evaluation
from safron.engine.optimization import cli as optimization
from safron.engine.viewing import cli as viewing
from safron.io.advice import FOREIGN, OTHERS, OWNERS, for_command, owner_of
from safron.training import cli as train

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(("safron", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for room in ("engine", "io", "training")
    for path in (ROOT / room).rglob("*.py")
}
STARTS = {
    "safron-render": "safron.engine.cli",
    "safron-mask": "safron.engine.mask_cli",
    "safron-eval": "safron.engine.evaluation.cli",
    "safron-optimize": "safron.engine.optimization.cli",
    "safron-view": "safron.engine.viewing.cli",
    "safron-generator": "safron.engine.generator_cli",
    "safron-tiles": "safron.io.tiles.cli",
    "safron-augment": "safron.engine.augment",
    "safron-train": "safron.training.cli",
}
ALL = PROGRAMS | {"safron-train": train.commands}
COMMANDS = {name: found for program in ALL for name, found in commands(ALL[program], program)}
NAMED = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


def options(command: click.Command) -> set[str]:
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


@cache
def nodes_of(module: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))))


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the package that one imports, at its top or in a function."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{name.name}" for name in node.names)}
    return frozenset(found & FILES.keys())


def reached(start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += imports(module)
    return seen


@cache
def messages(module: str) -> tuple[str, ...]:
    """Texts of a module that name options: all but docstrings and the declarations of options."""
    nodes = nodes_of(module)
    passed = {
        id(line.value)
        for node in nodes
        for line in (getattr(node, "body", None) if isinstance(getattr(node, "body", None), list) else ())
        if isinstance(line, ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            passed |= (
                {id(below) for below in ast.walk(node)} if called.endswith(("option", "setting")) else set()
            )
        if isinstance(node, ast.JoinedStr):
            passed |= {id(part) for part in node.values}

    def texts() -> Iterator[str]:
        for node in nodes:
            if id(node) in passed:
                continue
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value

    return tuple(text for text in texts() if NAMED.search(text))


@pytest.mark.parametrize("program", [*ALL])
def test_every_option_that_a_message_names_exists_where_it_is_said_to(program: str) -> None:
    own = {name: options(found) for name, found in COMMANDS.items() if name.split()[0] == program}
    siblings = set().union(*own.values())
    faults = set()
    for module in reached(STARTS[program]):
        for text in messages(module):
            for command, names in own.items():
                said = for_command(text, command, names, siblings)
                for found in NAMED.finditer(said):
                    named = [other for other in COMMANDS if re.search(rf"\b{other}\b", said[: found.start()])]
                    named += ["safron-train fit"] if "safron-train" in said[: found.start()] else []
                    others = {option for other in named for option in options(COMMANDS[other])}
                    if found[0] not in siblings | others | FOREIGN:
                        faults.add(f"{command}, {module.removeprefix('safron.')}: {said}")
    assert not faults, "\n".join(sorted(faults))


def test_owners_have_what_is_theirs() -> None:
    for command, names in OWNERS.items():
        assert names <= options(COMMANDS[command if command in COMMANDS else f"{command} fit"])
    assert owner_of("--device") == OTHERS


def test_a_command_without_the_option(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    done = run_program(capfd, generator_cli.main, "check", tmp_path / "g.onnx")
    assert done.code == 2
    assert done.error.startswith(f"safron-generator: error: {tmp_path}/g.onnx: not an ONNX file")


PIPES = {
    "check": (generator_cli.main, ["check", "PIPE"], "a pipe or a device, not a file; give an ONNX file"),
    "draft": (generator_cli.main, ["draft", "PIPE"], "a pipe or a device, not a file; give an ONNX file"),
    "edges": (mask_cli.main, ["edges", "PIPE", "m.zarr"], "is a pipe or a device"),
    "seams": (evaluation.main, ["seams", "PIPE"], "a pipe or a device, not a file"),
    "optimize": (optimization.main, ["PIPE", "o.onnx"], "a pipe or a device, not a file"),
    "view": (viewing.main, ["PIPE"], "a pipe or a device, not a file"),
    "export": (train.main, ["export", "PIPE", "o.onnx"], "a pipe or a device, not a file"),
    "export-diffusion": (
        train.main,
        ["export-diffusion", "PIPE", "o.onnx"],
        "a pipe or a device, not a file",
    ),
    "a folder": (generator_cli.main, ["check", "DIR"], "a folder, not a file; give an ONNX file"),
}


@pytest.mark.parametrize(("main", "words", "says"), PIPES.values(), ids=PIPES)
def test_what_is_no_file_is_called_what_it_is(
    tmp_path: Path, capfd: Any, main: Any, words: list[str], says: str
) -> None:
    os.mkfifo(tmp_path / "PIPE")
    (tmp_path / "DIR").mkdir()
    given = [str(tmp_path / word) if word in ("PIPE", "DIR", "o.onnx", "m.zarr") else word for word in words]
    done = run_program(capfd, main, *given)
    assert done.code == 2
    assert says in done.error
