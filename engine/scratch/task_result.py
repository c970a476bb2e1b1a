"""What did a task do, and what took its time?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from safron.io.slides.writer import EncodedTile


@dataclass
class Tally:
    """What a task did: patches run and painted, and seconds by stage."""

    run: int = 0
    painted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass(frozen=True)
class TaskDone:
    """What a seam or block task hands back.

    Attributes
    ----------
    kind : "seam" or "block".
    index : the block.
    tally : counts and times.
    tiles : the block's encoded TIFF tiles of every level that it completes; none for a seam.
    """

    kind: str
    index: tuple[int, int]
    tally: Tally
    tiles: list[EncodedTile] = field(default_factory=list)
