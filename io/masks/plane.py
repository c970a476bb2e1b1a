"""What does a mask need of a source of pixels?"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .chunk_cache import ReadChunk

ZARR_MARKERS = ("zarr.json", ".zarray", ".zgroup")
"""A folder that holds one of these is a Zarr array or group."""

UM_PER_UNIT = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25400.0,
}
"""Units of length that OME-Zarr writers use, in micrometres."""

ACCEPTED = "a mask is a Zarr array, an OME-Zarr image, or a PNG, TIFF or other image"


class Plane(Protocol):
    """What `LabelMask` needs of a source of pixels."""

    kind: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: tuple[int, int]
    mpp: float | None
    notes: tuple[str, ...]
    keep_chunks: bool  # whether decoding takes so long that decoded chunks are worth keeping
    read_chunk: ReadChunk | None  # decodes one whole chunk, where that costs less than `read` of it

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Integers [y, x] of an in-bounds region; safe to call from many threads."""

    def blame(self, rows: slice, cols: slice) -> str:
        """Name the file or chunk that makes reading this region fail."""
