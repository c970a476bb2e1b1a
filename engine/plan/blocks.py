"""How is a canvas cut into blocks, and which patches belong to each block?

A block is one task: a square of whole TIFF tiles. A patch belongs to the block that contains its origin. Patches that also
write into the next block are the *boundary patches* of their block. They are generated first, exactly once, and their
weighted sums are kept in scratch for the neighbours::

    block (0, 0)          | block (0, 1)
    i i i i i i i i i i r |                   i  inner: writes into this block only
    i i i i i i i i i i r |                   r  right boundary: also writes into (0, 1)
    b b b b b b b b b b r |                   b  lower boundary: also writes into (1, 0)
    ----------------------+------------
    block (1, 0)                              the r in the corner writes into all four blocks
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from safron.io.errors import BadInput

from .grid import AxisGrid, PatchGrid
from .scale import ONE, Scale
from .window import Window

DEFAULT_BLOCK = 2048
# Blocks along a side, at most: 33 million pixels of the default size. Plans look at each of them.
MOST_BLOCKS = 1 << 14
# Columns of blocks that are rendered together, row by row.
BAND = 4


@dataclass(frozen=True)
class AxisBlocks:
    """Blocks along one axis, and the patches that each of them owns.

    Blocks are measured in canvas pixels (the slide's), patches in drawn pixels (`safron.engine.plan.scale`). If the two
    differ, neighbouring blocks share some drawn pixels.

    Attributes
    ----------
    axis
        Patches along the axis, in drawn pixels.
    start, stop
        Canvas pixels ``[start, stop)`` that are rendered.
    extent
        Slide pixels, counted from `start`; more than ``stop - start`` if the slide is padded.
    block
        Side of a block in canvas pixels.
    scale
        Drawn pixels per canvas pixel.
    length
        Canvas pixels along the whole axis; not needed if the scale is 1.

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
        """Return the canvas pixels ``[lo, hi)`` of a block."""
        lo = self.start + index * self.block
        return lo, min(lo + self.block, self.start + self.extent)

    def drawn(self, index: int) -> tuple[int, int]:
        """Return the drawn pixels ``[lo, hi)`` that a block is made of; empty if none of it is rendered."""
        lo, hi = (min(end, self.stop) for end in self.span(index))
        if lo == hi:
            _, end = self.scale.reach(lo - 1, lo, length=self.length)
            return end, end
        return self.scale.reach(lo, hi, length=self.length)

    def owned(self, index: int) -> range:
        """Return the patches whose origin lies in this block's drawn pixels and not in those of an earlier block."""
        start, _ = self.drawn(0)
        _, stop = self.drawn(len(self) - 1)
        touching = self.axis.touching(start, stop)
        _, lo = self.drawn(index - 1) if index else (0, touching.start * self.axis.stride)
        mine = self.axis.originating(lo, self.drawn(index)[1])
        first = max(mine.start, touching.start)
        return range(first, max(first, min(mine.stop, touching.stop)))

    def crossing(self, index: int) -> range:
        """Return the boundary patches: the last of the owned ones, which also write into the next block."""
        owned = self.owned(index)
        if self.span(index)[1] >= self.stop:
            return range(owned.stop, owned.stop)
        hi, _ = self.drawn(index + 1)
        first = max(owned.start, (hi - self.axis.tile) // self.axis.stride + 1)
        return range(min(first, owned.stop), owned.stop)

    def reach(self, patches: range) -> tuple[int, int]:
        """Return how many drawn pixels some consecutive patches write, and how many of these several patches share."""
        if not patches:
            return 0, 0
        start, stop = self.scale.reach(self.start, self.stop, length=self.length)
        lo, hi = self.axis.origin(patches[0]), self.axis.origin(patches[-1]) + self.axis.tile
        lo, hi, first = max(lo, start), min(hi, stop), self.axis.origin(patches[0])
        beside = -(-self.axis.tile // self.axis.stride)
        before, after = min(patches[0], beside), min(len(self.axis) - 1 - patches[-1], beside)
        return hi - lo, _shared_pixels(
            self.axis.tile, self.axis.overlap, before, len(patches), after, lo - first, hi - first
        )


@lru_cache(maxsize=4096)
def _shared_pixels(
    tile: int, overlap: int, before: int, count: int, after: int, start: int, stop: int
) -> int:
    """Return how many pixels several patches write; a long axis asks for the same few cases again and again.

    Pixels ``[start, stop)`` are counted from the first of `count` patches, with `before` and `after` more beside them.
    """
    stride, patches = tile - overlap, before + count + after
    axis = AxisGrid((patches - 1) * stride + tile, tile, overlap)
    return int((axis.count(start + before * stride, stop + before * stride) > 1).sum())


@dataclass(frozen=True)
class PatchRect:
    """Patches of consecutive rows and columns of the grid."""

    rows: range
    columns: range

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def window(self, grid: PatchGrid) -> Window:
        """Return the window that the patches write; they cover it without gaps."""
        if not len(self):
            return Window(0, 0, 0, 0)
        first, last = grid[self.rows[0], self.columns[0]].write, grid[self.rows[-1], self.columns[-1]].write
        return Window.from_bounds(first.y, first.x, last.y_stop, last.x_stop)


@dataclass(frozen=True)
class BlockPlan:
    """One block: its pixels and its patches.

    Attributes
    ----------
    index
        (row, column) of the block.
    window
        Canvas pixels of the block; part of them may lie in the slide's padding.
    rendered
        Part of `window` that is rendered.
    drawn
        Drawn pixels that `rendered` is made of; equal to it if the scale is 1.
    inner
        Patches that write into this block only.
    right, below
        Boundary patches; `right` includes the corner.
    """

    index: tuple[int, int]
    window: Window
    rendered: Window
    drawn: Window
    inner: PatchRect
    right: PatchRect
    below: PatchRect

    @property
    def boundary(self) -> dict[str, PatchRect]:
        """The boundaries that have patches, by name."""
        return {name: rect for name, rect in (("right", self.right), ("below", self.below)) if len(rect)}


def least_block(*, tile: int, slide_tile: int, scale: Scale) -> int:
    """Return the smallest block in whole TIFF tiles. A patch may write into two blocks along an axis, never into three."""
    pixels = ceil((tile + 2 * scale.margin) / scale.ratio)
    return -(-pixels // slide_tile) * slide_tile


def choose_block(
    block: int | None,
    *,
    tile: int,
    slide_tile: int,
    scale: Scale,
    longest: int,
    most: int = DEFAULT_BLOCK,
) -> int:
    """Choose the side of a block, or check the given one.

    The default is 2048 for every canvas, so that memory does not depend on the canvas. If the generator draws more pixels
    than the slide has, 2048 is the number of drawn pixels, but a block is never smaller than a patch.

    Parameters
    ----------
    block
        Side in pixels; None chooses it.
    tile
        Side of a patch in drawn pixels.
    slide_tile
        Side of a TIFF tile.
    scale
        Drawn pixels per canvas pixel.
    longest
        Longer side of the slide in pixels.
    most
        Drawn pixels along the side that is chosen, if a patch is no larger.

    Raises
    ------
    BadInput
        The given block is not a multiple of the TIFF tile or is smaller than a patch, or a slide whose longer side is
        `longest` pixels would have too many blocks.
    """
    least = least_block(tile=tile, slide_tile=slide_tile, scale=scale)
    if block is None:
        block = max(least, int(most / max(1.0, float(scale.ratio))) // slide_tile * slide_tile)
    if block < least or block % slide_tile:
        patch = f"--tile {tile}"
        if not scale.is_one:
            patch = f"a patch of --tile {tile}, each of whose pixels is {float(1 / scale.ratio):.3g} px wide"
        raise BadInput(
            f"--block {block}: must be a multiple of --tiff-tile {slide_tile} and at least {patch}; try {least}"
        )
    if longest > MOST_BLOCKS * block:
        raise BadInput(
            f"--block {block}: {longest} px make more than {MOST_BLOCKS} blocks along a side; render a part with --region, or give "
            f"--block {-(-longest // (MOST_BLOCKS * slide_tile)) * slide_tile}"
        )
    return block
