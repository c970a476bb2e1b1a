"""What must not be broken off half way, though the user asks for the end?"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM wait until the body has ended; a second one comes through at once.

    A signal without a handler of ours, and one that is ignored, stays as it is. In other threads than the main one,
    where Python handles no signals, this does nothing.
    """
    waiting: list[tuple[int, Any]] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        waiting.append((number, frame))
        restore()

    with suppress(ValueError):  # not the main thread
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, note)
                before[number] = handler
    try:
        yield
    finally:
        if not waiting:
            restore()
        for number, frame in waiting:  # whatever the body raised: the user asked for this
            before[number](number, frame)


@contextmanager
def children_deaf_to_ctrl_c() -> Iterator[None]:
    """Start threads and processes that Ctrl-C does not reach: a terminal sends it to all, and we end those we start."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
