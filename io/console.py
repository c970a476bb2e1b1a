"""How do our programs talk? Warnings and failures are one line each on stderr, and an exit code says whose fault it was."""

from __future__ import annotations

import math
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from .errors import SafronError

INTERRUPTED = 130
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

version_option = click.version_option(
    package_name="safron", message="%(package)s %(version)s", help="Print the version and stop."
)
debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,  # `run_program` looks for it, because errors arise before options are read
    help="Show the traceback of an error.",
)


class _Positive(click.FloatRange):
    """A number above 0, and finite: NaN lies on neither side of a bound."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE = _Positive()


@dataclass
class _Interruption:
    """Whether a signal asked this process to end, and what it leaves behind then; one a process, as signals are."""

    asked: bool = False
    leaves: str = ""


_interruption = _Interruption()


def say_if_interrupted(leaves: str) -> None:
    """Change what is said of an interruption from now on."""
    _interruption.leaves = leaves


def _interrupt(number: int, frame: Any) -> NoReturn:
    # Noted as well as raised: what breaks off the import of an extension module comes out as ImportError.
    _interruption.asked = True
    raise KeyboardInterrupt


def _note_interruptions() -> None:
    """Note the signals that raise KeyboardInterrupt; what ignores or handles one otherwise stays."""
    with suppress(ValueError):  # not in the main thread: then no signal comes here either
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.default_int_handler:
                signal.signal(number, _interrupt)


class Program(click.Command):
    """A command whose Ctrl-C is left to `run_program` to tell of: click itself would print an empty line first."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise click.Abort from error


class ProgramGroup(Program, click.Group):
    """The same for a program that has commands."""


def run_program(
    command: click.Command,
    name: str,
    args: Sequence[str] | None = None,
    *,
    interrupted: str = "nothing was written",
) -> NoReturn:
    """Run a command line; every failure is one line on stderr and an exit code, with a traceback only for ``--debug``.

    Parameters
    ----------
    command : what click made of the options.
    name : of the program.
    args : what follows the name on the command line; None takes it from there.
    interrupted : what Ctrl-C leaves behind, until `say_if_interrupted` says otherwise.
    """
    _interruption.asked, _interruption.leaves = False, interrupted
    _note_interruptions()
    try:
        code = command.main(args, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in (sys.argv if args is None else args) and not isinstance(error, click.ClickException):
            traceback.print_exc()
        words, code = _last_words(error, name)
        click.echo(f"{name}: {' '.join(words.split())}", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def warn(name: str, text: str) -> None:
    """Say something that the user of a program should know, in one line on stderr."""
    click.echo(f"{name}: warning: {' '.join(text.split())}", err=True)


def _last_words(error: BaseException, name: str) -> tuple[str, int]:
    """What to say of a failure, and the exit code that goes with it."""
    if _interruption.asked or isinstance(error, click.Abort | KeyboardInterrupt):
        return f"interrupted; {_interruption.leaves}", INTERRUPTED
    if isinstance(error, click.ClickException):
        called = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else name
        return f"error: {error.format_message()} ({called} --help lists all options)", error.exit_code
    if isinstance(error, SafronError):
        return f"error: {error}", error.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {error.filename}: {error.strerror}; make room or choose another path", 1
    first = (str(error).splitlines() or [""])[0]
    return f"error: {type(error).__name__}: {first} (--debug shows where)", 1
