"""How are labels read from Zarr, or from an array in memory?"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from .chunk_cache import ReadChunk
from .zarr_chunks import ChunkFiles
from .zarr_inline import read_here

# Zarr and arrays in memory


class ArrayPlane:
    """Two axes of anything that has ``shape``, ``dtype`` and slicing; the other axes have length one."""

    def __init__(
        self, array: Any, kind: str, axes: tuple[int, int], mpp: float | None, notes: tuple[str, ...]
    ):
        self.array = array
        self.kind = kind
        self.axes = axes
        self.shape = (int(array.shape[axes[0]]), int(array.shape[axes[1]]))
        self.dtype = np.dtype(array.dtype)
        self.mpp = mpp
        self.notes = notes
        self.keep_chunks = not isinstance(array, np.ndarray)
        files = ChunkFiles.of(array) if isinstance(array, zarr.Array) else None
        self.read_chunk: ReadChunk | None = (
            None if files is None else partial(_read_chunk, files, axes, self.shape)
        )
        chunks = (
            getattr(array, "chunksize", None) or getattr(array, "chunks", None) or (1024,) * len(array.shape)
        )
        self.chunks = (min(int(chunks[axes[0]]), self.shape[0]), min(int(chunks[axes[1]]), self.shape[1]))

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
            unit = self.array.shards or self.array.chunks
            height, width = unit[self.axes[0]], unit[self.axes[1]]
            for row in range(rows.start // height, -(-rows.stop // height)):
                for col in range(cols.start // width, -(-cols.stop // width)):
                    y, x = row * height, col * width
                    try:
                        self.read(
                            slice(y, min(y + height, self.shape[0])), slice(x, min(x + width, self.shape[1]))
                        )
                    except Exception:
                        place = [0] * len(unit)
                        place[self.axes[0]], place[self.axes[1]] = row, col
                        return f"chunk {self.array.metadata.encode_chunk_key(tuple(place))}"
        return f"rows {rows.start}..{rows.stop - 1}, columns {cols.start}..{cols.stop - 1}"


def _read_chunk(
    files: ChunkFiles, axes: tuple[int, int], shape: tuple[int, int], row: int, col: int
) -> npt.NDArray[Any]:
    """The plane [y, x] of one chunk, as far as it lies in the array."""
    place: list[Any] = [0] * files.ndim
    place[axes[0]], place[axes[1]] = row, col
    chunk = files.read(tuple(place))
    for axis, index, length in zip(axes, (row, col), shape, strict=True):
        place[axis] = slice(0, length - index * chunk.shape[axis])
    for axis in set(range(files.ndim)) - set(axes):
        place[axis] = 0
    plane: npt.NDArray[Any] = chunk[tuple(place)]
    # A view would keep the rest of the chunk as well.
    return plane if plane.size == chunk.size else plane.copy()
