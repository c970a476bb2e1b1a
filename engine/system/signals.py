"""How does a render end when a signal asks it to, or when its generator does not return?

Python runs signal handlers in the main thread only, and not while that thread is inside a library. So tasks run in other
threads, and a program may also call `end_soon_after_a_signal`: a thread then ends the process a few seconds after the first
signal, whatever the main thread is doing. That is safe at any moment: a render that is killed loses nothing that is in
the journal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from safron.io.interruptions import INTERRUPTED, REPEAT_SECONDS, SIGNALS, is_own_process, say_last

END_SECONDS = 3.0
"""Time in which a process ends after the first signal; Docker kills it after ten."""
BATCH_SYSTEM_SECONDS = 9.0
"""The same while jobs of a batch system are being cancelled."""


class _End:
    """When, and with which words, this process ends although its threads may not have."""

    def __init__(self) -> None:
        self.say: Callable[[str | None], None] | None = None
        self.seconds = END_SECONDS

    def at(self, deadline: Callable[[], float], message: str | None, code: int) -> None:
        """Wait for a time that may still be put off, then end the process."""
        while (left := deadline() - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        if self.say is not None:
            with suppress(Exception):
                self.say(message)
            _kill_children()
            os._exit(code)


def _kill_children() -> None:
    """End the processes that this one has started; they would notice its end only once their call has ended."""
    library = sys.modules.get("multiprocessing")
    for child in library.active_children() if library is not None else ():
        with suppress(Exception):
            child.kill()


_end = _End()


def end_soon_after_a_signal(say: Callable[[str | None], None], *, code: int) -> None:
    """From now on end this process within `END_SECONDS` of the first signal, if it has not ended by itself.

    Only for programs: it also makes `end_within` take effect.

    Parameters
    ----------
    say
        Prints the last line, of an interruption if it is given None, unless one was printed already.
    code
        Exit code after a signal.
    """
    _end.say = say
    if sys.platform == "win32":  # signals do not wake other threads there
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while (number := os.read(reader, 1)) and number[0] not in SIGNALS:
            pass
        began = time.monotonic()
        _end.at(lambda: began + _end.seconds, None, code)

    threading.Thread(target=watch, name="safron-signals", daemon=True).start()


def end_soon() -> None:
    """Let a signal end this process in seconds also while a generator call runs, where the process is a program's own."""
    if is_own_process():
        end_soon_after_a_signal(say_last, code=INTERRUPTED)


def end_within(seconds: float, message: str, *, code: int) -> None:
    """End this process in so many seconds, with a last line, even if threads of it do not return; only in programs."""
    if _end.say is not None:
        deadline = time.monotonic() + seconds
        arguments = (lambda: deadline, message, code)
        threading.Thread(target=_end.at, args=arguments, name="safron-end", daemon=True).start()


@contextmanager
def time_to_end(seconds: float) -> Iterator[None]:
    """Allow the process more time after a signal while the body runs."""
    before, _end.seconds = _end.seconds, max(seconds, _end.seconds)
    try:
        yield
    finally:
        _end.seconds = before


@contextmanager
def interrupts_later(*, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Delay the first signal until the body has ended; one that comes `REPEAT_SECONDS` later takes effect at once.

    Signals that are ignored or have no Python handler are left alone. Python handles signals in the main thread only, so
    in other threads this does nothing.
    """
    waiting: list[tuple[int, Any, float]] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        if not waiting:
            waiting.append((number, frame, clock()))
        elif clock() - waiting[0][2] >= REPEAT_SECONDS:
            restore()
            before[number](number, frame)

    with suppress(ValueError):  # not the main thread
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, note)
                before[number] = handler
    try:
        yield
    finally:
        restore()
        for number, frame, _ in waiting:  # also if the body raised: the user asked to stop
            before[number](number, frame)


@contextmanager
def children_deaf_to_terminals() -> Iterator[None]:
    """Start threads and processes that ignore Ctrl-C and a closed terminal, which reach all processes; we stop our own."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
