"""How does a training end when a signal asks it to?"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safron.io.interruptions import REPEAT_SECONDS, SIGNALS, say_if_interrupted


@contextmanager
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


def tell_of(checkpoint: Path) -> None:
    """Let the program say after a signal whether there is a checkpoint to continue from."""
    say_if_interrupted(
        "checkpoints are kept, --resume continues from the last",
        where=checkpoint,
        before="no checkpoint was written yet",
    )
