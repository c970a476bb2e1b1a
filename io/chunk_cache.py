"""How is each chunk of a mask decoded once, though many windows cut through it?"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .chunks import assemble

if TYPE_CHECKING:
    from .labels import Plane

CACHE_BYTES = 128 << 20
"""Decoded chunks of a mask are kept up to this size."""

Index = tuple[int, int]
Chunks = dict[Index, npt.NDArray[Any]]
ReadChunk = Callable[[int, int], npt.NDArray[Any]]
"""Reads the chunk of a row and a column of chunks: integers [y, x], as far as it lies in the array."""


class ChunkCache:
    """Reads a plane by whole chunks and keeps the last few, decoded.

    Windows of neighbouring tasks overlap, and each cuts through chunks: without it a chunk is decoded up to
    five times.

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
        self._count = min((down + spare) * (across + 1 + workers), CACHE_BYTES // chunk)
        self.nbytes = self._count * chunk
        self._kept: OrderedDict[Index, npt.NDArray[Any]] = OrderedDict()
        self._guard = threading.Lock()

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region; safe to call from many threads."""
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
            found |= {index: read_chunk(*index) for index in wanted if index not in found}
        with self._guard:
            self._kept |= found
            while len(self._kept) > self._count:
                self._kept.popitem(last=False)
        return found

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
