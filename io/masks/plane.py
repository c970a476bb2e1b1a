"""What does a mask need of a source of pixels?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

ZARR_MARKERS = ("zarr.json", ".zarray", ".zgroup")
"""A folder that holds one of these files is a Zarr array or group."""

ACCEPTED = (
    "a mask is a Zarr array or an OME-Zarr image (a folder, .zip or .ozx), a NumPy file (.npy), or a PNG, TIFF, BMP or "
    "other image; save the labels as one of these"
)

ReadChunk = Callable[[int, int], npt.NDArray[Any]]
"""Reads the chunk of a row and a column of chunks: integers [y, x], cut at the edges of the array."""


class Plane(Protocol):
    """A source of pixels, as `LabelMask` uses it.

    Attributes
    ----------
    kind
        What it is, for messages.
    shape
        Height and width in pixels.
    dtype
        Of the stored values.
    chunks
        Height and width of what is stored, and decoded, as one piece.
    mpp
        Micrometres along a pixel's side; None where unknown.
    notes
        What the user should know.
    keep_chunks
        Whether decoding takes so long that decoded chunks are worth keeping.
    read_chunk
        Decodes one whole chunk, where that costs less than `read` of it; None elsewhere.
    """

    kind: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: tuple[int, int]
    mpp: float | None
    notes: tuple[str, ...]
    keep_chunks: bool
    read_chunk: ReadChunk | None

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region; safe to call from many threads."""

    def blame(self, rows: slice, cols: slice) -> str:
        """Name the file or chunk that makes reading this region fail."""
