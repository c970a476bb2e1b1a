"""What do the directories of a TIFF from any program say?

Classic TIFF and BigTIFF in either byte order. Nothing in the file is trusted: each offset and count is compared with
the file's size before it is followed, and long tables are read in slices.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.offsets import read_at

MAX_DIRECTORIES = 1024
_SLICE = 1 << 16
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_ASCII, _RATIONAL = 2, 5


class BrokenTiff(ValueError):
    """The file cannot be read as a TIFF; the message says why, in one line."""


@dataclass(frozen=True)
class Entry:
    """A tag as its directory has it: type, number and offset of its values, not the values."""

    code: int
    kind: int
    count: int
    place: int


Directory = dict[int, Entry]


class TiffReader:
    """The directories of one file, opened for reading until the `with` block ends.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    BrokenTiff
        If the file is not a TIFF, or was never finished. All methods raise it when an offset leads out of the file.
    OSError
        If the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(self._file).st_size
            self._read_header()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> TiffReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Read `count` bytes, all of which must be inside the file."""
        if offset + count > self.size:
            raise BrokenTiff(f"bytes {offset} to {offset + count} lie beyond the file's end at {self.size}")
        try:
            return read_at(self._file, count, offset)
        except EOFError as error:
            raise BrokenTiff(str(error)) from None

    def chain(self) -> list[Directory]:
        """Read the directories of the main chain, in order."""
        found, place, seen = [], self._first, set[int]()
        while place:
            if place in seen or len(seen) == MAX_DIRECTORIES:
                raise BrokenTiff(f"the chain of directories does not end (at byte {place})")
            seen.add(place)
            directory, place = self._read_directory(place)
            found.append(directory)
        return found

    def children(self, parent: Directory) -> list[Directory]:
        """Read the directories that a SubIFDs tag points at."""
        if 330 not in parent:
            return []
        places = self.numbers(parent[330], 0, MAX_DIRECTORIES).tolist()
        return [self._read_directory(place)[0] for place in places]

    def numbers(self, entry: Entry, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int64]:
        """Read the whole numbers of a tag from `start` to `stop` (None: to the end), as int64 [n]."""
        stop = entry.count if stop is None else min(stop, entry.count)
        if entry.kind not in _NUMBERS:
            raise BrokenTiff(f"tag {entry.code} has type {entry.kind}, not a whole number")
        size = _SIZES[entry.kind]
        data = self.bytes_at(entry.place + start * size, max(0, stop - start) * size)
        return np.frombuffer(data, self._order + _NUMBERS[entry.kind]).astype(np.int64)

    def number(self, directory: Directory, code: int, default: int | None = None) -> int:
        """Read the first number of a tag; without a default, a missing tag is an error."""
        if code not in directory:
            if default is None:
                raise BrokenTiff(f"tag {code} is missing")
            return default
        values = self.numbers(directory[code], 0, 1)
        if not len(values):
            raise BrokenTiff(f"tag {code} is empty")
        return int(values[0])

    def rational(self, directory: Directory, code: int) -> float | None:
        """Read a tag of one fraction; None if it is missing, not a fraction, or divides by zero."""
        entry = directory.get(code)
        if entry is None or entry.kind != _RATIONAL or entry.count < 1:
            return None
        above, below = struct.unpack(self._order + "2I", self.bytes_at(entry.place, 8))
        return above / below if below else None

    def text(self, directory: Directory, code: int, limit: int = 1 << 20) -> str:
        """Read a tag of text, at most `limit` bytes of it; empty if it is missing or not text."""
        entry = directory.get(code)
        if entry is None or entry.kind != _ASCII:
            return ""
        data = self.bytes_at(entry.place, min(entry.count, limit))
        return data.split(b"\0")[0].decode("utf-8", "replace")

    def raw(self, directory: Directory, code: int, limit: int = 1 << 20) -> bytes | None:
        """Read a tag's values as bytes, at most `limit`; None if it is missing."""
        entry = directory.get(code)
        if entry is None:
            return None
        return self.bytes_at(entry.place, min(entry.count * _SIZES.get(entry.kind, 1), limit))

    def slices(self, *entries: Entry) -> Iterator[tuple[int, tuple[npt.NDArray[np.int64], ...]]]:
        """Read tables of equal length together: yield the index of a slice's first number, and the slice of each table."""
        for start in range(0, min(entry.count for entry in entries), _SLICE):
            yield start, tuple(self.numbers(entry, start, start + _SLICE) for entry in entries)

    def _read_header(self) -> None:
        head = self.bytes_at(0, min(16, self.size))
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        if not self._order or len(head) < 8:
            raise BrokenTiff("is not a TIFF file")
        version = self._unpack("H", head[2:4])[0]
        self._big = version == 43 and len(head) == 16 and self._unpack("HH", head[4:8]) == (8, 0)
        if version not in (42, 43) or (version == 43 and not self._big):
            raise BrokenTiff("is not a TIFF file")
        self._first = self._unpack("Q", head[8:16])[0] if self._big else self._unpack("I", head[4:8])[0]
        if not self._first:
            raise BrokenTiff("was never finished: the header points at no directory")

    def _read_directory(self, place: int) -> tuple[Directory, int]:
        """Read one directory, and the offset of the next."""
        count_code, entry_size, word = ("Q", 20, 8) if self._big else ("H", 12, 4)
        count_size = struct.calcsize("=" + count_code)
        (count,) = self._unpack(count_code, self.bytes_at(place, count_size))
        if count > 4096:
            raise BrokenTiff(f"the directory at byte {place} claims {count} tags")
        start = place + count_size
        data = self.bytes_at(start, count * entry_size + word)
        directory: Directory = {}
        for index in range(count):
            at = index * entry_size
            entry = data[at : at + entry_size]
            code, kind, values = self._unpack("HHQ" if self._big else "HHI", entry[:-word])
            nbytes = values * _SIZES.get(kind, 1)
            inline = start + at + entry_size - word
            outside = self._unpack("Q" if self._big else "I", entry[-word:])[0]
            directory[code] = Entry(code, kind, values, inline if nbytes <= word else outside)
            if nbytes > word and outside + nbytes > self.size:
                raise BrokenTiff(f"the values of tag {code} lie beyond the file's end")
        return directory, self._unpack("Q" if self._big else "I", data[-word:])[0]

    def _unpack(self, codes: str, data: bytes) -> tuple[Any, ...]:
        return struct.unpack(self._order + codes, data)
