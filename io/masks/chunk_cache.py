"""How is each chunk of a mask decoded once, though many windows cut through it?"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .zarr_chunks import assemble

if TYPE_CHECKING:
    from .plane import Plane

CACHE_BYTES = 128 << 20
"""Decoded chunks of a mask are kept up to this size."""

_MARGIN = 1024
"""Pixels by which a region that is read may be larger than a block, both sides together."""

Index = tuple[int, int]
Chunks = dict[Index, npt.NDArray[Any]]
ReadChunk = Callable[[int, int], npt.NDArray[Any]]
"""Reads the chunk of a row and a column of chunks: integers [y, x], as far as it lies in the array."""


class ChunkCache:
    """Reads a plane by whole chunks and keeps the last few, decoded.

    Windows of neighbouring tasks overlap, and each cuts through chunks: without it a chunk is decoded up to
    five times. Where chunks are so large that not all can be kept that readers want at a time, one reads after the
    other: each would hold chunks of its own.

    Parameters
    ----------
    plane : what to read.
    block : pixels a side of what is mostly read, a little more or less.
    workers : readers side by side.

    Attributes
    ----------
    nbytes : most memory that the chunks take.
    """

    def __init__(self, plane: Plane, block: int, workers: int) -> None:
        self._plane = plane
        height, width = plane.chunks
        chunk = height * width * plane.dtype.itemsize
        down, across = -(-block // height), -(-block // width)
        # A tenth more are read again with a row less, which is cheap where a chunk is a file of this machine.
        spare = 2 if plane.read_chunk is None else 1
        wanted = (down + spare) * (across + 1 + workers)
        self._count = max(1, min(wanted, CACHE_BYTES // chunk))
        few = self._count < wanted
        self._turn = threading.Lock() if few else nullcontext()
        # Of wide numbers a reader has its region as well, and where it is too small or too great for a label.
        itemsize = plane.dtype.itemsize
        region = (block + _MARGIN) ** 2 * (itemsize + 1) if itemsize > 1 else 0
        # Who unpacks a chunk has it twice.
        self.nbytes = (self._count + 2 * (1 if few else workers)) * chunk + workers * region
        self._kept: OrderedDict[Index, npt.NDArray[Any]] = OrderedDict()
        self._guard = threading.Lock()

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region; safe to call from many threads."""
        with self._turn:
            return self._read_region(rows, cols)

    def _read_region(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        height, width = self._plane.chunks
        down = range(rows.start // height, -(-rows.stop // height))
        across = range(cols.start // width, -(-cols.stop // width))
        out = np.empty((rows.stop - rows.start, cols.stop - cols.start), self._plane.dtype)
        if len(down) * len(across) <= self._count:
            found = self._chunks(down, across)
            return assemble((rows, cols), (height, width), out, lambda index: found[index[0], index[1]])
        read_chunk = self._plane.read_chunk
        if read_chunk is None:
            return self._plane.read(rows, cols)
        # More than is kept: it would only drive out what others need.
        return assemble((rows, cols), (height, width), out, lambda index: read_chunk(index[0], index[1]))

    def _chunks(self, down: range, across: range) -> Chunks:
        """The chunks of some rows and columns."""
        wanted = [(row, col) for row in down for col in across]
        with self._guard:
            found = {index: self._kept[index] for index in wanted if index in self._kept}
            for index in found:
                self._kept.move_to_end(index)
        read_chunk = self._plane.read_chunk
        if read_chunk is None:
            found |= self._read_together(down, across, found)
        else:
            for index in wanted:
                if index not in found:
                    found[index] = read_chunk(*index)
                    self._keep({index: found[index]})
            return found
        self._keep(found)
        return found

    def _keep(self, chunks: Chunks) -> None:
        with self._guard:
            self._kept |= chunks
            while len(self._kept) > self._count:
                self._kept.popitem(last=False)

    def _read_together(self, down: range, across: range, found: Chunks) -> Chunks:
        """Read what was not found; rows that lack the same columns together, since a call costs as much as a chunk."""
        missing = {row: _runs([col for col in across if (row, col) not in found]) for row in down}
        read: Chunks = {}
        for runs, rows in groupby(down, key=missing.__getitem__):
            alike = list(rows)
            for run in runs:
                read |= self._read(range(alike[0], alike[-1] + 1), run)
        return read

    def _read(self, down: range, across: range) -> Chunks:
        height, width = self._plane.chunks
        top, left = down.start * height, across.start * width
        bottom = min(down.stop * height, self._plane.shape[0])
        right = min(across.stop * width, self._plane.shape[1])
        values = self._plane.read(slice(top, bottom), slice(left, right))
        return {
            # Copies: a view would keep all that was read with it.
            (row, col): values[
                row * height - top : (row + 1) * height - top, col * width - left : (col + 1) * width - left
            ].copy()
            for row in down
            for col in across
        }


def _runs(numbers: list[int]) -> list[range]:
    """Group ascending whole numbers into runs without gaps."""
    cuts = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    bounds = [0, *cuts, len(numbers)] if numbers else []
    return [range(numbers[lo], numbers[hi - 1] + 1) for lo, hi in pairwise(bounds)]
