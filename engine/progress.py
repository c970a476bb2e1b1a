"""How far is the render? A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL_SECONDS = 10.0


@contextmanager
def bar(*, total: int, megapixels: float) -> Iterator[Callable[[int], None]]:
    """Show a bar with patches/s, Mpx/s and the time left; yield the function that advances it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Patches and megapixels a second, over the last seconds."""

        def render(self, task: Task) -> Text:
            rate = task.finished_speed or task.speed or 0.0
            return Text(f"{rate:.1f} patches/s {rate * megapixels / total:.2f} Mpx/s")

    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} patches"),
        BarColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: list[TaskID] = []

        def advance(count: int) -> None:
            """Count patches; those of an earlier run come first and count for no speed."""
            if tasks:
                progress.advance(tasks[0], count)
            else:
                tasks.append(progress.add_task("render", total=total, completed=count))

        yield advance


class PlainLines:
    """Prints a line to stderr now and then; called from worker threads.

    Parameters
    ----------
    total : patches of the render.
    megapixels : of the canvas.
    """

    def __init__(self, *, total: int, megapixels: float) -> None:
        self._total = total
        self._megapixels = megapixels
        self._lock = threading.Lock()
        self._done = 0
        self._before: int | None = None
        self._start = self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        """Count patches; the first call brings those of an earlier run, which took no time now."""
        with self._lock:
            self._done += count
            if self._before is None:
                self._before = count
                return
            now = time.monotonic()
            if now - self._last < INTERVAL_SECONDS:
                return
            self._last = now
            rate = max(1e-9, (self._done - self._before) / (now - self._start))
            left = (self._total - self._done) / rate
            line = (
                f"{self._done}/{self._total} patches, {rate:.1f} patches/s, "
                f"{rate * self._megapixels / self._total:.2f} Mpx/s, {left:.0f} s left"
            )
        print(line, file=sys.stderr, flush=True)
