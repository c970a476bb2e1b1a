"""What is finished so far, and what may be deleted from scratch?"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.failures import is_worth_another_try
from safron.io.errors import BadInput, Failed, SafronError
from safron.io.slides.bigtiff import HEADER_BYTES, header
from safron.io.slides.codecs import EncodedTile
from safron.io.slides.writer import SlideWriter

from .arrays import SYNC_BYTES, Scratch, require_same
from .freeing import Freeing
from .journal import Entry, Journal, read_journal
from .mask_watch import MaskWatch
from .task_result import TaskDone

# Making blocks durable costs three disk flushes. Fast blocks share them: one set a second, or for every `SYNC_BYTES`.
SYNC_SECONDS = 1.0


class RenderState:
    """The open slide, the journal, and counts over all runs of this render.

    The results of a task are flushed to disk first. They enter the journal only after a later check has seen the mask
    unchanged. So a resumed run never reuses a block rendered from a different mask.
    """

    def __init__(
        self,
        plan: RenderPlan,
        scratch: Scratch,
        writer: SlideWriter,
        watch: MaskWatch,
        entries: Iterable[Entry] = (),
    ) -> None:
        self.plan = plan
        self.scratch = scratch
        self.writer = writer
        self.done = np.zeros(plan.block_shape, bool)
        self.boundary_done = np.zeros(plan.block_shape, bool)
        self.run = self.painted = 0
        self.stages: dict[str, float] = {}
        whole = self._take(list(entries))
        self.resumed = int(self.done.sum())
        # Damaged entries leave the journal now. Otherwise a later run could confuse them with what this run makes.
        self._journal = Journal(scratch.journal, whole)
        self._watch = watch
        self._accepted: list[Entry] = []
        self._tiles: list[EncodedTile] = []
        self._waiting_bytes = 0
        self._written: list[Entry] = []
        # Boundary sums that are in memory only, and those on disk that are no longer needed.
        self._in_memory: list[Entry] = []
        self._spent: list[tuple[int, int]] = []
        self._synced = time.monotonic()
        self._freeing: Freeing | None = None

    def free_with(self, freeing: Freeing) -> None:
        """From now on delete what a sampler's pass has read and no block of it will read again."""
        self._freeing = freeing
        freeing.journaled((row, column) for row, column in np.argwhere(self.done).tolist())

    @classmethod
    def open(
        cls,
        plan: RenderPlan,
        scratch: Scratch,
        part: Path,
        inputs: dict[str, str],
        watch: MaskWatch,
        *,
        overwrite: bool,
        fresh: bool,
    ) -> RenderState:
        """Resume the scratch of the same inputs, or start a new one; `part` is the unfinished slide."""
        try:
            differences = None if fresh else scratch.differences(inputs)
        except BadInput as error:
            if not overwrite:
                raise BadInput(f"{error}: pass --fresh or --overwrite") from error
            differences = None
        if differences and not (overwrite or fresh):
            require_same(differences, scratch.path)
        if differences == [] and part.exists() and not fresh:
            try:
                if not scratch.journal.is_file():
                    raise BadInput(f"{scratch.journal}: the journal is missing; start again")
                scratch.check_files()
                scratch.check_arrays(plan)
                entries = [entry for entry in read_journal(scratch.journal) if is_of(plan, entry)]
                end = max((entry.end for entry in entries), default=0)
                writer = SlideWriter(part, scratch.index, plan.slide, resume_at=end or None)
            except BadInput as error:  # a file of the unfinished render is missing or was changed
                if not overwrite:
                    raise BadInput(f"{error}: pass --fresh or --overwrite") from error
            else:
                state = cls(plan, scratch, writer, watch, entries)
                state.drop_stray_boundaries()
                return state
        if not (overwrite or fresh or scratch.path.exists()) and _holds_tiles(part):
            raise BadInput(
                f"{part}: holds an unfinished render whose scratch is not at {scratch.path}; pass the --scratch that "
                "it was started with, or --fresh or --overwrite to start over"
            )
        if not overwrite:
            require_unfinished(part)
        scratch.create(plan, inputs)
        return cls(plan, scratch, SlideWriter(part, scratch.index, plan.slide), watch)

    def drop_stray_boundaries(self) -> None:
        """Delete boundary sums on disk that are of no use.

        A crash may have come after a block's line in the journal and before its boundary sums were deleted. And sums without
        a line may come from another mask, although their checksum is right.
        """
        self._spent += [
            source
            for source in self.scratch.boundaries.stored()
            if self._is_spent(source) or not self.boundary_done[source]
        ]
        self._free_boundaries()

    def _take(self, entries: list[Entry]) -> list[Entry]:
        """Count what earlier runs finished and the disk still has; return the journal entries that hold."""
        if not entries:
            return []
        lacking = self._lacking_tiles()
        for entry in entries:
            if entry.kind == "block" and not lacking[entry.index]:
                self.done[entry.index] = self._has_output(entry.index)
        self._take_back({entry.index for entry in entries if entry.kind == "boundary"})
        whole = [entry for entry in entries if self._stands(entry)]
        self.done[:] = False
        for entry in whole:
            self._count(entry)
        return whole

    def _has_output(self, index: tuple[int, int]) -> bool:
        """Whether what a block left in scratch can be read."""
        return self.scratch.has_part(self.plan.thumbnail_level, index)

    def _take_back(self, journaled: set[tuple[int, int]]) -> None:
        """Mark blocks as unfinished if their boundary patches are missing from the journal: the count would be wrong."""
        for block in np.argwhere(self.done).tolist():
            for source in self.plan.sources((block[0], block[1])):
                if (
                    source not in journaled
                    and self.plan.block_plan(source).boundary
                    and self._is_spent(source)
                ):
                    self.done[block[0], block[1]] = False

    def _lacking_tiles(self) -> npt.NDArray[np.bool_]:
        """Return the blocks that lack tiles in the slide: bool [rows, columns]."""
        plan = self.plan
        lacking = np.zeros(plan.block_shape, bool)
        for level in range(min(plan.block_levels + 1, plan.slide.level_count)):
            step = (plan.block >> level) // plan.slide.tile
            for rows, columns in self.writer.missing_at(level):
                lacking[rows // step, columns // step] = True
        return lacking

    def _stands(self, entry: Entry) -> bool:
        """Whether a journal entry holds, once it is known which blocks do. Boundaries that no block needs hold anyway."""
        if entry.kind == "block":
            return bool(self.done[entry.index])
        needed = not all(self.done[consumer] for consumer in self.plan.consumers(entry.index))
        return not needed or self.scratch.boundaries.is_whole(entry.index)

    def _count(self, entry: Entry) -> None:
        finished = self.done if entry.kind == "block" else self.boundary_done
        if not finished[entry.index]:
            finished[entry.index] = True
            self.run += entry.run
            self.painted += entry.painted

    def accept(self, result: TaskDone) -> None:
        """Accept a finished task: append its tiles, journal it, and free boundary sums that are no longer needed.

        Raises
        ------
        Failed
            The disk is full, or the mask has changed.
        """
        for name, seconds in result.tally.seconds.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds
        entry = Entry(result.kind, result.index, result.tally.run, result.tally.painted)
        self._count(entry)
        self._tiles += result.tiles
        if entry.kind == "block":
            self._release_boundaries(entry.index)
        # Last: an interrupt before this line must not leave an entry without its tiles or boundary sums.
        self._accepted.append(entry)
        self._waiting_bytes += sum(len(tile.data) for tile in result.tiles if not tile.uniform)
        if self._freeing is not None and entry.kind == "block":
            self._waiting_bytes += self._freeing.block_bytes
        result.tiles.clear()  # the caller may keep the result, but not its memory
        if time.monotonic() - self._synced >= SYNC_SECONDS or self._waiting_bytes >= SYNC_BYTES:
            self._write(last=False)
            if self._watch.due():
                self._journal_if_unchanged()
            self._free_boundaries()

    def keep(self) -> None:
        """Make everything accepted so far durable.

        Raises
        ------
        Failed
            The disk is full, or the mask has changed or cannot be checked.
        """
        self._write()
        if not self._journal_if_unchanged() and self._written:
            raise Failed(
                f"mask {self._watch.mask.source}: its storage no longer says whether its files changed; "
                "blocks rendered since the last check are dropped. Run the same command again"
            )
        self._free_boundaries()

    def close(self) -> None:
        """Keep what is finished for the next run if disk and mask allow; the closing code reports the more serious error."""
        try:
            with suppress(SafronError, OSError):
                self._write()
            if self._written:
                with suppress(SafronError, OSError):
                    self._journal_if_unchanged()
        finally:
            self._journal.close()
            self.writer.close()

    def _write(self, *, last: bool = True) -> None:
        """Write accepted results to disk, without journaling them yet.

        Boundary sums are written too if this is the last time or they have waited long enough. Those that left memory
        without being written are journaled before the last block that needed them: if the journal is torn between the
        two lines, the block is rendered again.
        """
        start = time.perf_counter()
        end = self.writer.append(self._tiles)
        self._in_memory += [entry for entry in self._accepted if entry.kind == "boundary"]
        self._take_boundaries(end)
        self._written += [replace(entry, end=end) for entry in self._accepted if entry.kind == "block"]
        self._accepted.clear()
        self._tiles.clear()
        self._waiting_bytes = 0
        self._synced = time.monotonic()
        try:
            self.scratch.boundaries.flush(seconds=0.0 if last else SYNC_SECONDS)
        except Exception as error:
            if last or not is_worth_another_try(error):
                raise
        self._take_boundaries(end)
        self.stages["write"] = self.stages.get("write", 0.0) + time.perf_counter() - start

    def _take_boundaries(self, end: int) -> None:
        """Move boundaries that are no longer in memory only to the written entries."""
        alone = self.scratch.boundaries.in_memory_only()
        self._written += [replace(entry, end=end) for entry in self._in_memory if entry.index not in alone]
        self._in_memory = [entry for entry in self._in_memory if entry.index in alone]

    def _journal_if_unchanged(self) -> bool:
        """Check the mask, and journal what was written if it is unchanged; False if its storage cannot tell."""
        changed = self._watch.changed()
        if changed is None:
            return False
        if changed:
            self._accepted.clear()
            self._tiles.clear()
            self._written.clear()
            self._in_memory.clear()
            raise Failed(
                f"mask {self._watch.mask.source}: its files changed during the render; blocks rendered since then are "
                "dropped. Restore it and run the same command again, or render the new mask with --fresh"
            )
        start = time.perf_counter()
        self._journal.append(self._written)
        if self._freeing is not None:
            self._freeing.journaled(entry.index for entry in self._written if entry.kind == "block")
        self._written.clear()
        self.stages["write"] = self.stages.get("write", 0.0) + time.perf_counter() - start
        return True

    def _release_boundaries(self, block: tuple[int, int]) -> None:
        """Free the memory of boundary sums that a finished block was the last to need."""
        for source in self.plan.sources(block):
            if self._is_spent(source) and not self.scratch.boundaries.forget(source):
                self._spent.append(source)

    def _free_boundaries(self) -> None:
        """Delete boundary sums that finished blocks needed, journaled or not: the plan has room for a few only."""
        for source in self._spent:
            self.scratch.boundaries.free(source)
        self._spent.clear()

    def _is_spent(self, source: tuple[int, int]) -> bool:
        return all(self.done[consumer] for consumer in self.plan.consumers(source))


def is_of(plan: RenderPlan, entry: Entry) -> bool:
    """Whether a journal entry is about a block that exists."""
    return len(entry.index) == 2 and all(
        0 <= place < count for place, count in zip(entry.index, plan.block_shape, strict=True)
    )


def _holds_tiles(part: Path) -> bool:
    """Whether this file is an unfinished slide that holds tiles."""
    return part.exists() and part.stat().st_size > HEADER_BYTES and _is_unfinished(part)


def require_unfinished(part: Path) -> None:
    """Raise `BadInput` if a file that this render would replace is not an unfinished slide."""
    if not _is_unfinished(part):
        raise BadInput(f"{part}: exists and is not an unfinished slide; move it away, or pass --overwrite")


def _is_unfinished(part: Path) -> bool:
    """Whether this file can be started again without loss: it is missing, or a slide that no reader opens yet."""
    if not part.exists():
        return True
    with part.open("rb") as file:
        found = file.read(HEADER_BYTES)
    return header(0).startswith(found)
