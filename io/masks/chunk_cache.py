"""How is each chunk of a mask decoded only once, although many windows overlap it?"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import nullcontext
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .plane import Plane, ReadChunk
from .zarr_chunks import assemble

CACHE_BYTES = 128 << 20
"""Memory for decoded chunks of a mask, unless a caller has more to give."""

LARGE_BYTES = 32 << 20
"""Chunks of this size and above are decoded one at a time, so that less memory holds half-decoded ones."""

MARGIN = 1024
"""Pixels by which a region that is read may be larger than a block, both sides together."""

Index = tuple[int, int]
Chunks = dict[Index, npt.NDArray[Any]]


class ChunkCache:
    """Reads a plane by whole chunks and keeps the most recently used ones, decoded.

    Windows of neighbouring tasks overlap and cut through chunks, so that without a cache a chunk is decoded up to five
    times. A chunk as high as a block, or higher, serves several rows of blocks: then whole rows of chunks are kept, if the
    memory allows. Where it does not even allow what the readers need at a time, they read one after the other: otherwise
    each would hold chunks of its own.

    Parameters
    ----------
    plane
        What to read.
    block
        Pixels a side of most regions that are read.
    workers
        Threads that read at a time.
    max_bytes
        Memory for the chunks that are kept. At least one is kept, whatever its size.

    Attributes
    ----------
    nbytes
        Upper bound on the memory that is used.
    """

    def __init__(self, plane: Plane, block: int, workers: int, *, max_bytes: int = CACHE_BYTES) -> None:
        self._plane = plane
        height, width = plane.chunks
        chunk = height * width * plane.dtype.itemsize
        rows, columns = -(-plane.shape[0] // height), -(-plane.shape[1] // width)
        down, across = -(-block // height), -(-block // width)
        # A row less makes a tenth of the chunks be read again, which is cheap where a chunk is a file of this machine.
        spare = 2 if plane.read_chunk is None else 1
        needed = (down + spare) * (across + 1 + workers)
        wanted = needed
        if height >= block:
            wanted = max(needed, min(rows, -(-(block + MARGIN) // height) + 1) * columns)
        needed, wanted = min(needed, rows * columns), min(wanted, rows * columns)
        decoders = 1 if chunk >= LARGE_BYTES else workers
        self._count = max(1, min(wanted, max_bytes // chunk))
        few = self._count < needed
        self._turn = threading.Lock() if few else nullcontext()
        self._decoding = threading.Semaphore(max(1, decoders))
        # Of wide integers a reader also holds its region, and where it is below or above the range of labels.
        itemsize = plane.dtype.itemsize
        region = (block + MARGIN) ** 2 * (itemsize + 1) if itemsize > 1 else 0
        # A chunk that is being decoded exists twice.
        self.nbytes = (self._count + 2 * (1 if few else decoders)) * chunk + workers * region
        self._kept: OrderedDict[Index, npt.NDArray[Any]] = OrderedDict()
        self._loading: dict[Index, threading.Event] = {}
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
        # More than is kept: it would only evict what others need.
        return assemble((rows, cols), (height, width), out, lambda index: read_chunk(index[0], index[1]))

    def _chunks(self, down: range, across: range) -> Chunks:
        """Get the chunks of some rows and columns of chunks, from memory where they are kept."""
        wanted = [(row, col) for row in down for col in across]
        if self._plane.read_chunk is not None:
            return {index: self._chunk(index, self._plane.read_chunk) for index in wanted}
        with self._guard:
            found = {index: self._kept[index] for index in wanted if index in self._kept}
            for index in found:
                self._kept.move_to_end(index)
        found |= self._read_together(down, across, found)
        self._keep(found)
        return found

    def _chunk(self, index: Index, read_chunk: ReadChunk) -> npt.NDArray[Any]:
        """Get one chunk; of several readers that lack it, one decodes it and the others wait."""
        while True:
            with self._guard:
                if index in self._kept:
                    self._kept.move_to_end(index)
                    return self._kept[index]
                loading = self._loading.get(index)
                if loading is None:
                    done = self._loading[index] = threading.Event()
                    break
            loading.wait()
        try:
            with self._decoding:
                chunk = read_chunk(*index)
            self._keep({index: chunk})
            return chunk
        finally:
            with self._guard:
                del self._loading[index]
            done.set()

    def _keep(self, chunks: Chunks) -> None:
        with self._guard:
            self._kept |= chunks
            while len(self._kept) > self._count:
                self._kept.popitem(last=False)

    def _read_together(self, down: range, across: range, found: Chunks) -> Chunks:
        """Read the chunks that were not found; rows that lack the same columns in one call, since a call costs as much as a chunk."""
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
            # Copies: a view would keep the whole region in memory.
            (row, col): values[
                row * height - top : (row + 1) * height - top, col * width - left : (col + 1) * width - left
            ].copy()
            for row in down
            for col in across
        }


def _runs(numbers: list[int]) -> list[range]:
    """Group ascending integers into runs without gaps."""
    cuts = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    bounds = [0, *cuts, len(numbers)] if numbers else []
    return [range(numbers[lo], numbers[hi - 1] + 1) for lo, hi in pairwise(bounds)]
