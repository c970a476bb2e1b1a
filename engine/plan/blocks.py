"""How is a canvas cut into blocks, and which patches belong to each block?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from safron.io.errors import BadInput

from .grid import AxisGrid, PatchGrid
from .scale import ONE, Scale
from .window import Window

DEFAULT_BLOCK = 2048
# Columns of blocks that are made together, row by row.
BAND = 4


@dataclass(frozen=True)
class AxisBlocks:
    """Blocks along one axis, and the patches that each of them owns.

    Blocks are cut in canvas pixels, which are the slide's; patches lie in drawn pixels (`safron.engine.plan.scale`). Where
    these differ, neighbouring blocks need some of the same drawn pixels.

    Attributes
    ----------
    axis : the patches, in drawn pixels.
    start, stop : rendered canvas pixels.
    extent : slide pixels, counted from `start`; more than ``stop - start`` where the slide is padded.
    block : canvas pixels of a block.
    scale : drawn pixels for each canvas pixel.
    length : canvas pixels of the whole axis; of no use where the scale is 1.

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
    scale: Scale = ONE
    length: int = 0

    def __len__(self) -> int:
        return -(-self.extent // self.block)

    def span(self, index: int) -> tuple[int, int]:
        """Canvas pixels ``[lo, hi)`` of a block."""
        lo = self.start + index * self.block
        return lo, min(lo + self.block, self.start + self.extent)

    def drawn(self, index: int) -> tuple[int, int]:
        """Drawn pixels ``[lo, hi)`` that a block is made of; empty, at the end, where nothing of it is rendered."""
        lo, hi = (min(end, self.stop) for end in self.span(index))
        if lo == hi:
            _, end = self.scale.reach(lo - 1, lo, length=self.length)
            return end, end
        return self.scale.reach(lo, hi, length=self.length)

    def owned(self, index: int) -> range:
        """Patches that begin before the block's last drawn pixel, and no other block's before it."""
        start, _ = self.drawn(0)
        _, stop = self.drawn(len(self) - 1)
        touching = self.axis.touching(start, stop)
        _, lo = self.drawn(index - 1) if index else (0, touching.start * self.axis.stride)
        mine = self.axis.originating(lo, self.drawn(index)[1])
        first = max(mine.start, touching.start)
        return range(first, max(first, min(mine.stop, touching.stop)))

    def crossing(self, index: int) -> range:
        """The last of the owned patches: those that also write into the next block."""
        owned = self.owned(index)
        if self.span(index)[1] >= self.stop:
            return range(owned.stop, owned.stop)
        hi, _ = self.drawn(index + 1)
        first = max(owned.start, (hi - self.axis.tile) // self.axis.stride + 1)
        return range(min(first, owned.stop), owned.stop)

    def reach(self, patches: range) -> tuple[int, int]:
        """Drawn pixels of the render that consecutive patches write, and how many of them several patches write."""
        if not patches:
            return 0, 0
        start, stop = self.scale.reach(self.start, self.stop, length=self.length)
        lo, hi = self.axis.origin(patches[0]), self.axis.origin(patches[-1]) + self.axis.tile
        lo, hi = max(lo, start), min(hi, stop)
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
    rendered : the rendered part of `window`.
    drawn : drawn pixels that `rendered` is made of; the same window where the scale is 1.
    inner : patches that only this block needs.
    right, below : its seams; `right` has the corner.
    """

    index: tuple[int, int]
    window: Window
    rendered: Window
    drawn: Window
    inner: PatchRect
    right: PatchRect
    below: PatchRect

    @property
    def seams(self) -> dict[str, PatchRect]:
        """The seams that have patches, by name."""
        return {name: rect for name, rect in (("right", self.right), ("below", self.below)) if len(rect)}


def least_block(*, tile: int, slide_tile: int, scale: Scale) -> int:
    """Return the smallest block, in whole TIFF tiles: a patch may write into two blocks along an axis, never into three."""
    pixels = ceil((tile + 2 * scale.margin) / scale.ratio)
    return -(-pixels // slide_tile) * slide_tile


def choose_block(block: int | None, *, tile: int, slide_tile: int, scale: Scale) -> int:
    """Return the block size, or check a given one: about 2048, whatever the canvas, so that memory is the same for all.

    Where slide and drawing have different pixels, the larger of both sides is about 2048, but no side less than a patch.

    Raises
    ------
    BadInput
        When a given block is not whole TIFF tiles or is smaller than a patch.
    """
    least = least_block(tile=tile, slide_tile=slide_tile, scale=scale)
    if block is None:
        return max(least, int(DEFAULT_BLOCK / max(1.0, float(scale.ratio))) // slide_tile * slide_tile)
    if block < least or block % slide_tile:
        patch = f"--tile {tile}"
        if not scale.is_one:
            patch = f"a patch of --tile {tile}, each of whose pixels is {float(1 / scale.ratio):.3g} px wide"
        raise BadInput(
            f"--block {block}: must be a multiple of --tiff-tile {slide_tile} and at least {patch}; try {least}"
        )
    return block
