"""How does a training keep its folder to itself, and stop between two steps when it is asked to?"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from safron.io.console import SIGNALS
from safron.io.errors import BadInput


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP while a step runs; the second one stops at once.

    Yields
    ------
    list[int]
        Numbers of the signals that came. Only the main thread gets any.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """Lock the folder of a run until the block, or the process, ends: two runs would overwrite each other's checkpoints.

    Raises
    ------
    BadInput
        Another process has locked it.
    """
    if sys.platform == "win32":  # folders cannot be locked there
        yield
        return
    import fcntl

    handle = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives have no locks; there the user must take care
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = "another process trains into this folder; wait for it, or choose another"
                raise BadInput(f"{out}: {text}") from None
        yield
    finally:
        os.close(handle)
