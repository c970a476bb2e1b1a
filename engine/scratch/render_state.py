"""What is finished so far? The open slide, the journal, and what may be deleted from scratch."""

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
from .journal import Entry, Journal, read_journal
from .mask_watch import MaskGuard
from .task_result import TaskDone

# Making blocks durable costs three disk flushes; cheap blocks share them, a second or so many bytes at a time.
SYNC_SECONDS = 1.0


class RenderState:
    """What is finished so far: the open slide, the journal, and counts over all runs of this render.

    A task that is accepted waits for a flush of the disk, then for a look at the mask: only what was made of the
    mask as it was comes into the journal. So whatever ends a run, the next one trusts no other block.
    """

    def __init__(
        self,
        plan: RenderPlan,
        scratch: Scratch,
        writer: SlideWriter,
        guard: MaskGuard,
        entries: Iterable[Entry] = (),
    ) -> None:
        self.plan = plan
        self.scratch = scratch
        self.writer = writer
        self.done = np.zeros(plan.block_shape, bool)
        self.seamed = np.zeros(plan.block_shape, bool)
        self.run = self.painted = 0
        self.stages: dict[str, float] = {}
        whole = self._take(list(entries))
        self.resumed = int(self.done.sum())
        # What is not whole leaves the journal now: another run could take for it what this one makes and does not keep.
        self._journal = Journal(scratch.journal, whole)
        self._guard = guard
        self._accepted: list[Entry] = []
        self._tiles: list[EncodedTile] = []
        self._waiting_bytes = 0
        self._written: list[Entry] = []
        # Seams that lie in memory alone, and those on disk that nobody needs any more.
        self._in_memory: list[Entry] = []
        self._spent: list[tuple[int, int]] = []
        self._synced = time.monotonic()

    @classmethod
    def open(
        cls,
        plan: RenderPlan,
        scratch: Scratch,
        part: Path,
        inputs: dict[str, str],
        guard: MaskGuard,
        *,
        overwrite: bool,
        fresh: bool,
    ) -> RenderState:
        """Continue the scratch of the same inputs, or start a new one; `part` is the unfinished slide."""
        differences = scratch.differences(inputs)
        if differences and not (overwrite or fresh):
            require_same(differences, scratch.path)
        if differences == [] and part.exists() and not fresh:
            try:
                if not scratch.journal.is_file():
                    raise BadInput(f"{scratch.journal}: the journal is missing; start again")
                scratch.check_arrays(plan)
                entries = list(read_journal(scratch.journal))
                end = max((entry.end for entry in entries), default=0)
                writer = SlideWriter(part, scratch.index, plan.slide, resume_at=end or None)
            except BadInput as error:  # someone took or changed a file of the unfinished render
                if not overwrite:
                    raise BadInput(f"{error}: pass --fresh or --overwrite") from error
            else:
                state = cls(plan, scratch, writer, guard, entries)
                # A crash may have come between a block's line in the journal and the end of its seams. And seams without a
                # line may be of another mask: one that is not written again would stand there with a good checksum.
                state._spent += [
                    source
                    for source in scratch.stored_seams()
                    if state._is_spent(source) or not state.seamed[source]
                ]
                state._free_seams()
                return state
        if not (overwrite or fresh or scratch.path.exists()) and _holds_tiles(part):
            raise BadInput(
                f"{part}: holds an unfinished render whose scratch is not at {scratch.path}; pass the --scratch that "
                "it was begun with, or --fresh or --overwrite to start over"
            )
        if not (overwrite or _is_unfinished(part)):
            raise BadInput(f"{part}: exists and is no unfinished slide; move it away, or pass --overwrite")
        scratch.create(plan, inputs)
        return cls(plan, scratch, SlideWriter(part, scratch.index, plan.slide), guard)

    def _take(self, entries: list[Entry]) -> list[Entry]:
        """Count what earlier runs finished and the disk still has; give the lines of the journal that say so."""
        if not entries:
            return []
        level, lacking = self.plan.thumbnail_level, self._lacking_tiles()
        for entry in entries:
            if entry.kind == "block" and not lacking[entry.index]:
                self.done[entry.index] = self.scratch.has_part(level, entry.index)
        self._take_back({entry.index for entry in entries if entry.kind == "seam"})
        whole = [entry for entry in entries if self._stands(entry)]
        self.done[:] = False
        for entry in whole:
            self._count(entry)
        return whole

    def _take_back(self, seams: set[tuple[int, int]]) -> None:
        """Take blocks for unfinished that needed seams of which there is no line: their patches would not be counted."""
        for block in np.argwhere(self.done).tolist():
            for source in self.plan.sources((block[0], block[1])):
                if source not in seams and self.plan.block_plan(source).seams and self._is_spent(source):
                    self.done[block[0], block[1]] = False

    def _lacking_tiles(self) -> npt.NDArray[np.bool_]:
        """Blocks of which the slide has not all tiles: bool [rows, columns]."""
        plan = self.plan
        lacking = np.zeros(plan.block_shape, bool)
        for level in range(min(plan.block_levels + 1, plan.slide.level_count)):
            step = (plan.block >> level) // plan.slide.tile
            for rows, columns in self.writer.missing_at(level):
                lacking[rows // step, columns // step] = True
        return lacking

    def _stands(self, entry: Entry) -> bool:
        """Whether a line of the journal holds, once it is known which blocks do; who needs no seams asks for none."""
        if entry.kind == "block":
            return bool(self.done[entry.index])
        needed = not all(self.done[consumer] for consumer in self.plan.consumers(entry.index))
        return not needed or self.scratch.seams_whole(entry.index)

    def _count(self, entry: Entry) -> None:
        finished = self.done if entry.kind == "block" else self.seamed
        if not finished[entry.index]:
            finished[entry.index] = True
            self.run += entry.run
            self.painted += entry.painted

    def accept(self, result: TaskDone) -> None:
        """Take a finished task: append its tiles, journal it, free the seams that nobody needs any more.

        Raises
        ------
        Failed
            When the disk takes no more, or the mask was seen to be another one.
        """
        for name, seconds in result.tally.seconds.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds
        entry = Entry(result.kind, result.index, result.tally.run, result.tally.painted)
        self._count(entry)
        self._tiles += result.tiles
        if entry.kind == "block":
            self._let_go_of_seams(entry.index)
        # Last: an interrupt may come before it, and must not leave it without tiles, or before its seams.
        self._accepted.append(entry)
        self._waiting_bytes += sum(len(tile.data) for tile in result.tiles if not tile.uniform)
        result.tiles.clear()  # whoever holds the result holds no memory
        if time.monotonic() - self._synced >= SYNC_SECONDS or self._waiting_bytes >= SYNC_BYTES:
            self._write(last=False)
            if self._guard.due():
                self._vouch()
            self._free_seams()

    def keep(self) -> None:
        """Make everything accepted so far survive whatever comes.

        Raises
        ------
        Failed
            When the disk takes no more, or the mask is not what it was, as far as its storage says.
        """
        self._write()
        if not self._vouch() and self._written:
            raise Failed(
                f"mask {self._guard.mask.source}: its storage does not say any more whether its files changed; "
                "blocks made since it last did are dropped. Run the same command again"
            )
        self._free_seams()

    def close(self) -> None:
        """Keep what is finished for the next run, as far as disk and mask allow; who closes has worse to tell."""
        try:
            with suppress(SafronError, OSError):
                self._write()
            if self._written:
                with suppress(SafronError, OSError):
                    self._vouch()
        finally:
            self._journal.close()
            self.writer.close()

    def _write(self, *, last: bool = True) -> None:
        """Bring what was accepted to disk, where nobody counts it yet: seams, too, if it is the last time, or they have been waiting.

        A seam that went from memory without it counts with the last block that needed it, so its line comes before that
        block's: a journal that is torn between them has it made again.
        """
        start = time.perf_counter()
        end = self.writer.append(self._tiles)
        self._in_memory += [entry for entry in self._accepted if entry.kind == "seam"]
        self._take_seams(end)
        self._written += [replace(entry, end=end) for entry in self._accepted if entry.kind == "block"]
        self._accepted.clear()
        self._tiles.clear()
        self._waiting_bytes = 0
        self._synced = time.monotonic()
        try:
            self.scratch.store_seams(seconds=0.0 if last else SYNC_SECONDS)
        except Exception as error:
            if last or not is_worth_another_try(error):
                raise
        self._take_seams(end)
        self.stages["write"] = self.stages.get("write", 0.0) + time.perf_counter() - start

    def _take_seams(self, end: int) -> None:
        """Take the seams that lie in memory alone no longer for written."""
        alone = self.scratch.in_memory_alone()
        self._written += [replace(entry, end=end) for entry in self._in_memory if entry.index not in alone]
        self._in_memory = [entry for entry in self._in_memory if entry.index in alone]

    def _vouch(self) -> bool:
        """Look at the mask, and journal what was written if it is what it was; False where nothing is learnt."""
        changed = self._guard.changed()
        if changed is None:
            return False
        if changed:
            self._accepted.clear()
            self._tiles.clear()
            self._written.clear()
            self._in_memory.clear()
            raise Failed(
                f"mask {self._guard.mask.source}: its files changed while it was rendered; blocks made since then are "
                "dropped. Put it back and run the same command again, or render the new one with --fresh"
            )
        start = time.perf_counter()
        self._journal.append(self._written)
        self._written.clear()
        self.stages["write"] = self.stages.get("write", 0.0) + time.perf_counter() - start
        return True

    def _let_go_of_seams(self, block: tuple[int, int]) -> None:
        """Free the memory of seams that a finished block was the last to need."""
        for source in self.plan.sources(block):
            if self._is_spent(source) and not self.scratch.forget_seams(source):
                self._spent.append(source)

    def _free_seams(self) -> None:
        """Delete what blocks on disk needed, journaled or not: room for a few seams is all that is planned."""
        for source in self._spent:
            self.scratch.free_seams(source)
        self._spent.clear()

    def _is_spent(self, source: tuple[int, int]) -> bool:
        return all(self.done[consumer] for consumer in self.plan.consumers(source))


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
