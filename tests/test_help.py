"""Every command's help has an example, and every option says what it does, in which unit, and its default."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import click
import pytest
from programs import PROGRAMS, commands
from safron.engine import cli as render
from safron.engine.preparation.options import RenderOptions
from safron.io.console import EXIT_CODES
from safron.io.fields import settings
from safron.training import cli as train

UNITS = r"pixels|micrometres|whole number|[Nn]umber of|patches per|\d to \d+"


COMMANDS = dict(pair for name, program in PROGRAMS.items() for pair in commands(program, name))
TRAINING = dict(commands(train.commands, "safron-train"))


@pytest.mark.parametrize("name", [*COMMANDS, *TRAINING])
def test_help_has_an_example(name: str) -> None:
    epilog = (COMMANDS | TRAINING)[name].epilog or ""
    short = name.removesuffix(" fit")  # as the group takes it
    assert re.search(rf"Examples?:\s+{short} ", epilog), epilog


@pytest.mark.parametrize("name", [*PROGRAMS, "safron-train"])
def test_every_program_tells_its_exit_codes(name: str) -> None:
    program = PROGRAMS.get(name, train.commands)
    assert EXIT_CODES in program.get_help(click.Context(program, **program.context_settings))


@pytest.mark.parametrize("name", [*COMMANDS, *TRAINING])
def test_every_option_says_what_it_does_its_unit_and_its_default(name: str) -> None:
    command = (COMMANDS | TRAINING)[name]
    context = click.Context(command, **command.context_settings)
    for param in command.params:
        if not isinstance(param, click.Option):
            continue
        shown = param.get_help_record(context)
        assert shown is not None
        text, _, default = shown[1].partition("  [")
        assert re.search(r"^[\w(].*[a-z0-9].*\.$", text), f"{param.name}: no sentence: {text}"
        if not param.is_flag:
            assert re.search(r"default: |required", default), f"{param.name}: no default: {shown[1]}"
        if isinstance(param.type, click.types.IntParamType | click.types.FloatParamType):
            assert re.search(UNITS, text), f"{param.name}: no unit: {text}"


def test_python_users_read_the_same_of_every_option() -> None:
    said = RenderOptions.__doc__ or ""
    helps = {param.name: param.help for param in render.command.params if isinstance(param, click.Option)}
    for name, _, _, setting in settings(RenderOptions):
        assert f"\n    {name}\n        {setting.text}" in said
        assert helps[name] == setting.text


def test_the_documentation_lists_every_option_as_the_help_does() -> None:
    path = Path(__file__).parents[1] / "docs" / "write_options.py"
    spec = importlib.util.spec_from_file_location("write_options", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.with_tables(page), "run: make options"
