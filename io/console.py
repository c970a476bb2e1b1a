"""How does a program of ours end? With one line on stderr, and an exit code that says whose fault it was."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from .errors import SafronError

INTERRUPTED = 130


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
    interrupted : what Ctrl-C leaves behind.
    """
    given = list(sys.argv[1:] if args is None else args)
    try:
        code = command.main(given, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        called = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else name
        _stop(name, f"{error.format_message()} ({called} --help lists all options)", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{name}: interrupted; {interrupted}", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        if isinstance(error, SafronError):
            _stop(name, str(error), error.exit_code)
        if isinstance(error, OSError) and error.filename is not None:
            _stop(name, f"{error.filename}: {error.strerror}; make room or choose another path", 1)
        _stop(name, f"{type(error).__name__}: {error}; --debug shows where", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(name: str, message: str, code: int) -> NoReturn:
    click.echo(f"{name}: error: {' '.join(message.split())}", err=True)
    sys.exit(code)
