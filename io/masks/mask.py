r"""Which label does each canvas pixel have?

A `LabelMask` is a checked, lazy view of a mask: nothing is read before it is sliced, every slice is uint8,
and a value that is no label stops the read with its value and its place. `safron.io.masks.open.open_mask` makes one
from a Zarr array, an OME-Zarr image, any image file that tifffile, libvips or OpenSlide reads, or an array in memory::

    Zarr v2, v3     ArrayPlane  \
    array in memory ArrayPlane   \
    TIFF            TiffPlane     >  read(rows, cols) -> integers  ->  LabelMask: bounds, values, messages
    slide           SlidePlane   /
    other image     VipsPlane   /
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, Failed, SafronError, one_line

from .chunk_cache import ChunkCache
from .fingerprint import file_facts
from .plane import Plane

Labels = npt.NDArray[np.uint8]
Reopen = tuple[Callable[..., "LabelMask"], tuple[Any, ...]]


class LabelMask:
    """Lazy uint8 labels of a whole canvas.

    Masks opened from a path or URL are pickled by reopening them; reads from many threads are safe.

    Parameters
    ----------
    plane : where the pixels come from.
    source : how messages call the mask.
    reopen : a function, and its arguments, that make this mask again: a name, a path or URL, and whatever decides how
        its labels are read; None for an array in memory.

    Examples
    --------
    >>> from safron.io import open_mask
    >>> mask = open_mask(np.eye(4, dtype="uint16"))
    >>> mask[1:3, 1:3]
    array([[1, 0],
           [0, 1]], dtype=uint8)
    """

    def __init__(self, plane: Plane, source: str, reopen: Reopen | None = None) -> None:
        if 0 in plane.shape:
            raise BadInput(
                f"mask {source}: it is empty ({plane.shape[0]} x {plane.shape[1]} pixels); it needs a pixel at least"
            )
        self.plane = plane
        self.source = source
        self.shape = plane.shape
        self.mpp = plane.mpp
        self.chunks = plane.chunks
        self.notes = plane.notes
        self._reopen = reopen
        self._cache: ChunkCache | None = None

    def __getitem__(self, region: tuple[slice, slice]) -> Labels:
        """Labels of a region.

        Parameters
        ----------
        region : two slices (y, x) without steps, inside the canvas.

        Returns
        -------
        labels : uint8 [y, x]

        Raises
        ------
        BadInput
            A value in the region is not a label.
        Failed
            The file is damaged, or its storage does not answer.
        """
        rows, cols = (_bounded(part, size) for part, size in zip(region, self.shape, strict=True))
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        if 0 in shape:
            return np.zeros(shape, np.uint8)
        try:
            values = (self._cache or self.plane).read(rows, cols)
        except BadInput as error:
            raise BadInput(f"mask {self.source}: {error}") from None
        except (SafronError, MemoryError):
            raise
        except Exception as error:  # zarr, its codecs and stores, tifffile and libvips share no base class
            place = self.plane.blame(rows, cols)
            raise Failed(f"mask {self.source}: cannot read {place}: {one_line(error)}") from error
        return self._as_labels(values, rows.start, cols.start)

    def _as_labels(self, values: npt.NDArray[Any], y: int, x: int) -> Labels:
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values)
        if values.dtype != np.bool_:
            bad = values > 255
            if values.dtype.kind == "i":
                bad |= values < 0
            if bad.any():
                row, col = np.unravel_index(int(bad.argmax()), bad.shape)
                raise BadInput(
                    f"mask {self.source}: value {values[row, col]} at row {y + row}, column {x + col}; "
                    "labels are whole numbers from 0 to 255"
                )
        return np.ascontiguousarray(values, np.uint8)

    def keep_chunks(self, *, block: int, workers: int) -> int:
        """From now on keep decoded chunks for `workers` that read about `block` x `block` pixels at a time.

        Returns
        -------
        nbytes : the most memory that they will take.
        """
        if not self.plane.keep_chunks:
            return 0
        self._cache = ChunkCache(self.plane, block, workers)
        return self._cache.nbytes

    def describe(self) -> dict[str, Any]:
        """Everything known without reading pixels, as JSON-ready values."""
        return {
            "source": self.source,
            "kind": self.plane.kind,
            "shape": list(self.shape),
            "dtype": str(self.plane.dtype),
            "chunks": list(self.chunks),
            "mpp": self.mpp,
        }

    def stamp(self) -> str:
        """Hash that changes when the mask's content may have changed.

        Files answer with their names, sizes and times (on object stores with their ETags), so that a huge
        mask is not read; arrays in memory answer with their content.

        Raises
        ------
        OSError
            The files are gone, or their storage does not list them or does not say when they change.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.shape, str(self.plane.dtype))).encode())
        if self._reopen is None:
            for y in range(0, self.shape[0], 1024):
                for x in range(0, self.shape[1], 8192):
                    part = self[y : min(y + 1024, self.shape[0]), x : min(x + 8192, self.shape[1])]
                    digest.update(part.tobytes())
        else:
            _, (_, where, *reading) = self._reopen
            digest.update(repr(tuple(reading)).encode())
            for line in file_facts(where):
                digest.update(line.encode())
        return digest.hexdigest()

    @property
    def in_memory(self) -> bool:
        """Whether it is an array of this process, which other processes cannot open."""
        return self._reopen is None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is None:
            return LabelMask, (self.plane, self.source)
        return self._reopen

    def __repr__(self) -> str:
        return f"LabelMask({self.source}, {self.shape[0]} x {self.shape[1]}, {self.plane.kind})"


# Small things


def _bounded(part: slice, size: int) -> slice:
    start = 0 if part.start is None else operator.index(part.start)
    stop = size if part.stop is None else operator.index(part.stop)
    if part.step not in (None, 1) or not 0 <= start <= stop <= size:
        raise IndexError(f"slice {start}:{stop} with step {part.step} of an axis with {size} pixels")
    return slice(start, stop)
