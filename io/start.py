"""What must be in place before a program is imported, which takes a part of a second?

A signal in that time ends the process with a line instead of a traceback. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from importlib import import_module
from typing import Any

_starting = ["safron"]


def start(program: str, module: str) -> None:
    """Import a program and run its function `main`.

    Parameters
    ----------
    program
        Its name, for the line after a signal.
    module
        Where its `main` is.
    """
    prepare(program)
    main = import_module(module).main
    import_module("safron.io.interruptions").own_process(program)
    main()


def prepare(program: str) -> None:
    """Make ready for what may happen before the program runs; its name stands in the line after a signal."""
    _starting[0] = program
    for name, usual in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),
    ):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == usual:  # one that is ignored stays so
            signal.signal(number, end_at_once)
    _open_missing_streams()


def end_at_once(number: int, frame: Any) -> None:
    """Until the program handles signals itself, end without a word from Python; nothing was begun."""
    try:
        os.write(2, f"{_starting[0]}: interrupted; nothing was written\n".encode())
    finally:
        os._exit(130)


def _open_missing_streams() -> None:
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


augment = partial(start, "safron-augment", "safron.engine.augment")
evaluate = partial(start, "safron-eval", "safron.engine.evaluation.cli")
generator = partial(start, "safron-generator", "safron.engine.generator_cli")
mask = partial(start, "safron-mask", "safron.engine.mask_cli")
optimize = partial(start, "safron-optimize", "safron.engine.optimization.cli")
tiles = partial(start, "safron-tiles", "safron.io.tiles.cli")
train = partial(start, "safron-train", "safron.training.cli")
view = partial(start, "safron-view", "safron.engine.viewing.cli")
