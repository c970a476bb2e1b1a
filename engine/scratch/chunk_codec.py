"""How is an array encoded as one Zarr chunk, without Zarr's own calls?"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import numpy.typing as npt
from safron.io.masks.zarr_chunks import checked


def encode_chunk(values: npt.NDArray[Any]) -> bytes:
    """Encode values as Zarr does with the codecs Blosc (LZ4) and CRC32C.

    Zarr's own calls take a millisecond or two each, on an event loop that all threads share.
    """
    # Sums of flat weights have an empty top byte, so fast compression is enough.
    packed = numcodecs.Blosc("lz4", clevel=1, typesize=values.itemsize).encode(values)
    return packed + google_crc32c.value(packed).to_bytes(4, "little")  # type: ignore[no-any-return]


def decode_chunk(chunk: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Decode what `encode_chunk` made: values [n].

    Raises
    ------
    ValueError
        The chunk is damaged.
    """
    return np.frombuffer(numcodecs.Blosc("lz4").decode(checked(chunk)), dtype)
