"""How are labels read from Zarr, or from an array in memory?"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from safron.io.files import is_foreign
from zarr.storage import LocalStore

from .pixel_size import PixelSize
from .plane import ReadChunk
from .zarr_chunks import ChunkFiles
from .zarr_inline import read_here

SMALL_CHUNK, MANY_CHUNKS = 64 * 64, 1 << 16
"""Chunks of fewer pixels are noted where there are more of them than this: reading would take many times as long."""


class ArrayPlane:
    """Two axes of anything that has ``shape``, ``dtype`` and slicing; the other axes have length one.

    Parameters
    ----------
    array
        Zarr.Array, NumPy, dask or the like.
    kind
        What it is, for messages.
    axes
        Which of its axes are y and x.
    size
        Of a pixel.
    notes
        What else the user should know.
    """

    def __init__(
        self, array: Any, kind: str, axes: tuple[int, int], size: PixelSize, notes: tuple[str, ...] = ()
    ):
        self.array = array
        self.kind = kind
        self.axes = axes
        self.shape = (int(array.shape[axes[0]]), int(array.shape[axes[1]]))
        self.dtype = np.dtype(array.dtype)
        self.mpp = size.mpp
        self.keep_chunks = not isinstance(array, np.ndarray)
        files = ChunkFiles.of(array) if isinstance(array, zarr.Array) else None
        self.read_chunk: ReadChunk | None = (
            None if files is None else partial(_read_chunk, files, axes, self.shape)
        )
        # Chunks of which a few rows can be unpacked.
        self.in_blocks = files if files is not None and files.in_blocks else None
        chunks = (
            getattr(array, "chunksize", None) or getattr(array, "chunks", None) or (1024,) * len(array.shape)
        )
        self.chunks = (min(int(chunks[axes[0]]), self.shape[0]), min(int(chunks[axes[1]]), self.shape[1]))
        self.notes = notes + size.notes + _small_chunks(self.shape, self.chunks) + self._nothing_stored()
        # Planes of the same canvas that lie beside this one, by what they hold.
        self.beside: dict[str, ArrayPlane] = {}

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region."""
        index = [slice(0, 1)] * len(self.array.shape)
        index[self.axes[0]], index[self.axes[1]] = rows, cols
        place = tuple(index)
        values = read_here(self.array, place) if isinstance(self.array, zarr.Array) else self.array[place]
        # The other axes have one index; y comes before x.
        return np.asarray(values).reshape(rows.stop - rows.start, cols.stop - cols.start)

    def blame(self, rows: slice, cols: slice) -> str:
        """Name the first chunk of the region that cannot be read."""
        if isinstance(self.array, zarr.Array):
            height, width = self._file_shape()
            for row in range(rows.start // height, -(-rows.stop // height)):
                for col in range(cols.start // width, -(-cols.stop // width)):
                    try:
                        self.read(*self._file_region(row, col))
                    except Exception:
                        return f"chunk {self._key(row, col)}"
        return f"rows {rows.start}..{rows.stop - 1}, columns {cols.start}..{cols.stop - 1}"

    def stored(self) -> Iterator[tuple[slice, slice]] | None:
        """Regions (y, x) of the chunks or shards that are stored; all others hold the fill value.

        Returns
        -------
        Iterator[tuple[slice, slice]] | None
            None where the storage is not listed: only files of this machine are.
        """
        if not isinstance(self.array, zarr.Array) or not isinstance(self.array.store, LocalStore):
            return None
        return self._stored(str(self.array.store.root / self.array.path))

    def _nothing_stored(self) -> tuple[str, ...]:
        """Note on an array of which no chunk is there, as after a copy that was broken off, or renamed its files."""
        stored = None if 0 in (*self.shape, *self.chunks) else self.stored()
        if stored is None or next(stored, None) is not None:
            return ()
        return (
            f"none of its chunks is stored (such as {self._key(0, 0)}), so that every pixel is its fill value, "
            f"{self.array.fill_value or 0}",
        )

    def _stored(self, folder: str) -> Iterator[tuple[slice, slice]]:
        places = [range(-(-n // m)) for n, m in zip(self.shape, self._file_shape(), strict=True)]
        for parent, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not is_foreign(name)]
            for name in files:
                key = os.path.relpath(f"{parent}/{name}", folder)
                index = [int(number) for number in re.findall(r"\d+", key)]
                if len(index) != len(self.array.shape):
                    continue
                row, col = index[self.axes[0]], index[self.axes[1]]
                if row in places[0] and col in places[1] and key == self._key(row, col):
                    yield self._file_region(row, col)

    def _file_shape(self) -> tuple[int, int]:
        """Height and width of what one file holds: a chunk or a shard."""
        unit = self.array.shards or self.array.chunks
        return unit[self.axes[0]], unit[self.axes[1]]

    def _file_region(self, row: int, col: int) -> tuple[slice, slice]:
        height, width = self._file_shape()
        y, x = row * height, col * width
        return slice(y, min(y + height, self.shape[0])), slice(x, min(x + width, self.shape[1]))

    def _key(self, row: int, col: int) -> str:
        """Name of a file below the array's folder."""
        place = [0] * len(self.array.shape)
        place[self.axes[0]], place[self.axes[1]] = row, col
        return str(self.array.metadata.encode_chunk_key(tuple(place)))


def _small_chunks(shape: tuple[int, int], chunks: tuple[int, int]) -> tuple[str, ...]:
    count = math.prod(-(-length // side) for length, side in zip(shape, chunks, strict=True) if side)
    if count <= MANY_CHUNKS or math.prod(chunks) >= SMALL_CHUNK:
        return ()
    return (
        f"its {count} chunks hold {chunks[1]} x {chunks[0]} pixels each, which makes reading slow; "
        "copy it with safron-mask import",
    )


def _read_chunk(
    files: ChunkFiles, axes: tuple[int, int], shape: tuple[int, int], row: int, col: int
) -> npt.NDArray[Any]:
    """The plane [y, x] of one chunk, cut at the edges of the array."""
    place: list[Any] = [0] * files.ndim
    place[axes[0]], place[axes[1]] = row, col
    chunk = files.read(tuple(place))
    for axis, index, length in zip(axes, (row, col), shape, strict=True):
        place[axis] = slice(0, length - index * files.chunks[axis])
    for axis in set(range(files.ndim)) - set(axes):
        place[axis] = 0
    plane: npt.NDArray[Any] = chunk[tuple(place)]
    # A view would keep the rest of the chunk in memory as well; a chunk that is not stored takes none.
    return plane if plane.size == chunk.size or not any(chunk.strides) else plane.copy()
