"""How does a program show how far it is? A bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]

PROGRESS_SECONDS = 10.0


@contextmanager
def progress(
    total: float | None, unit: str, *, also: tuple[float, str] | None = None, ending: bool = False
) -> Iterator[Advance]:
    """Show progress on stderr: a bar on a terminal, a line every ten seconds elsewhere.

    Parameters
    ----------
    total
        Number of units, or None if unknown.
    unit
        What is counted, in the plural.
    also
        A second unit for the rate, such as ``(0.07, "Mpx")`` for megapixels per patch.
    ending
        Keep the finished bar on screen, or always print a line after the last unit.

    Yields
    ------
    advance : Callable[..., None]
        Takes the number of units done and optionally a note to show after them, until another one is given. Any thread may call
        it. The first call reports the units of an earlier run, which do not count for the rate.
    """
    rates = ((1.0, unit), also) if also else ((1.0, unit),)
    of = "" if total is None else f"/{total:.0f}"
    lock, done, earlier, noted = threading.Lock(), 0.0, -1.0, ""
    began = told = time.monotonic()

    def count(more: float, note: str) -> str:
        nonlocal done, earlier, began, noted
        done, noted = done + more, note or noted
        if earlier < 0:
            earlier, began = done, time.monotonic()
        said = f"{done:.0f}{of} {unit}"
        if done > earlier:
            rate = (done - earlier) / max(1e-9, time.monotonic() - began)
            said += "".join(f", {rate * factor:.2f} {name}/s" for factor, name in rates)
            said += f", {max(0.0, total - done) / rate:.0f} s left" if total is not None else ""
        return f"{said}: {noted}" if noted else said

    def say(more: float, note: str = "") -> None:
        nonlocal told
        with lock:
            said, now = count(more, note), time.monotonic()
            is_due = done > earlier and now - told >= PROGRESS_SECONDS
            if is_due or (ending and done == total):
                told = now
                print(said, file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=Console(stderr=True), transient=not ending) as bar:
        task = bar.add_task("", total=total)

        def advance(more: float, note: str = "") -> None:
            with lock:
                bar.update(task, advance=more, description=count(more, note))

        yield advance


@contextmanager
def pixel_progress(pixels: int) -> Iterator[Callable[[int], None]]:
    """Show progress through so many pixels; what is yielded takes the number of pixels done since the last call."""
    with progress(pixels / 1e6, "Mpx") as advance:
        advance(0)
        yield lambda done: advance(done / 1e6)
