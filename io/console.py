"""How do our programs print? Warnings and errors are one line each on stderr; the exit code tells bad input from other failures."""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

import click

from .advice import for_command, typed
from .apart import check_params
from .errors import LONGEST_LINE, SafronError, shortened
from .fields import LEAST_MPP, MOST_MPP, members, settings
from .interruptions import INTERRUPTED, begin_program, end_program, say_last, words_of_interruption

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 bad input or usage, 130 interrupted."
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

version_option = click.version_option(
    package_name="safron", message="%(package)s %(version)s", help="Print the version and stop."
)
debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,  # `run_program` looks for it itself, because errors occur before options are parsed
    help="Show the traceback of an error.",
)


class _Finite(click.FloatRange):
    """A finite number in a range. A plain range would accept NaN, which is on neither side of a bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE = _Finite(0, min_open=True)
SLOPE = _Finite(0, 128, min_open=True)
"""Grey levels per pixel."""
SMOOTHING = _Finite(0, 100, min_open=True)
"""Width of a Gaussian, in pixels."""
PIXEL_SIZE = _Finite(LEAST_MPP, MOST_MPP)
"""Micrometres per pixel."""


class _Parsed(click.ParamType):  # type: ignore[type-arg] # of click 8.5 on
    """A value that a function parses from text, or refuses with ValueError."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def option(
    name: str,
    text: str,
    metavar: str | None = None,
    *,
    called: str | None = None,
    default: Any = None,
    shown: str | None = None,
    parse: Callable[[str], Any] | None = None,
    **more: Any,
) -> Callable[[Command], Command]:
    """Make an option whose help shows its default.

    Parameters
    ----------
    name
        Name with dashes.
    text
        Description with unit.
    metavar
        Placeholder for the value in help.
    called
        Name of the function's parameter, if it differs.
    default
        Default value.
    shown
        The default in words.
    parse
        Turns text into the value, or raises ValueError.
    **more
        Passed to `click.option`.
    """
    names = (name, called) if called else (name,)
    if more.get("is_flag"):
        return click.option(*names, help=text, **more)
    if parse is not None:
        more["type"] = _Parsed(parse)
    if not more.get("required"):
        more |= {"default": default, "show_default": shown or ("none" if default is None else True)}
    return click.option(*names, metavar=metavar, help=text, **more)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Add several options to a command."""

    def add(command: Command) -> Command:
        for made in reversed(options):
            command = made(command)
        return command

    return add


def options_of(kind: type) -> Callable[[Command], Command]:
    """Make an option of each field of a dataclass that is declared with `safron.io.fields.setting`, in order."""

    def add(command: Command) -> Command:
        for name, hint, default, said in reversed([*settings(kind)]):
            more: dict[str, Any] = {"parse": said.parse} if said.parse else _click_type(hint)
            if said.parse and default is not None:
                default = said.shown or str(default)  # as a user would type it
            shown = None if default == said.shown else said.shown
            command = option(
                f"--{name.replace('_', '-')}", said.text, said.metavar, default=default, shown=shown, **more
            )(command)
        return command

    return add


def _click_type(hint: Any) -> dict[str, Any]:
    """Return the arguments of `click.option` that parse text as an annotation says."""
    kind = next(one for one in members(hint) if one is not NoneType)
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if kind is bool:
        return {"is_flag": True}
    if get_origin(kind) is Literal:
        return {"type": click.Choice(get_args(kind))}
    return {"type": click.Path(path_type=Path) if kind is Path else kind}


def options_table(command: click.Command) -> str:
    """Return the table of a command's options in Markdown."""
    context = click.Context(command, **command.context_settings)
    rows = [("option", "default", "what it does"), ("---", "---", "---")]
    for param in command.params:
        if isinstance(param, click.Option):
            names, text = param.get_help_record(context) or ("", "")
            text, _, default = text.partition("  [")
            found = re.match(r"default: (?:\((.*)\)|([^;]*))(?:; .*)?\]$|(required)", default)
            shown = next(filter(None, found.groups()), "") if found else ""
            rows.append((f"`{names}`", shown, text))
    lines = [" | ".join(["", *(cell.replace("|", "\\|") for cell in row), ""]).strip() for row in rows]
    lines[1] = "|---|---|---|"
    return "\n".join(lines) + "\n"


