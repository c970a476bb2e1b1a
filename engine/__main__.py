"""``safron-render`` and ``python -m safron.engine``: what must be in place before the command is imported.

Importing takes a tenth of a second. A signal in that time ends the process with a line instead of a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

TOO_EARLY = b"safron-render: interrupted; nothing was written\n"


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command as a process of its own; see `safron.engine.cli.main`.

    Parameters
    ----------
    args
        What follows ``safron-render`` on the command line; None takes it from there.
    """
    end_at_once_on_signals()
    open_missing_streams()
    from safron.engine.cli import main_of_process

    main_of_process(args)


def end_at_once_on_signals() -> None:
    """Until the command handles signals itself, end without a word from Python; nothing was begun."""

    def end(number: int, frame: Any) -> None:
        try:
            os.write(2, TOO_EARLY)
        finally:
            os._exit(130)

    for name, usual in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),
    ):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == usual:  # one that is ignored stays so
            signal.signal(number, end)


def open_missing_streams() -> None:
    """Open standard streams that are closed: a file of ours would get their numbers, and what is printed would go into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # For the life of the process; pathlib would take a while to import.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


if __name__ == "__main__":
    main()
