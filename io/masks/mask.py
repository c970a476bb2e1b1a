r"""Which label does each canvas pixel have?

A `LabelMask` is a checked, lazy view of a mask: nothing is read before it is sliced, every slice is uint8,
and a value that is no label stops the read with its value and its place. `safron.io.masks.open.open_mask` makes one
from a Zarr array, an OME-Zarr image, any image file that tifffile, libvips, OpenCV or OpenSlide reads, or an array in
memory::

    Zarr v2, v3            ArrayPlane  \
    array in memory, .npy  ArrayPlane   \
    TIFF                   TiffPlane     >  read(rows, cols) -> integers  ->  LabelMask: bounds, values, messages
    slide                  SlidePlane   /
    other image            VipsPlane   /
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, Failed, SafronError, one_line

from .chunk_cache import CACHE_BYTES, ChunkCache
from .fingerprint import content_facts, file_facts
from .packed_cache import PackedCache, cache_of
from .pixel_size import REMEDY
from .plane import Plane

Labels = npt.NDArray[np.uint8]
Reopen = tuple[Callable[..., "LabelMask"], tuple[Any, ...]]

MAX_SIDE = (1 << 32) - 1
"""Pixels a side that a TIFF can count; larger masks are refused when they are opened, whatever holds them."""


class LabelMask:
    """Lazy uint8 labels of a whole canvas.

    Masks opened from a path or URL are pickled by reopening them; reads from many threads are safe.

    Parameters
    ----------
    plane
        Where the pixels come from.
    source
        How messages call the mask.
    reopen
        A function and its arguments that make this mask again: a name, a path or URL, and whatever decides
        how its labels are read; None for an array in memory.
    beside
        Planes that cover the same canvas, by what they hold ("instances", "edges"), beside those that the plane brings along.

    Attributes
    ----------
    shape
        Height and width in pixels, exact, each from 1 to `MAX_SIDE`.
    mpp
        Micrometres along a pixel's side; None where unknown.
    chunks
        Height and width of what is decoded as one piece.
    notes
        What the user should know: what was not understood, taken for granted, or may be wrong.
    beside
        Further planes of the canvas, by what they hold.

    Raises
    ------
    BadInput
        Planes have different sizes, the plane is empty, or it has more than `MAX_SIDE` pixels a side.

    Examples
    --------
    >>> from safron.io import open_mask
    >>> mask = open_mask(np.eye(4, dtype="uint16"))
    >>> mask[1:3, 1:3]
    array([[1, 0],
           [0, 1]], dtype=uint8)
    """

    def __init__(
        self,
        plane: Plane,
        source: str,
        reopen: Reopen | None = None,
        *,
        beside: Mapping[str, Plane] | None = None,
    ) -> None:
        height, width = plane.shape
        if 0 in plane.shape:
            raise BadInput(
                f"mask {source}: it is empty ({height} x {width} pixels); it needs a pixel at least"
            )
        if max(plane.shape) > MAX_SIDE:
            raise BadInput(
                f"mask {source}: it declares {width} x {height} pixels (width x height), and a slide has at most "
                f"{MAX_SIDE} a side; cut it up, or correct its metadata"
            )
        self.plane = plane
        self.source = source
        self.shape = plane.shape
        self.mpp = plane.mpp
        self.chunks = plane.chunks
        self.notes = plane.notes
        self._reopen = reopen
        self._cache: ChunkCache | PackedCache | None = None
        planes = getattr(plane, "beside", {}) | dict(beside or {})
        self.beside = {name: Beside(other, name, source, self.shape) for name, other in planes.items()}

    @property
    def label_notes(self) -> tuple[str, ...]:
        """Those of the notes that a known pixel size does not answer."""
        return tuple(note for note in self.notes if not note.endswith(REMEDY))

    def __getitem__(self, region: tuple[slice, slice]) -> Labels:
        """Labels of a region.

        Parameters
        ----------
        region
            Two slices (y, x) without steps, inside the canvas.

        Returns
        -------
        Labels
            uint8 [y, x].

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
        values = read_plane((self._cache or self.plane).read, rows, cols, self.plane, f"mask {self.source}")
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
                    "labels are whole numbers from 0 to 255: translate others with safron-mask import --map"
                )
        return np.ascontiguousarray(values, np.uint8)

    def keep_chunks(self, *, block: int, workers: int, max_bytes: int = CACHE_BYTES) -> int:
        """From now on keep decoded chunks, for threads that read overlapping regions in raster order.

        Parameters
        ----------
        block
            Pixels a side of most regions.
        workers
            Threads that read at a time.
        max_bytes
            Memory for the chunks that are kept. At least one is kept, whatever its size.

        Returns
        -------
        int
            Upper bound on the memory that the chunks will take, including those being decoded.
        """
        if not self.plane.keep_chunks:
            return 0
        self._cache = cache_of(self.plane, block=block, workers=workers, max_bytes=max_bytes)
        others = self.beside.values()
        more = (other.keep_chunks(block=block, workers=workers, max_bytes=max_bytes) for other in others)
        return self._cache.nbytes + sum(more)

    def describe(self) -> dict[str, Any]:
        """Everything that is known without reading pixels, as JSON-ready values."""
        return {
            "source": self.source,
            "kind": self.plane.kind,
            "shape": list(self.shape),
            "dtype": str(self.plane.dtype),
            "chunks": list(self.chunks),
            "mpp": self.mpp,
        }

    def fingerprint(self) -> str:
        """Hash of the mask's content: of a copy it is the same, whatever the times of its files.

        Local files are read (as they are stored, so compressed), but not decoded; object stores answer with sizes
        and ETags.

        Raises
        ------
        OSError
            The files are gone, or their storage does not list them or does not say when they change.
        """
        return self._digest(content_facts)

    def change_token(self) -> str:
        """Hash of the names, sizes and times of the mask's files, which is cheap, for detecting changes while it is in use.

        Equal tokens mean an unchanged mask; different ones mean that its content may have changed.

        Raises
        ------
        OSError
            See `fingerprint`.
        """
        return self._digest(file_facts)

    def _digest(self, facts: Callable[[str], Iterator[str]]) -> str:
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
            for line in chain(facts(where), *(facts(other) for other in self._elsewhere)):
                digest.update(line.encode())
        return digest.hexdigest()

    @property
    def planes_beside(self) -> dict[str, Plane]:
        """Planes of the same canvas, by what they hold."""
        return {name: other.plane for name, other in self.beside.items()}

    @property
    def _elsewhere(self) -> list[str]:
        """Paths of the planes beside this one that lie in files of their own."""
        assert self._reopen is not None
        return [path for given in self._reopen[1] if isinstance(given, Elsewhere) for _, path in given.paths]

    @property
    def in_memory(self) -> bool:
        """Whether it is an array of this process, which no other process can open."""
        return self._reopen is None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is None:
            return partial(LabelMask, beside=self.planes_beside), (self.plane, self.source)
        return self._reopen

    def __repr__(self) -> str:
        return f"LabelMask({self.source}, {self.shape[0]} x {self.shape[1]}, {self.plane.kind})"


