"""What did a task do, and how long did its stages take?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from safron.io.slides.writer import EncodedTile


@dataclass
class Tally:
    """Counts of a task: patches generated and filled as background, and seconds by stage."""

    run: int = 0
    painted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in the body to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass(frozen=True)
class TaskDone:
    """Result of a boundary or block task.

    Attributes
    ----------
    kind
        "boundary" or "block".
    index
        The block.
    tally
        Counts and times.
    tiles
        Encoded TIFF tiles of all levels inside the block; empty for a boundary task.
    """

    kind: str
    index: tuple[int, int]
    tally: Tally
    tiles: list[EncodedTile] = field(default_factory=list)