class _Stream:
    """A standard stream whose other end may close: what is printed then is lost, and that is no failure of the program."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, or nothing if nobody reads it."""
        with self._lost():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        with self._lost():
            self._stream.flush()

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):
                raise
            with suppress(
                OSError, ValueError
            ):  # else Python fails on what is left in the buffer, and exits with 120
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _lasting_streams() -> Iterator[None]:
    """Print to streams that may be closed at any time."""
    with ExitStack() as stack:
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            if stream is not None:
                stack.enter_context(redirect(_Stream(stream)))
        yield


class Program(click.Command):
    """A command that leaves Ctrl-C to `run_program`, as click itself would print an empty line first, and tells its exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the last part of the help."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(EXIT_CODES)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, unless an output of it is one of its inputs."""
        _at_hand[:] = [ctx]
        try:
            _check_outputs(ctx)
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise click.Abort from error


class ProgramGroup(Program, click.Group):
    """The same for a program with subcommands."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a subcommand, whose outputs are looked at before it runs."""
        run = cmd.callback
        assert run is not None

        @wraps(run)
        def checked(*args: Any, **params: Any) -> Any:
            _check_outputs(click.get_current_context())
            return run(*args, **params)

        cmd.callback = checked
        super().add_command(cmd, name)


def _check_outputs(ctx: click.Context) -> None:
    """Refuse a command line whose output is one of its inputs; see `safron.io.apart`."""
    kinds = {param.name: param for param in ctx.command.params}
    given = {
        name: value
        for name, value in ctx.params.items()
        if value is not None and not (name in kinds and isinstance(kinds[name].type, click.Choice))
    }
    check_params(given, [name for name in given if isinstance(kinds.get(name), click.Option)])


_at_hand: list[click.Context] = []
"""Context of the program that runs, if one does."""


def _for_command(text: str) -> str:
    """Say a message as one who types commands reads it, and whose options it names, if the command at hand has others."""
    text = typed(text)
    if not _at_hand:
        return text
    context, command = _at_hand[0], _at_hand[0].command
    path, siblings = context.command_path, set[str]()
    if isinstance(command, click.Group):
        name = context.invoked_subcommand
        if name is None or name not in command.commands:
            return text
        siblings = {option for other in command.commands.values() for option in _names(other)}
        command, path = command.commands[name], f"{path} {name}"
    return for_command(text, path, _names(command), siblings)


def _names(command: click.Command) -> set[str]:
    """Names of a command's options."""
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


def run_program(command: click.Command, name: str, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line. Every failure is one line on stderr and an exit code, with a traceback only for ``--debug``.

    Parameters
    ----------
    command
        The click command.
    name
        Name of the program.
    args
        Arguments after the name; None takes those of the command line.
    """
    with _lasting_streams():
        _run_program(command, name, args)


def _run_program(command: click.Command, name: str, args: Sequence[str] | None) -> NoReturn:
    begin_program(name)
    _at_hand.clear()
    try:
        with show_warnings(name):
            code = command.main(args, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in (sys.argv if args is None else args) and not isinstance(error, click.ClickException):
            traceback.print_exc()
        words, code = _last_words(error, name)
        say_last(words)
    end_program(code if isinstance(code, int) else 0)


class _Warnings(logging.Handler):
    """Prints warnings of the engine as warnings of a program."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    def emit(self, record: logging.LogRecord) -> None:
        warn(self.program, record.getMessage())


@contextmanager
def show_warnings(program: str, *, quiet: bool = False) -> Iterator[None]:
    """Print what the engine warns of as warnings of a program, or nothing of it; the innermost of several decides."""
    logger, handler = logging.getLogger("safron"), _Warnings(program)
    if quiet:
        handler.setLevel(logging.CRITICAL)
    others = [one for one in logger.handlers if isinstance(one, _Warnings)]
    for one in others:
        logger.removeHandler(one)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
        for one in others:
            logger.addHandler(one)


def warn(name: str, text: str) -> None:
    """Print a warning as one line on stderr."""
    line = shortened(_for_command(" ".join(text.split())), LONGEST_LINE)
    click.echo(f"{name}: warning: {line}", err=True)


def _last_words(error: BaseException, name: str) -> tuple[str, int]:
    """Return the message for a failure, and its exit code."""
    interrupted = words_of_interruption(error)
    if interrupted is not None:
        return interrupted, INTERRUPTED
    if isinstance(error, click.ClickException):
        called = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else name
        return f"error: {error.format_message()} ({called} --help lists all options)", error.exit_code
    if isinstance(error, SafronError):
        return f"error: {_for_command(str(error))}", error.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {error.filename}: {error.strerror}; free space or choose another path", 1
    first = (str(error).splitlines() or [""])[0]
    return f"error: {type(error).__name__}: {first} (--debug shows the traceback)", 1
