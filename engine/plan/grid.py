"""Which patches cover the canvas, what does each read, and what does each write?

Along one axis, with tile 256, context 20 and overlap 20 (stride 236)::

    canvas    0         236 256       472 492               length
              |----------|---|---------|---|-------- ... ----|
    patch 0   |wwwwwwwwwwwwww|
    patch 1              |wwwwwwwwwwwwwwwww|
    patch 2                            |wwwwwwww ... wwwwwwwwwwwwww|  cropped at the end
    read 1            |rr|wwwwwwwwwwwwwwwww|rr|                       context: read, never written

Every origin is a multiple of the stride, including the last one; pixels beyond the canvas are cropped. A generator whose
alignment divides the stride therefore agrees with itself in every overlap. This module is pure arithmetic and touches no
pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .window import Window


@dataclass(frozen=True)
class AxisGrid:
    """Patches along one axis of a canvas.

    Attributes
    ----------
    length
        Canvas pixels along the axis.
    tile
        Pixels that one patch writes.
    overlap
        Pixels that neighbouring patches share.

    Examples
    --------
    >>> axis = AxisGrid(length=600, tile=256, overlap=20)
    >>> len(axis), axis.origin(1), axis.touching(240, 250)
    (3, 236, range(0, 2))
    """

    length: int
    tile: int
    overlap: int

    @property
    def stride(self) -> int:
        """Pixels from one patch origin to the next."""
        return self.tile - self.overlap

    def __len__(self) -> int:
        return max(1, -(-(self.length - self.overlap) // self.stride))

    def origin(self, index: int) -> int:
        """First canvas pixel that patch `index` writes."""
        return index * self.stride

    def touching(self, start: int, stop: int) -> range:
        """Patches that write at least one pixel of ``[start, stop)``."""
        if stop <= start:
            return range(0)
        first = max(0, (start - self.tile) // self.stride + 1)
        last = min(len(self) - 1, (stop - 1) // self.stride)
        return range(first, last + 1)

    def originating(self, start: int, stop: int) -> range:
        """Patches whose origin lies in ``[start, stop)``."""
        first = max(0, -(-start // self.stride))
        return range(first, max(first, min(len(self), -(-stop // self.stride))))

    def count(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """How many patches write each pixel of ``[start, stop)``: int32 [stop - start]."""
        return self.total_weight(np.ones(self.tile, np.int32), start, stop)

    def total_weight(self, weights: npt.NDArray[np.int32], start: int, stop: int) -> npt.NDArray[np.int32]:
        """Sum of `weights` [tile] over all patches, for each pixel of ``[start, stop)``: int32."""
        total = np.zeros(max(0, stop - start), np.int32)
        for index in self.touching(start, stop):
            origin = self.origin(index)
            lo, hi = max(start, origin), min(stop, origin + self.tile)
            total[lo - start : hi - start] += weights[lo - origin : hi - origin]
        return total


@dataclass(frozen=True)
class PatchJob:
    """One call's worth of work: read a label window, write a smaller one.

    Attributes
    ----------
    index
        (row, column) in the grid.
    read
        The write window grown by the context; may reach beyond the canvas.
    write
        Tile x tile canvas pixels; may reach beyond the canvas at its far edges.
    """

    index: tuple[int, int]
    read: Window
    write: Window


@dataclass(frozen=True)
class PatchGrid:
    """The patches of a canvas of `height` x `width` pixels.

    Examples
    --------
    >>> grid = PatchGrid(height=500, width=300, tile=256, overlap=20, context=20)
    >>> len(grid), grid.shape
    (6, (3, 2))
    >>> grid[1, 0].read
    Window(y=216, x=-20, height=296, width=296)
    """

    height: int
    width: int
    tile: int
    overlap: int
    context: int

    @property
    def canvas(self) -> Window:
        """The whole canvas."""
        return Window(0, 0, self.height, self.width)

    @property
    def rows(self) -> AxisGrid:
        """The vertical axis."""
        return AxisGrid(self.height, self.tile, self.overlap)

    @property
    def columns(self) -> AxisGrid:
        """The horizontal axis."""
        return AxisGrid(self.width, self.tile, self.overlap)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of patches down and across."""
        return len(self.rows), len(self.columns)

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def __getitem__(self, index: tuple[int, int]) -> PatchJob:
        row, column = index
        write = Window(self.rows.origin(row), self.columns.origin(column), self.tile, self.tile)
        return PatchJob(index, write.expand(self.context), write)

    def __iter__(self) -> Iterator[PatchJob]:
        rows, columns = self.shape
        return (self[row, column] for row in range(rows) for column in range(columns))


def agreeing_overlap(tile: int, overlap: int, alignment: int) -> int | None:
    """Return the overlap nearest above `overlap`, or else below, whose stride is a multiple of the alignment.

    None where there is none, because the alignment is as large as the tile or larger.

    Examples
    --------
    >>> [agreeing_overlap(256, 20, alignment) for alignment in (4, 16, 250, 256)]
    [20, 32, 6, None]
    """
    above = overlap + (tile - overlap) % alignment
    found = above if above < tile else tile - alignment
    return found if found > 0 else None