@dataclass(frozen=True)
class Elsewhere:
    """Paths of planes that lie in files of their own, by what they hold."""

    paths: tuple[tuple[str, str], ...]


def read_plane(
    read: Callable[[slice, slice], npt.NDArray[Any]], rows: slice, cols: slice, plane: Plane, source: str
) -> npt.NDArray[Any]:
    """Read pixels [y, x] or [y, x, channel] of a plane, by a function of it or of a cache before it.

    Raises
    ------
    BadInput
        What the plane says of its pixels, after `source`.
    Failed
        The file is damaged, or its storage does not answer.
    """
    try:
        return read(rows, cols)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None
    except (SafronError, MemoryError):
        raise
    except Exception as error:  # zarr, its codecs and stores, tifffile and libvips share no base class
        raise Failed(f"{source}: cannot read {plane.blame(rows, cols)}: {one_line(error)}") from error


class Beside(LabelMask):
    """A plane beside the labels: whole numbers of any size.

    Parameters
    ----------
    plane
        Where they come from.
    name
        What it holds. "instances" are numbers of nuclei, 0 where there is none; they need not be consecutive.
    source
        How messages call the mask.
    shape
        Height and width of the mask's labels, in pixels.

    Raises
    ------
    BadInput
        Its size is another.
    """

    def __init__(self, plane: Plane, name: str, source: str, shape: tuple[int, int]) -> None:
        super().__init__(plane, f"{source}, {name}")
        if plane.shape != shape:
            raise BadInput(
                f"mask {source}: its {name} are {plane.shape[1]} x {plane.shape[0]} pixels and its labels "
                f"{shape[1]} x {shape[0]} (width x height); they must have one size"
            )

    def _as_labels(self, values: npt.NDArray[Any], y: int, x: int) -> npt.NDArray[Any]:
        return np.ascontiguousarray(values)


def _bounded(part: slice, size: int) -> slice:
    start = 0 if part.start is None else operator.index(part.start)
    stop = size if part.stop is None else operator.index(part.stop)
    if part.step not in (None, 1) or not 0 <= start <= stop <= size:
        raise IndexError(f"slice {start}:{stop} with step {part.step} of an axis with {size} pixels")
    return slice(start, stop)
