"""What is finished of a sampler's pass over the canvas, and what survives a crash?

Every pass has a scratch of its own, ``OUT.safron/passes/K``, with boundary sums, a journal and the running picture after
the pass. It is one as a render without a slide would have. When all its blocks are on disk, ``complete.json`` says so;
then the running picture before it is deleted. The next pass begins only then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from safron.engine.plan.render_plan import RenderPlan
from safron.io.errors import BadInput
from safron.io.files import sync_directory
from safron.io.slides.codecs import EncodedTile

from .arrays import COMPLETE, Scratch
from .journal import read_journal
from .mask_watch import MaskWatch
from .records import Damaged, checked, read_json, with_checksum
from .render_state import RenderState, is_of


class _NoSlide:
    """Takes the place of the slide's writer: a pass has no tiles."""

    def append(self, tiles: Iterable[EncodedTile]) -> int:
        """Take no tiles, and return the length of no file."""
        assert not list(tiles)
        return 0

    def missing_at(self, level: int) -> list[tuple[Any, Any]]:
        """Lack nothing."""
        return []

    def close(self) -> None:
        """Do nothing."""


class PassState(RenderState):
    """The journal of one pass, and counts over all its runs."""

    @classmethod
    def of(cls, plan: RenderPlan, scratch: Scratch, inputs: Mapping[str, str], watch: MaskWatch) -> Self:
        """Resume a pass, or start it.

        Raises
        ------
        BadInput
            Its scratch was changed.
        """
        writer: Any = _NoSlide()
        try:
            resumes = scratch.differences(inputs) == [] and scratch.journal.is_file()
            if resumes:
                scratch.check_files()
                scratch.check_arrays(plan)
        except BadInput as error:
            raise BadInput(f"{error}: pass --fresh or --overwrite") from error
        if resumes:
            entries = [entry for entry in read_journal(scratch.journal) if is_of(plan, entry)]
            state = cls(plan, scratch, writer, watch, entries)
            state.drop_stray_boundaries()
            return state
        scratch.create(plan, inputs)
        return cls(plan, scratch, writer, watch)

    def _has_output(self, index: tuple[int, int]) -> bool:
        return self.scratch.state.is_whole(state_of_block(self.plan, index))

    def complete(self, before: tuple[int, int]) -> tuple[int, int]:
        """Record that all blocks are on disk, and free what they needed.

        Parameters
        ----------
        before
            Patches generated, and patches filled as background, in all earlier passes.

        Returns
        -------
        tuple[int, int]
            The same with those of this pass.
        """
        counts = before[0] + self.run, before[1] + self.painted
        part = self.scratch.path / f"{COMPLETE}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(with_checksum({"run": counts[0], "painted": counts[1]}), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.scratch.path / COMPLETE)
        sync_directory(self.scratch.path)
        for source in self.plan.blocks():
            self.scratch.boundaries.free(source)
        self.scratch.boundaries.clear()
        return counts


def state_of_block(plan: RenderPlan, index: tuple[int, int]) -> Any:
    """Return the pixels of a block of a pass, counted from the first of the running picture."""
    return plan.block_plan(index).window.shift(-plan.region.y, -plan.region.x)


def completed(scratch: Scratch, inputs: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the counts of `PassState.complete`; None where the pass is not complete, or one of another render."""
    try:
        if scratch.differences(inputs) != []:
            return None
        found = checked(read_json(scratch.path / COMPLETE))
        run, painted = found["run"], found["painted"]
    except (OSError, BadInput, Damaged, KeyError):
        return None
    return (run, painted) if type(run) is int and type(painted) is int else None


def completed_passes(scratch: Scratch) -> int:
    """Return how many passes before the last are complete: one is deleted only after the next one is."""
    complete = [int(path.parent.name) + 1 for path in scratch.path.glob(f"passes/*/{COMPLETE}")]
    return max(complete, default=0)


def patches_so_far(scratch: Scratch) -> int:
    """Return how many patches all passes but the last have done, as their records say."""
    steps = sorted(int(path.name) for path in scratch.path.glob("passes/*") if path.name.isdecimal())
    count = 0
    for this in map(scratch.of_pass, steps):
        try:
            found = checked(read_json(this.path / COMPLETE))
            count = int(found["run"]) + int(found["painted"])
        except (OSError, Damaged, KeyError, TypeError, ValueError):
            if this.journal.is_file():
                done = {
                    (entry.kind, entry.index): entry.run + entry.painted
                    for entry in read_journal(this.journal)
                }
                count += sum(done.values())
    return count
