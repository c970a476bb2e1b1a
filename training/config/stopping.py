"""How does a training keep its folder to itself, and end when a signal asks it to?"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from safron.io.errors import BadInput, Failed
from safron.io.interruptions import REPEAT_SECONDS, SIGNALS, say_if_interrupted


@contextlib.contextmanager
def stop_requests() -> Iterator[list[float]]:
    """Collect the times of signals while steps run, so that the current one is finished and saved.

    A second signal, `REPEAT_SECONDS` later or more, stops at once. Signals that are ignored stay so.
    """
    asked: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: object) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] >= REPEAT_SECONDS:
            raise KeyboardInterrupt

    usual = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in usual}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Diverged(Failed):
    """A loss or a weight is no longer finite."""


@contextlib.contextmanager
def tell_what_is_kept(checkpoint: Path) -> Iterator[None]:
    """Say of a training that diverged whether there is a checkpoint to continue from."""
    try:
        yield
    except Diverged as error:
        kept = (
            "the last checkpoint is kept: resume from it"
            if checkpoint.exists()
            else "no checkpoint was written: begin again"
        )
        raise Failed(f"{error}; {kept} with lower rates, or with bfloat16 and float16 off") from error


def tell_of(checkpoint: Path) -> None:
    """Let the program say after a signal whether there is a checkpoint to continue from."""
    say_if_interrupted(
        "checkpoints are kept, --resume continues from the last",
        where=checkpoint,
        before="no checkpoint was written yet",
    )


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
