"""Which parts of a sampler's running picture will no block read again?

A chunk of the running picture before a pass is needed by the blocks whose patches lie over it or near it, until they are in
the journal. Where boundary patches lie, it is needed until all blocks into which these write are in the journal, too: a crash
may lose their sums. So scratch holds little more than one running picture, not two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt
from safron.engine.plan.passes import ChunkReads
from safron.engine.plan.render_plan import RenderPlan

from .arrays import Scratch
from .boundary_store import Index


@dataclass
class Freeing:
    """Deletes chunks of the running picture before a pass.

    Attributes
    ----------
    plan
        Of the pass.
    before
        Scratch with the running picture.
    rows, columns
        What each row and each column of blocks reads.
    """

    plan: RenderPlan
    before: Scratch
    rows: ChunkReads
    columns: ChunkReads
    _kept: npt.NDArray[np.bool_] = field(init=False)
    _readers: tuple[dict[int, range], dict[int, range]] = field(init=False)
    _freed: set[Index] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._kept = np.zeros(self.plan.block_shape, bool)
        self._readers = _invert(self.rows.all), _invert(self.columns.all)

    @property
    def block_bytes(self) -> int:
        """How much of the running picture may be deleted for each block that enters the journal."""
        passes = self.plan.passes
        assert passes is not None
        return passes.pixel_bytes * self.plan.block**2

    def journaled(self, blocks: Iterable[Index]) -> None:
        """Take note of blocks that are in the journal, and delete what is needed no more."""
        blocks = list(blocks)
        for block in blocks:
            self._kept[block] = True
        sources = {source for block in blocks for source in self.plan.sources(block)}
        chunks = {
            chunk
            for row, column in sources
            for chunk in product(self.rows.all[row], self.columns.all[column])
        }
        for chunk in chunks - self._freed:
            readers = product(self._readers[0][chunk[0]], self._readers[1][chunk[1]])
            if not any(self._needs(reader, chunk) for reader in readers):
                self.before.state.free(chunk)
                self._freed.add(chunk)

    def _needs(self, block: Index, chunk: Index) -> bool:
        """Whether a block, or its boundary patches, may be made again, and of this chunk."""
        row, column = block
        crosses = chunk[0] in self.rows.crossing[row] or chunk[1] in self.columns.crossing[column]
        consumers = self.plan.consumers(block) if crosses else [block]
        return not all(self._kept[consumer] for consumer in consumers)


def _invert(reads: list[range]) -> dict[int, range]:
    """Return for each chunk the blocks that read it, from the first to the last."""
    readers: dict[int, list[int]] = {}
    for block, chunks in enumerate(reads):
        for chunk in chunks:
            readers.setdefault(chunk, []).append(block)
    return {chunk: range(blocks[0], blocks[-1] + 1) for chunk, blocks in readers.items()}
