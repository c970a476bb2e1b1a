"""How is a canvas cut into blocks, and which patches belong to each block?"""

from __future__ import annotations

from dataclasses import dataclass

from safron.io.errors import BadInput

from .grid import AxisGrid, PatchGrid
from .window import Window

DEFAULT_BLOCK = 2048
# Columns of blocks that are made together, row by row.
BAND = 4


@dataclass(frozen=True)
class AxisBlocks:
    """Blocks along one axis, and the patches that each of them owns.

    Attributes
    ----------
    axis : the patches.
    start, stop : rendered canvas pixels.
    extent : slide pixels, counted from `start`; more than ``stop - start`` where the slide is padded.
    block : pixels of a block.

    Examples
    --------
    >>> blocks = AxisBlocks(AxisGrid(1000, tile=256, overlap=20), start=0, stop=1000, extent=1000, block=512)
    >>> blocks.owned(0), blocks.crossing(0), blocks.owned(1), blocks.crossing(1)
    (range(0, 3), range(2, 3), range(3, 5), range(5, 5))
    """

    axis: AxisGrid
    start: int
    stop: int
    extent: int
    block: int

    def __len__(self) -> int:
        return -(-self.extent // self.block)

    def span(self, index: int) -> tuple[int, int]:
        """Canvas pixels ``[lo, hi)`` of a block."""
        lo = self.start + index * self.block
        return lo, min(lo + self.block, self.start + self.extent)

    def owned(self, index: int) -> range:
        """Patches whose origin is in the block; those that begin before the first block belong to it."""
        lo, hi = self.span(index)
        touching = self.axis.touching(self.start, self.stop)
        mine = self.axis.originating(touching.start * self.axis.stride if index == 0 else lo, hi)
        first = max(mine.start, touching.start)
        return range(first, max(first, min(mine.stop, touching.stop)))

    def crossing(self, index: int) -> range:
        """The last of the owned patches: those that also write into the next block."""
        owned = self.owned(index)
        _, hi = self.span(index)
        if hi >= self.stop:
            return range(owned.stop, owned.stop)
        first = max(owned.start, (hi - self.axis.tile) // self.axis.stride + 1)
        return range(min(first, owned.stop), owned.stop)

    def reach(self, patches: range) -> tuple[int, int]:
        """Rendered pixels that consecutive patches write, and how many of them several patches write."""
        if not patches:
            return 0, 0
        lo, hi = self.axis.origin(patches[0]), self.axis.origin(patches[-1]) + self.axis.tile
        lo, hi = max(lo, self.start), min(hi, self.stop)
        return hi - lo, int((self.axis.count(lo, hi) > 1).sum())


@dataclass(frozen=True)
class PatchRect:
    """The patches of some consecutive rows and columns of the grid."""

    rows: range
    columns: range

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def window(self, grid: PatchGrid) -> Window:
        """All canvas pixels that the patches write; they cover it without a gap."""
        if not len(self):
            return Window(0, 0, 0, 0)
        first, last = grid[self.rows[0], self.columns[0]].write, grid[self.rows[-1], self.columns[-1]].write
        return Window.from_bounds(first.y, first.x, last.y_stop, last.x_stop)


@dataclass(frozen=True)
class BlockPlan:
    """One block: where it lies and which patches it runs.

    Attributes
    ----------
    index : (row, column) of the block.
    window : its pixels in canvas coordinates; part of it may lie in the slide's padding.
    paint : the rendered part of `window`.
    inner : patches that only this block needs.
    right, below : its seams; `right` has the corner.
    """

    index: tuple[int, int]
    window: Window
    paint: Window
    inner: PatchRect
    right: PatchRect
    below: PatchRect

    @property
    def seams(self) -> dict[str, PatchRect]:
        """The seams that have patches, by name."""
        return {name: rect for name, rect in (("right", self.right), ("below", self.below)) if len(rect)}


def choose_block(block: int | None, *, tile: int, slide_tile: int) -> int:
    """Return the block size: about 2048, whatever the canvas, so that memory is the same for all; check a given one.

    Raises
    ------
    BadInput
        When a given block is not whole TIFF tiles or is smaller than a patch.
    """
    least = -(-tile // slide_tile) * slide_tile
    if block is None:
        return max(least, DEFAULT_BLOCK // slide_tile * slide_tile)
    if block < least or block % slide_tile:
        raise BadInput(
            f"--block {block}: must be a multiple of --tiff-tile {slide_tile} and at least --tile {tile}; try {least}"
        )
    return block
