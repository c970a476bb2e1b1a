"""At which offset is each tile of a slide that is still being written?

The index is a file beside the slide with a record of 32 bytes for each tile of each level in raster order. So
memory does not grow with the slide, and a crash loses nothing that was synced::

    header  "SAFRONIX" version | hash of the spec (16 bytes)
    record  offset u64 | length u32 | blake2b-16 of the tile's bytes | check u32     all zero: no tile yet
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.offsets import read_at, write_at

from .pyramid import Pyramid
from .spec import SlideSpec

RECORD = np.dtype([("offset", "<u8"), ("length", "<u4"), ("digest", "V16"), ("check", "<u4")])
Records = npt.NDArray[np.void]
Places = npt.NDArray[np.int64]

_HEADER = struct.Struct("<8sQ16s")
_MAGIC, _VERSION = b"SAFRONIX", 1
_PACK = struct.Struct("<QI16s4x")
_SLICE = 1 << 16
_CHECK_WEIGHTS = np.array([3, 5, 7, 11, 13, 17, 19], np.uint32) * np.uint32(0x9E3779B1)
_CHECK_START = np.uint32(0x5AF701)


def pack_record(offset: int, length: int, digest: bytes) -> bytes:
    """Encode one record, without its check, which `TileIndex.write` fills in."""
    return _PACK.pack(offset, length, digest)


class TileIndex:
    """The index of one slide; the module describes the file.

    Parameters
    ----------
    path
        The index file.
    spec
        What determines the slide; the index of another spec is refused.
    valid_end
        None begins a new file. A number opens the existing file and clears torn records, and those of tiles that end
        beyond this byte of the slide.

    Raises
    ------
    BadInput
        If the existing index is missing, or belongs to a slide with another spec.
    """

    def __init__(self, path: Path, spec: SlideSpec, *, valid_end: int | None) -> None:
        self.path = path
        self._starts = _level_starts(spec.pyramid)
        self._pyramid = spec.pyramid
        key = hashlib.blake2b(repr(spec).encode(), digest_size=16).digest()
        header = _HEADER.pack(_MAGIC, _VERSION, key)
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if valid_end is None else 0)
        try:
            self._file = os.open(path, flags, 0o666)
        except FileNotFoundError:
            raise BadInput(f"{path}: the index of the unfinished slide is missing; start again") from None
        if valid_end is None:
            write_at(self._file, header, 0)
        elif os.pread(self._file, len(header), 0) != header:
            os.close(self._file)
            raise BadInput(
                f"{path}: belongs to a slide with other options; use the same options, or start again"
            )
        os.ftruncate(self._file, len(header) + self._starts[-1] * RECORD.itemsize)
        if valid_end is not None:
            self._clear_beyond(valid_end)

    def position(self, level: int, row: int, col: int) -> int:
        """Return the number of a tile's record."""
        size = self._pyramid.level(level)
        assert 0 <= row < size.rows, f"level {level} has no tile at row {row}"
        assert 0 <= col < size.cols, f"level {level} has no tile at column {col}"
        return self._starts[level] + row * size.cols + col

    def write(self, positions: list[int], packed: bytes) -> None:
        """Store packed records, the last of several for one position, with one write for each sequence of neighbours."""
        where = np.array(positions, np.int64)
        order = np.argsort(where, kind="stable")
        where = where[order]
        records = np.frombuffer(packed, RECORD)[order]
        records["check"] = _checks(records)
        runs = np.flatnonzero(np.diff(where) != 1) + 1
        for first, last in zip([0, *runs.tolist()], [*runs.tolist(), len(where)], strict=True):
            write_at(self._file, records[first:last].tobytes(), self._byte(int(where[first])))
        os.fsync(self._file)

    def level_slices(self, level: int) -> Iterator[Records]:
        """Yield a level's records in raster order, in slices of bounded size."""
        return self._slices(self._starts[level], self._starts[level + 1])

    def missing(self, level: int) -> Iterator[tuple[Places, Places]]:
        """Yield rows and columns, int64 [n] each, of a level's tiles without bytes, in raster order, in slices."""
        columns = self._pyramid.level(level).cols
        seen = 0
        for records in self.level_slices(level):
            empty = seen + np.flatnonzero(records["length"] == 0)
            if len(empty):
                yield np.divmod(empty, columns)
            seen += len(records)

    def first_missing(self) -> tuple[int, int, int] | None:
        """Return level, row and column of the first tile without bytes; None if there is none."""
        for level in self._pyramid.levels:
            for rows, columns in self.missing(level.index):
                return level.index, int(rows[0]), int(columns[0])
        return None

    def count(self) -> tuple[int, int]:
        """Return the number of tiles with bytes, and of all tiles."""
        total = self._starts[-1]
        return sum(int(np.count_nonzero(part["length"])) for part in self._slices(0, total)), total

    def close(self) -> None:
        """Close the file and keep it."""
        os.close(self._file)

    def _slices(self, start: int, stop: int) -> Iterator[Records]:
        for first in range(start, stop, _SLICE):
            count = min(_SLICE, stop - first)
            yield np.frombuffer(read_at(self._file, count * RECORD.itemsize, self._byte(first)), RECORD)

    def _clear_beyond(self, valid_end: int) -> None:
        first = 0
        for records in self._slices(0, self._starts[-1]):
            ends = records["offset"] + records["length"]
            keep = (records["length"] > 0) & (ends <= valid_end) & (records["check"] == _checks(records))
            if keep.sum() < np.count_nonzero(records["offset"] | records["length"] | records["check"]):
                cleared = records.copy()
                cleared[~keep] = np.zeros(1, RECORD)
                write_at(self._file, cleared.tobytes(), self._byte(first))
            first += len(records)
        os.fsync(self._file)

    def _byte(self, position: int) -> int:
        return _HEADER.size + position * RECORD.itemsize


def _level_starts(pyramid: Pyramid) -> tuple[int, ...]:
    starts = [0]
    for level in pyramid.levels:
        starts.append(starts[-1] + level.tiles)
    return tuple(starts)


def _checks(records: Records) -> npt.NDArray[np.uint32]:
    """Return a weighted sum of each record's words, enough to tell a torn record from a whole one."""
    words = records.view(np.uint32).reshape(len(records), RECORD.itemsize // 4)
    weighted: npt.NDArray[np.uint32] = words[:, :-1] * _CHECK_WEIGHTS
    return np.asarray(weighted.sum(axis=1, dtype=np.uint32) + _CHECK_START, np.uint32)


class IndexReader:
    """The index of a slide that another process is writing; nothing is changed.

    Parameters
    ----------
    path
        The index file.
    pyramid
        Levels of the slide.
    """

    def __init__(self, path: Path, pyramid: Pyramid) -> None:
        self._starts, self._pyramid = _level_starts(pyramid), pyramid
        self._file = os.open(path, os.O_RDONLY)

    def place(self, level: int, row: int, col: int) -> tuple[int, int] | None:
        """Return offset and length of a tile in the slide; None if it is not written yet, or its record is torn."""
        position = self._starts[level] + row * self._pyramid.level(level).cols + col
        data = os.pread(self._file, RECORD.itemsize, _HEADER.size + position * RECORD.itemsize)
        if len(data) < RECORD.itemsize:
            return None
        record = np.frombuffer(data, RECORD)
        if not record["length"][0] or record["check"] != _checks(record):
            return None
        return int(record["offset"][0]), int(record["length"][0])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
