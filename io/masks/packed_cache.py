"""How are windows read from chunks that are unpacked faster than memory is copied?

Numbers of nuclei have up to four bytes a pixel, and most of them are 0. Unpacked chunks of a block do not fit into the
processor's cache, so that it takes longer to write and read them than to unpack again the rows that a window needs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from .array_plane import ArrayPlane
from .blosc_blocks import BloscChunk
from .chunk_cache import CACHE_BYTES, MARGIN, ChunkCache
from .plane import Plane
from .zarr_chunks import ChunkFiles

_KEPT_BYTES = 8 << 20
"""Memory for chunks as they are stored: some hundred of typical ones, of 30 to 120 kB."""

Index = tuple[int, int]


def cache_of(
    plane: Plane, *, block: int, workers: int, max_bytes: int = CACHE_BYTES
) -> ChunkCache | PackedCache:
    """Choose what keeps the chunks of a plane; see `ChunkCache` for the parameters."""
    files = plane.in_blocks if isinstance(plane, ArrayPlane) else None
    if files is None:
        return ChunkCache(plane, block, workers, max_bytes=max_bytes)
    return PackedCache(plane, files, block, workers)


class PackedCache:
    """Reads a plane by parts of chunks, and keeps the most recently used chunks as they are stored.

    Parameters
    ----------
    plane
        What to read.
    files
        Its chunks.
    block
        Pixels a side of most regions that are read.
    workers
        Threads that read at a time.

    Attributes
    ----------
    nbytes
        Upper bound on the memory that is used.
    """

    def __init__(self, plane: Plane, files: ChunkFiles, block: int, workers: int) -> None:
        self._dtype, self._files = plane.dtype, files
        height, width = files.chunks
        chunk = height * width * plane.dtype.itemsize
        # A reader holds its region, a chunk as it is stored, and what it unpacks of it.
        region = (block + MARGIN) ** 2 * plane.dtype.itemsize
        self.nbytes = _KEPT_BYTES + workers * (region + 3 * chunk)
        self._kept: OrderedDict[Index, BloscChunk | None] = OrderedDict()
        self._held = 0
        self._guard = threading.Lock()

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region; safe to call from many threads."""
        height, width = self._files.chunks
        out = np.empty((rows.stop - rows.start, cols.stop - cols.start), self._dtype)
        down = range(rows.start // height, -(-rows.stop // height))
        across = range(cols.start // width, -(-cols.stop // width))
        for row, col in product(down, across):
            y, x = row * height, col * width
            top, bottom = max(rows.start, y), min(rows.stop, y + height)
            left, right = max(cols.start, x), min(cols.stop, x + width)
            to = out[top - rows.start : bottom - rows.start, left - cols.start : right - cols.start]
            chunk = self._chunk((row, col))
            if chunk is None:
                to[:] = self._files.fill
                continue
            step = width * self._dtype.itemsize
            data = chunk.unpack((top - y) * step, (bottom - y) * step)
            values = np.frombuffer(data, self._files.dtype).reshape(bottom - top, width)
            to[:] = values[:, left - x : right - x]
        return out

    def _chunk(self, index: Index) -> BloscChunk | None:
        """Get a chunk as it is stored; None if it is not. Two readers may both read a file, which is small."""
        with self._guard:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        chunk = self._files.packed(index)
        with self._guard:
            if index not in self._kept:
                self._kept[index] = chunk
                self._held += _cost(chunk)
            while self._held > _KEPT_BYTES:
                self._held -= _cost(self._kept.popitem(last=False)[1])
        return chunk


def _cost(chunk: BloscChunk | None) -> int:
    """Bytes that are held for a chunk, those of its place among the others included."""
    return 1024 + (0 if chunk is None else len(chunk.data))
