"""What is finished so far? The open slide, the journal, and what may be deleted from scratch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from safron.io.bigtiff import HEADER_BYTES, header
from safron.io.codecs import EncodedTile
from safron.io.errors import BadInput
from safron.io.slides import SlideWriter

from .plan import RenderPlan
from .prepare import SYNC_BYTES, Prepared
from .scratch import Entry, Journal, Scratch, read_journal, require_same
from .tasks import TaskDone

# Making blocks durable costs three disk flushes; cheap blocks share them, a second or so many bytes at a time.
SYNC_SECONDS = 1.0


class RenderState:
    """What is finished so far: the open slide, the journal, and counts over all runs of this render."""

    def __init__(
        self, plan: RenderPlan, scratch: Scratch, writer: SlideWriter, entries: Iterable[Entry]
    ) -> None:
        self.plan = plan
        self.scratch = scratch
        self.writer = writer
        self.done = np.zeros(plan.block_shape, bool)
        self.seamed = np.zeros(plan.block_shape, bool)
        self.run = self.painted = 0
        self.stages: dict[str, float] = {}
        for entry in entries:
            self._count(entry)
        self.resumed = int(self.done.sum())
        self._journal = Journal(scratch.journal)
        self._entries: list[Entry] = []
        self._tiles: list[EncodedTile] = []
        self._waiting_bytes = 0
        self._synced = time.monotonic()
        self._kept = scratch.journal.stat().st_size

    @classmethod
    def open(cls, prepared: Prepared, inputs: dict[str, str]) -> RenderState:
        """Continue the scratch of the same inputs, or start a new one."""
        plan, scratch = prepared.plan, prepared.job.scratch
        part, overwrite, fresh = prepared.target.part, prepared.options.overwrite, prepared.options.fresh
        differences = scratch.differences(inputs)
        if differences and not (overwrite or fresh):
            require_same(differences, scratch.path)
        if differences == [] and part.exists() and not fresh:
            try:
                if not scratch.journal.is_file():
                    raise BadInput(f"{scratch.journal}: the journal is missing; start again")
                entries = list(read_journal(scratch.journal))
                end = max((entry.end for entry in entries), default=0)
                writer = SlideWriter(part, scratch.index, plan.slide, resume_at=end or None)
            except BadInput as error:  # someone took or changed a file of the unfinished render
                if not overwrite:
                    raise BadInput(f"{error}: pass --fresh or --overwrite") from error
            else:
                # The slide has these tiles; a block without its part of the levels above is made again.
                level = plan.thumbnail_level
                whole = [e for e in entries if e.kind != "block" or scratch.has_part(level, e.index)]
                state = cls(plan, scratch, writer, whole)
                # A crash may have come between a block's line in the journal and the end of its seams.
                for source in scratch.stored_seams():
                    state._free_if_done(source)
                return state
        if not (overwrite or fresh or scratch.path.exists()) and _holds_tiles(part):
            raise BadInput(
                f"{part}: holds an unfinished render whose scratch is not at {scratch.path}; pass the --scratch that "
                "it was begun with, or --fresh or --overwrite to start over"
            )
        if not (overwrite or _is_unfinished(part)):
            raise BadInput(f"{part}: exists and is no unfinished slide; move it away, or pass --overwrite")
        scratch.create(plan, inputs)
        return cls(plan, scratch, SlideWriter(part, scratch.index, plan.slide), [])

    def _count(self, entry: Entry) -> None:
        finished = self.done if entry.kind == "block" else self.seamed
        if not finished[entry.index]:
            finished[entry.index] = True
            self.run += entry.run
            self.painted += entry.painted

    def accept(self, result: TaskDone) -> None:
        """Take a finished task: append its tiles, journal it, free the seams that nobody needs any more."""
        for name, seconds in result.tally.seconds.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds
        entry = Entry(result.kind, result.index, result.tally.run, result.tally.painted)
        self._count(entry)
        self._entries.append(entry)
        self._tiles += result.tiles
        self._waiting_bytes += sum(len(tile.data) for tile in result.tiles if not tile.uniform)
        if time.monotonic() - self._synced >= SYNC_SECONDS or self._waiting_bytes >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Make everything accepted so far survive a crash."""
        start = time.perf_counter()
        end = self.writer.append(self._tiles)
        self._journal.append([replace(entry, end=end) for entry in self._entries])
        self.stages["write"] = self.stages.get("write", 0.0) + time.perf_counter() - start
        for entry in self._entries:
            if entry.kind == "block":
                self._free_seams(entry.index)
        self._entries.clear()
        self._tiles.clear()
        self._waiting_bytes = 0
        self._synced = time.monotonic()

    def _free_seams(self, index: tuple[int, int]) -> None:
        for source in self.plan.sources(index):
            self._free_if_done(source)

    def _free_if_done(self, source: tuple[int, int]) -> None:
        if all(self.done[consumer] for consumer in self.plan.consumers(source)):
            self.scratch.free_seams(source)

    def keep(self) -> None:
        """Make everything accepted so far survive `forget`."""
        self.sync()
        self._kept = self.scratch.journal.stat().st_size

    def forget(self) -> None:
        """Take back what was accepted since `keep`: the next run makes it again."""
        self._entries.clear()
        self._tiles.clear()
        os.truncate(self.scratch.journal, self._kept)

    def close(self) -> None:
        """Keep what is finished for the next run."""
        try:
            if self._entries:
                self.sync()
        finally:
            self._journal.close()
            self.writer.close()


def _holds_tiles(part: Path) -> bool:
    """Whether this file is an unfinished slide with work in it."""
    return part.exists() and part.stat().st_size > HEADER_BYTES and _is_unfinished(part)


def _is_unfinished(part: Path) -> bool:
    """Whether nothing is lost by starting this file anew: it is missing, or a slide that no reader opens."""
    if not part.exists():
        return True
    with part.open("rb") as file:
        found = file.read(HEADER_BYTES)
    return header(0).startswith(found)
