"""How is a Zarr array on this machine's disk read without Zarr's pipeline?

Zarr passes each chunk through half a dozen coroutines, which takes longer than decoding it. Where a chunk is one
file and its codecs are common ones, this module calls their packages directly; every other array is left to Zarr.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from itertools import product
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore

from .blosc_blocks import BloscChunk

Decode = Callable[[Any], Any]

# Compressors of Zarr v3 that numcodecs decodes, whatever their settings.
_PACKED = ("blosc", "gzip", "zstd")
_CRC32C_RESIDUE = 0x48674BC7
_FEWEST_BLOCKS = 4
"""Blocks of a chunk from which on it is worth unpacking some of them."""


class ChunkFiles:
    """Reads whole chunks of an array that stores each chunk as one file.

    Parameters
    ----------
    array
        The array.
    steps
        Functions that turn the bytes of a file into those of its values, in this order.
    dtype
        Of the values.

    Attributes
    ----------
    folder
        Of the array.
    chunks
        Shape of a chunk, which may reach beyond the array.
    ndim
        Number of axes of the array.
    dtype
        Of the values as they are stored.
    in_blocks
        Whether a few rows of a chunk can be unpacked, faster than all of it; see `packed`.
    """

    in_blocks = False

    def __init__(self, array: zarr.Array[Any], steps: list[Decode], dtype: np.dtype[Any]) -> None:
        assert isinstance(array.store, LocalStore)
        self.folder = array.store.root / array.path
        self._metadata = array.metadata
        self.chunks = array.chunks
        # A chunk that is not stored needs no more than the array has, and a declared chunk may be of any size.
        self._absent = tuple(map(min, array.chunks, array.shape))
        self.ndim = array.ndim
        self._steps = steps
        self.dtype = dtype

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> ChunkFiles | None:
        """Make the reader of an array; None where only Zarr can read it."""
        metadata = array.metadata
        if not isinstance(array.store, LocalStore):
            return None
        if metadata.zarr_format == 2:
            if metadata.order != "C" or metadata.filters:
                return None
            packed = metadata.compressor
            steps: list[Decode] = []
            if packed is not None:
                steps = [_unpack_blosc if packed.codec_id == "blosc" else packed.decode]
            return cls(array, steps, metadata.dtype.to_native_dtype())
        first, *others = (dict(codec.to_dict()) for codec in metadata.codecs)
        if first["name"] != "bytes" or not all(codec["name"] in (*_PACKED, "crc32c") for codec in others):
            return None
        settings: Any = first.get("configuration", {})
        order: Any = settings.get("endian") or "little"
        steps = [_decoder(str(codec["name"])) for codec in reversed(others)]
        files = cls(array, steps, np.dtype(metadata.data_type.to_native_dtype()).newbyteorder(order))
        files.in_blocks = len(others) == 1 and array.ndim == 2 and _has_blocks(others[0], files._chunk_bytes)
        return files

    def read_region(self, region: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Decode a region, given as one bounded slice per axis."""
        out = np.empty([part.stop - part.start for part in region], self.dtype)
        return assemble(region, self.chunks, out, self.read)

    def read(self, index: tuple[int, ...]) -> npt.NDArray[Any]:
        """Decode one chunk, read-only, including the pixels that it holds beyond the edges of the array.

        Raises
        ------
        Exception
            Of any kind, where the file is damaged.
        """
        data: Any = self._stored(index)
        if data is None:
            return np.broadcast_to(self.fill, self._absent)
        for step in self._steps:
            data = step(data)
        return np.frombuffer(data, self.dtype).reshape(self.chunks)

    def packed(self, index: tuple[int, ...]) -> BloscChunk | None:
        """Read one chunk of an array with `in_blocks` as it is stored; None if it is not.

        Raises
        ------
        Exception
            Of any kind, where the file is damaged.
        """
        data = self._stored(index)
        return None if data is None else BloscChunk(data, self._chunk_bytes)

    @property
    def fill(self) -> npt.NDArray[Any]:
        """Value [] of the chunks that are not stored."""
        fill = self._metadata.fill_value
        return np.asarray(0 if fill is None else fill, self.dtype)

    @property
    def _chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize

    def _stored(self, index: tuple[int, ...]) -> bytes | None:
        try:
            return _file_bytes(f"{self.folder}/{self._metadata.encode_chunk_key(index)}")
        except FileNotFoundError:
            return None


def assemble(
    region: tuple[slice, ...],
    chunks: tuple[int, ...],
    out: npt.NDArray[Any],
    read: Callable[[tuple[int, ...]], npt.NDArray[Any]],
) -> npt.NDArray[Any]:
    """Fill `out` with a region of an array, chunk by chunk.

    Parameters
    ----------
    region
        One bounded slice per axis.
    chunks
        Shape of a chunk.
    out
        Array of the region's shape.
    read
        Returns the chunk at an index; at the far edges of the array it may be larger than needed.
    """
    spans = zip(region, chunks, strict=True)
    for index in product(*(range(part.start // size, -(-part.stop // size)) for part, size in spans)):
        starts = [place * size for place, size in zip(index, chunks, strict=True)]
        firsts = [max(part.start, start) for part, start in zip(region, starts, strict=True)]
        lasts = [
            min(part.stop, start + size) for part, start, size in zip(region, starts, chunks, strict=True)
        ]
        to = tuple(
            slice(lo - part.start, hi - part.start)
            for lo, hi, part in zip(firsts, lasts, region, strict=True)
        )
        of = tuple(slice(lo - start, hi - start) for lo, hi, start in zip(firsts, lasts, starts, strict=True))
        out[to] = read(index)[of]
    return out


def _file_bytes(path: str) -> bytes:
    """Content of a regular file; opening a pipe would wait for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is a pipe or a device")
        return file.read()


def _has_blocks(codec: dict[str, Any], chunk_bytes: int) -> bool:
    """Whether a codec is one whose blocks cost less to unpack again than to keep: LZ4, in blocks much smaller than a chunk."""
    settings = codec.get("configuration", {})
    if codec["name"] != "blosc" or str(settings.get("cname")) not in ("lz4", "lz4hc"):
        return False
    size = settings.get("blocksize")
    return isinstance(size, int) and 0 < size * _FEWEST_BLOCKS <= chunk_bytes


def _decoder(name: str) -> Decode:
    if name == "crc32c":
        return checked
    return _unpack_blosc if name == "blosc" else numcodecs.get_codec({"id": name}).decode


def _unpack_blosc(data: bytes | memoryview) -> Any:
    # Blosc trusts the size in its header and would read beyond a truncated buffer.
    if int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError(f"has {len(data)} bytes, but its Blosc header says otherwise")
    return numcodecs.Blosc().decode(data)


def checked(data: bytes) -> memoryview:
    """Verify and remove the checksum that Zarr's codec CRC32C appends to the bytes.

    Raises
    ------
    ValueError
        When it does not match.
    """
    # Any bytes followed by their own CRC32C have the same CRC32C.
    if google_crc32c.value(data) != _CRC32C_RESIDUE:
        raise ValueError("the checksum of a chunk does not match")
    return memoryview(data)[:-4]
