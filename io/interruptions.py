"""What does a signal do to a program, and what does the program say before it ends?

Signals that ask a program to end raise KeyboardInterrupt in its main thread, so that what is unfinished is removed. A process that does
nothing but run a program goes further: a second signal ends it at once, and an interruption that a library has swallowed is raised again.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import click

from .errors import LONGEST_LINE, shortened
from .start import end_at_once

INTERRUPTED = 130
"""Exit code of a program that a signal ended."""
NOTHING = "nothing was written"
SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a program to end. They are treated alike; Windows has no SIGHUP."""

HEARD_SECONDS = 0.5
"""Time after which a program that was asked to end must be at it."""
REPEAT_SECONDS = 1.0
"""Signals that follow the first one within this time count as one: Ctrl-C pressed twice, or sent to a whole group."""


@dataclass
class _Interruption:
    """How this process ends; there is one, as for signals.

    Attributes
    ----------
    program
        Its name.
    asked
        Whether a signal asked it to end, and when.
    leaves
        What it leaves behind then, or a function that looks.
    where
        What must exist for that to be so; None where it is so at any time.
    before
        What it leaves behind as long as that does not exist.
    own
        Whether the process is the program's own, so that it may be ended at any moment.
    begun
        Whether there is anything that an interruption must tidy up.
    untold
        Held once the last line is printed: the main thread and another may want to.
    """

    program: str = ""
    asked: float | None = None
    leaves: str | Callable[[], str] = NOTHING
    where: Path | None = None
    before: str = NOTHING
    own: bool = False
    begun: bool = True
    untold: threading.Lock = field(default_factory=threading.Lock)

    @property
    def line(self) -> str:
        """The last line of a program that is interrupted now."""
        lacking = self.where is not None and not self.where.exists()
        found = self.before if lacking else self.leaves
        return f"interrupted; {found if isinstance(found, str) else found()}"


_interruption = _Interruption()


def own_process(program: str, *, begun: bool = True) -> None:
    """Say that this process does nothing but run a program, so that a second signal ends it at once.

    Parameters
    ----------
    program
        Its name.
    begun
        Whether there may be something that an interruption must tidy up; if not, the first signal ends it at once until
        `begin` is called.
    """
    _interruption.program = program
    _interruption.own, _interruption.begun = True, begun
    note_interruptions()


def is_own_process() -> bool:
    """Whether this process does nothing but run one of our programs."""
    return _interruption.own


def begin() -> None:
    """Let signals raise KeyboardInterrupt from now on, so that what is begun can be tidied up."""
    _interruption.begun = True


def say_last(line: str | None) -> None:
    """Print the last line of this process on stderr, that of an interruption if it is None; only the first call prints."""
    if _interruption.untold.acquire(blocking=False):
        text = _interruption.line if line is None else line
        line = shortened(" ".join(text.split()), LONGEST_LINE)
        click.echo(f"{_interruption.program}: {line}", err=True)


def say_if_interrupted(
    leaves: str | Callable[[], str], *, where: Path | None = None, before: str = NOTHING
) -> None:
    """Change the message that is printed after an interruption from now on; a program begins with `NOTHING`.

    Parameters
    ----------
    leaves
        What an interruption leaves behind, and how that is continued; or a function that looks and says so.
    where
        A file or folder that exists as soon as this is so; None where it is so now.
    before
        What is left behind as long as that does not exist.
    """
    _interruption.leaves, _interruption.where, _interruption.before = leaves, where, before


def _interrupt(number: int, frame: Any) -> None:
    now, first = time.monotonic(), _interruption.asked
    # Noted as well as raised: an interrupted import of an extension module comes out as ImportError.
    _interruption.asked = now if first is None else first
    if first is not None and now - first < REPEAT_SECONDS:
        return
    if _interruption.own and (first is not None or not _interruption.begun):
        say_last(None)
        os._exit(INTERRUPTED)
    if _interruption.own and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _interrupt_again)
        signal.setitimer(signal.ITIMER_REAL, HEARD_SECONDS, HEARD_SECONDS)
        sys.unraisablehook = _tell_of_lost
    raise KeyboardInterrupt


def _tell_of_lost(lost: sys.UnraisableHookArgs) -> None:
    """Print an exception that Python cannot raise, as while an object is freed; an interruption is raised again by the alarm."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)


def _interrupt_again(number: int, frame: Any) -> None:
    """Raise KeyboardInterrupt once more if nothing handles the first: a callback of a C library lets no exception out."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, KeyboardInterrupt | SystemExit | click.Abort):
            return
        error = error.__context__
    raise KeyboardInterrupt


def note_interruptions() -> None:
    """Let signals raise KeyboardInterrupt, so that what is unfinished is removed; one that is ignored or handled otherwise stays so."""
    with suppress(ValueError):  # not in the main thread: then no signal comes here either
        for number in SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, end_at_once):
                signal.signal(number, _interrupt)


def begin_program(name: str) -> None:
    """Take over signals for a program, of which nothing is written yet."""
    if not _interruption.own:
        _interruption.asked, _interruption.untold = None, threading.Lock()
    _interruption.program = name
    say_if_interrupted(NOTHING)
    note_interruptions()


def words_of_interruption(error: BaseException) -> str | None:
    """Return what is said of an exception if a signal is behind it, else None."""
    if hasattr(signal, "setitimer") and _interruption.own:
        signal.setitimer(signal.ITIMER_REAL, 0)
    asked = _interruption.asked is not None or isinstance(error, click.Abort | KeyboardInterrupt)
    return _interruption.line if asked else None


def end_program(code: int) -> NoReturn:
    """End with an exit code.

    What is left takes no time where the process is the program's own, and an interruption of it would be a traceback. After an
    interruption it does not wait for threads either: some libraries abort where Python's end finds theirs at work.
    """
    if _interruption.own:
        with suppress(ValueError):
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        if code == INTERRUPTED:
            with suppress(Exception):
                atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            os._exit(code)
    sys.exit(code)
