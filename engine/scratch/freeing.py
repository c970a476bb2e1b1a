"""Which parts of a sampler's running picture will no block read again?

A chunk of the running picture before a pass is needed by the blocks whose patches lie over it or near it. It is deleted when
all of these are in the journal, and so are the blocks that need their boundary patches: none of them is ever made again. So
scratch holds little more than one running picture, not two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt
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
        Chunks that each row and each column of blocks reads; see `safron.engine.plan.passes.read_chunks`.
    """

    plan: RenderPlan
    before: Scratch
    rows: list[range]
    columns: list[range]
    _kept: npt.NDArray[np.bool_] = field(init=False)
    _readers: tuple[dict[int, range], dict[int, range]] = field(init=False)

    def __post_init__(self) -> None:
        self._kept = np.zeros(self.plan.block_shape, bool)
        self._readers = _invert(self.rows), _invert(self.columns)

    def journaled(self, blocks: Iterable[Index]) -> None:
        """Take note of blocks that are in the journal, and delete what is needed no more."""
        blocks = list(blocks)
        for block in blocks:
            self._kept[block] = True
        sources = {source for block in blocks for source in self.plan.sources(block)}
        chunks = {
            chunk
            for row, column in sources
            if self._is_spent((row, column))
            for chunk in product(self.rows[row], self.columns[column])
        }
        for chunk in chunks:
            readers = product(self._readers[0][chunk[0]], self._readers[1][chunk[1]])
            if all(self._is_spent(reader) for reader in readers):
                self.before.state.free(chunk)

    def _is_spent(self, block: Index) -> bool:
        """Whether no patch of a block will be made again."""
        return all(self._kept[consumer] for consumer in self.plan.consumers(block))


def _invert(reads: list[range]) -> dict[int, range]:
    """Return for each chunk the blocks that read it, from the first to the last."""
    readers: dict[int, list[int]] = {}
    for block, chunks in enumerate(reads):
        for chunk in chunks:
            readers.setdefault(chunk, []).append(block)
    return {chunk: range(blocks[0], blocks[-1] + 1) for chunk, blocks in readers.items()}
