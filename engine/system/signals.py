"""What must not be interrupted half way, even if the user asks to stop?"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Delay the first Ctrl-C or SIGTERM until the body has ended; a second one takes effect at once.

    Signals that are ignored or have no Python handler are left alone. Python handles signals in the main thread only, so
    in other threads this does nothing.
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
        for number, frame in waiting:  # also if the body raised: the user asked to stop
            before[number](number, frame)


@contextmanager
def children_deaf_to_ctrl_c() -> Iterator[None]:
    """Start threads and processes that ignore Ctrl-C. A terminal sends it to all processes; we stop our own."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
