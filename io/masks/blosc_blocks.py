"""How is part of a chunk that Blosc packed in blocks unpacked, without the rest?

A packed chunk begins with its sizes and the place of each block. Some of its blocks, with such a beginning of their own, are a
packed chunk, too, which Blosc unpacks in the time of its size::

    chunk   sizes  places of 0 1 2 3   block 0   block 1   block 2   block 3
    part    sizes  places of 1 2                 block 1   block 2
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numcodecs

_HEADER = struct.Struct("<4sIII")
_PLACE_BYTES = 4
_VERSION = 2
_STORED = 2
"""Bit of the third byte: what follows the sizes is not packed."""


class BloscChunk:
    """A packed chunk.

    Parameters
    ----------
    data
        All of its bytes.
    size
        How many bytes it must have when unpacked.

    Raises
    ------
    ValueError
        It is cut short, or has another size.
    """

    def __init__(self, data: bytes, size: int) -> None:
        if len(data) < _HEADER.size:
            raise ValueError(f"has {len(data)} bytes, less than Blosc's header")
        self._kind, unpacked, self._block, packed = _HEADER.unpack_from(data)
        if packed != len(data):
            raise ValueError(f"has {len(data)} bytes, but its Blosc header says {packed}")
        if unpacked != size:
            raise ValueError(f"has {unpacked} bytes unpacked; it must have {size}")
        self.data, self._size = data, size
        self._starts, self._ends = self._find_blocks()

    def _find_blocks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where each block begins and ends; none if this is not known."""
        data, size, block = self.data, self._size, self._block
        if data[0] != _VERSION or data[2] & _STORED or not 0 < block < size:
            return (), ()
        count = -(-size // block)
        first = _HEADER.size + _PLACE_BYTES * count
        if first >= len(data):
            return (), ()
        starts = struct.unpack_from(f"<{count}I", data, _HEADER.size)
        # Threads may have packed the blocks in any order.
        bounds = [*sorted(starts), len(data)]
        if bounds[0] < first or any(after <= start for start, after in pairwise(bounds)):
            return (), ()
        following = dict(pairwise(bounds))
        return starts, tuple(following[start] for start in starts)

    def unpack(self, start: int, stop: int) -> memoryview:
        """Unpack the bytes from `start` to before `stop`; where the blocks are not known, by unpacking all.

        Raises
        ------
        Exception
            Of any kind, where these bytes are damaged.
        """
        if not self._starts:
            return memoryview(numcodecs.Blosc().decode(self.data))[start:stop]
        first, last = start // self._block, -(-stop // self._block)
        if last == len(self._starts):
            # The last block may be shorter, and Blosc takes no chunk that is shorter than its blocks.
            first = min(first, last - 2)
        offset = first * self._block
        return memoryview(numcodecs.Blosc().decode(self._part(first, last)))[start - offset : stop - offset]

    def _part(self, first: int, last: int) -> bytes:
        """Make a packed chunk of some blocks."""
        starts = self._starts[first:last]
        begin, end = min(starts), max(self._ends[first:last])
        places = _HEADER.size + _PLACE_BYTES * len(starts)
        size = min(last * self._block, self._size) - first * self._block
        header = _HEADER.pack(self._kind, size, self._block, places + end - begin)
        moved = struct.pack(f"<{len(starts)}I", *(start - begin + places for start in starts))
        return b"".join((header, moved, self.data[begin:end]))
