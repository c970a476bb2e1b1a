"""How far is the training? A bar on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL_SECONDS = 10.0


def describe(losses: dict[str, float]) -> str:
    """Losses on one line.

    >>> describe({"judges": 0.51234, "pixel": 0.1})
    'judges 0.512, pixel 0.1'
    """
    return ", ".join(f"{name} {value:.3g}" for name, value in losses.items())


@contextmanager
def watch(steps: int | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Show steps done out of `steps` (None where that follows from the data) and the losses; yield what to call after each."""
    if sys.stderr.isatty():
        with _bar(steps) as report:
            yield report
        return
    told = 0.0
    began: tuple[float, int] | None = None  # when the first step was done, and which it was

    def line(done: int, losses: dict[str, float]) -> None:
        nonlocal told, began
        now = time.monotonic()
        began = began or (now, done)
        if now - told >= INTERVAL_SECONDS or done == steps:
            told = now
            seconds, count = now - began[0], done - began[1]
            rate = f", {count / seconds:.2f} steps/s" if count else ""
            of = f"/{steps}" if steps else ""
            print(f"step {done}{of}{rate}: {describe(losses)}", file=sys.stderr, flush=True)

    yield line


@contextmanager
def _bar(steps: int | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("step {task.completed:.0f}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: list[TaskID] = []

        def first(losses: dict[str, float]) -> str:
            """The two that fight; all would leave no room for the bar."""
            return describe(dict(list(losses.items())[:2]))

        def advance(done: int, losses: dict[str, float]) -> None:
            if not tasks:  # steps of an earlier run come first and count for no speed
                tasks.append(progress.add_task("train", total=steps, completed=done, losses=first(losses)))
            else:
                progress.update(tasks[0], completed=done, losses=first(losses))

        yield advance
