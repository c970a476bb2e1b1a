"""Chunks of a mask: decoded without Zarr's pipeline as Zarr decodes them, and once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from safron.io.errors import Failed
from safron.io.masks.chunk_cache import ChunkCache
from safron.io.masks.open import open_mask
from safron.io.masks.zarr_chunks import ChunkFiles
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

LABELS = np.random.default_rng(0).integers(0, 200, (100, 130)).astype(np.uint16)

PLAIN: dict[str, dict[str, Any]] = {
    "default": {},
    "v2": {"zarr_format": 2},
    "v2 big-endian": {"zarr_format": 2, "dtype": ">u2"},
    "v2 nested": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v2 packed by nothing": {"zarr_format": 2, "compressors": None},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("zstd", shuffle=2)},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "v2 with settings that decoding needs": {"zarr_format": 2, "compressors": numcodecs.Shuffle(2)},
    "v2 LZMA": {"zarr_format": 2, "compressors": numcodecs.LZMA(format=2)},
    "blosc": {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle")},
    "gzip": {"compressors": GzipCodec()},
    "with a checksum": {"compressors": [ZstdCodec(checksum=True), Crc32cCodec()]},
    "packed by nothing": {"compressors": None},
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "one chunk": {"chunks": (200, 200)},
}
LEFT_TO_ZARR: dict[str, dict[str, Any]] = {
    "sharded": {"chunks": (16, 16), "shards": (32, 48)},
    "transposed": {"filters": [TransposeCodec(order=(1, 0))]},
    "v2 column by column": {"zarr_format": 2, "order": "F"},
}


def write(path: Path, options: dict[str, Any]) -> zarr.Array[Any]:
    settings = {"chunks": (32, 48), "dtype": "uint16", "fill_value": 7} | options
    array = zarr.create_array(path, shape=LABELS.shape, **settings)
    array[:64] = LABELS[:64]  # the chunks below are not stored
    return zarr.open_array(path, mode="r")


def whole(array: zarr.Array[Any], files: ChunkFiles) -> npt.NDArray[Any]:
    """The array put together from its chunks."""
    rows, columns = (
        range(-(-length // step)) for length, step in zip(array.shape, array.chunks, strict=True)
    )
    padded = np.block([[files.read((row, column)) for column in columns] for row in rows])
    return padded[: array.shape[0], : array.shape[1]]


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_chunks_are_what_zarr_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    array = write(tmp_path / "a.zarr", options)
    files = ChunkFiles.of(array)
    assert files is not None
    found = whole(array, files)
    np.testing.assert_array_equal(found, array[:])
    assert (found[64:] == 7).all() or array.chunks[0] > 100


@pytest.mark.parametrize("options", LEFT_TO_ZARR.values(), ids=LEFT_TO_ZARR)
def test_other_arrays_are_left_to_zarr(tmp_path: Path, options: dict[str, Any]) -> None:
    array = write(tmp_path / "a.zarr", options)
    assert ChunkFiles.of(array) is None
    mask = open_mask(tmp_path / "a.zarr")
    np.testing.assert_array_equal(mask[10:90, 5:120], array[10:90, 5:120])


def test_arrays_that_are_no_files_are_left_to_zarr() -> None:
    assert ChunkFiles.of(zarr.create_array({}, shape=(4, 4), dtype="uint8")) is None


@pytest.mark.parametrize(
    ("shape", "chunks", "axes"),
    [
        ((2000, 30), (64, 512), (0, 1)),
        ((30, 2000), (512, 64), (0, 1)),
        ((1, 300, 1, 200), (1, 64, 16, 64), (1, 3)),
    ],
)
def test_no_more_is_kept_than_was_said(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], axes: tuple[int, int]
) -> None:
    """Chunks may be larger than the array, and hold other planes."""
    data = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)
    zarr.create_array(tmp_path / "a.zarr", data=data, chunks=chunks)
    plane = open_mask(tmp_path / "a.zarr").plane
    cache, (height, width) = ChunkCache(plane, 128, 2), plane.shape
    for y, x in product(range(0, height, 90), range(0, width, 90)):
        part = cache.read(slice(y, min(y + 90, height)), slice(x, min(x + 90, width)))
        np.testing.assert_array_equal(part, data.reshape(plane.shape)[y : y + 90, x : x + 90])
    kept = [chunk if chunk.base is None else chunk.base for chunk in cache._kept.values()]
    held = sum(len(chunk) if isinstance(chunk, bytes) else chunk.nbytes for chunk in kept)
    assert 0 < held <= cache.nbytes


def test_one_plane_of_more_axes(tmp_path: Path) -> None:
    data = LABELS[None, :, None]
    zarr.create_array(tmp_path / "a.zarr", data=data, chunks=(1, 32, 1, 48))
    mask = open_mask(tmp_path / "a.zarr")
    assert mask.plane.read_chunk is not None
    mask.keep_chunks(block=64, workers=1)
    np.testing.assert_array_equal(mask[3:99, 40:130], LABELS[3:99, 40:130])


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "not kept"])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(
    "name", ["default", "with a checksum", "blosc", "gzip", "packed by nothing", "v2", "v2 blosc"]
)
def test_a_truncated_chunk_is_named(tmp_path: Path, name: str, axes: int, keep: bool) -> None:
    chunks = (1, 32, 48)[3 - axes :]
    zarr.create_array(
        tmp_path / "a.zarr", data=LABELS[None] if axes == 3 else LABELS, chunks=chunks, **PLAIN[name]
    )
    place = "1.2" if name.startswith("v2") else "1/2"
    place = ("0." if name.startswith("v2") else "0/") * (axes - 2) + place
    file = tmp_path / "a.zarr" / (place if name.startswith("v2") else f"c/{place}")
    file.write_bytes(file.read_bytes()[:-6])
    mask = open_mask(tmp_path / "a.zarr")
    if keep:
        mask.keep_chunks(block=64, workers=1)
    with pytest.raises(Failed, match=rf"cannot read chunk (c/)?{place}: "):
        mask[0:100, 0:130]
    np.testing.assert_array_equal(mask[0:32, 0:130], LABELS[0:32])


def test_a_chunk_with_a_wrong_byte_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", PLAIN["with a checksum"])
    file = tmp_path / "a.zarr/c/1/2"
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    mask = open_mask(tmp_path / "a.zarr")
    mask.keep_chunks(block=64, workers=1)
    with pytest.raises(Failed, match=r"cannot read chunk c/1/2: .*checksum"):
        mask[0:100, 0:130]
    np.testing.assert_array_equal(mask[0:32, 0:130], LABELS[0:32])


@pytest.mark.parametrize("options", [{}, LEFT_TO_ZARR["sharded"]], ids=["files", "sharded"])
def test_the_cache_gives_any_window_and_reads_a_chunk_once(tmp_path: Path, options: dict[str, Any]) -> None:
    array = write(tmp_path / "a.zarr", options)
    values = array[:]
    plane = open_mask(tmp_path / "a.zarr").plane
    read: list[tuple[int, int]] = []
    inner = plane.read_chunk
    if inner is not None:

        def counted(row: int, col: int) -> npt.NDArray[Any]:
            read.append((row, col))
            return inner(row, col)

        plane.read_chunk = counted
    cache = ChunkCache(plane, 96, 2)
    rng = np.random.default_rng(1)
    places = [
        (slice(*sorted(rng.choice(101, 2, replace=False))), slice(*sorted(rng.choice(131, 2, replace=False))))
        for _ in range(60)
    ]
    with ThreadPoolExecutor(1) as threads:
        for place, found in zip(places, threads.map(lambda place: cache.read(*place), places), strict=True):
            np.testing.assert_array_equal(found, values[place])
    assert len(read) == len(set(read))
    # More chunks than are kept at a time, by many threads.
    small = ChunkCache(plane, 32, 0)
    with ThreadPoolExecutor(4) as threads:
        for place, found in zip(places, threads.map(lambda place: small.read(*place), places), strict=True):
            np.testing.assert_array_equal(found, values[place])


@pytest.mark.parametrize("chunks", [(300, 400), (150, 200)])
def test_chunks_too_large_to_keep_many_are_unpacked_one_at_a_time(
    tmp_path: Path, chunks: tuple[int, int]
) -> None:
    """A chunk that is the whole mask is decoded once."""
    labels = np.random.default_rng(0).integers(0, 3, (300, 400)).astype(np.int32)
    zarr.create_array(tmp_path / "a.zarr", data=labels, chunks=chunks)
    plane = open_mask(tmp_path / "a.zarr").plane
    inner = plane.read_chunk
    assert inner is not None
    at_work, most, read = [0], [0], []

    def counted(row: int, col: int) -> npt.NDArray[Any]:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        read.append((row, col))
        try:
            return inner(row, col)
        finally:
            at_work[0] -= 1

    plane.read_chunk = counted
    cache = ChunkCache(plane, 32, 8, max_bytes=1000)
    assert cache.nbytes >= 3 * 4 * chunks[0] * chunks[1]
    places = [(slice(y, y + 40), slice(x, x + 40)) for y in range(0, 260, 30) for x in range(0, 360, 30)]
    with ThreadPoolExecutor(8) as threads:
        for place, found in zip(places, threads.map(lambda place: cache.read(*place), places), strict=True):
            np.testing.assert_array_equal(found, labels[place])
    assert most[0] == len(cache._kept) == 1
    assert len(read) == 1 or chunks != labels.shape


def counting(plane: Any) -> list[tuple[int, int]]:
    """Count the chunks that a plane decodes."""
    decoded: list[tuple[int, int]] = []
    inner = plane.read_chunk

    def counted(row: int, col: int) -> npt.NDArray[Any]:
        decoded.append((row, col))
        time.sleep(0.002)  # others ask for it meanwhile
        return inner(row, col)

    plane.read_chunk = counted
    return decoded


@pytest.mark.parametrize("chunk", [64, 100, 150, 400])
@pytest.mark.parametrize("workers", [1, 4])
def test_large_chunks_are_decoded_once_in_raster_order(tmp_path: Path, chunk: int, workers: int) -> None:
    """Blocks of 64 with 10 pixels around them, row by row, as a render reads them."""
    labels = np.random.default_rng(0).integers(0, 200, (400, 640), dtype=np.uint8)
    zarr.create_array(tmp_path / "a.zarr", data=labels, chunks=(chunk, chunk))
    plane = open_mask(tmp_path / "a.zarr").plane
    decoded = counting(plane)
    cache = ChunkCache(plane, 64, workers)
    places = [
        (slice(max(0, y - 10), min(y + 74, 400)), slice(max(0, x - 10), min(x + 74, 640)))
        for y in range(0, 400, 64)
        for x in range(0, 640, 64)
    ]
    with ThreadPoolExecutor(workers) as threads:
        for place, found in zip(places, threads.map(lambda place: cache.read(*place), places), strict=True):
            np.testing.assert_array_equal(found, labels[place])
    assert len(decoded) == len(set(decoded))
    held = sum(chunk.nbytes for chunk in cache._kept.values())
    assert held <= cache.nbytes


def test_the_memory_for_large_chunks_is_kept_to(tmp_path: Path) -> None:
    labels = np.zeros((512, 512), np.uint8)
    zarr.create_array(tmp_path / "a.zarr", data=labels, chunks=(128, 128))
    plane = open_mask(tmp_path / "a.zarr").plane
    sizes = [ChunkCache(plane, 64, 2, max_bytes=limit)._count for limit in (1, 4 << 14, 9 << 14, 1 << 30)]
    assert sizes == [1, 4, 9, 16]


def test_a_chunk_that_fails_is_tried_by_each_that_waits(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=LABELS, chunks=(100, 130))
    (tmp_path / "a.zarr/c/0/0").write_bytes(b"no zstd")
    mask = open_mask(tmp_path / "a.zarr")
    decoded = counting(mask.plane)
    mask.keep_chunks(block=64, workers=4)

    def fail(place: int) -> bool:
        with pytest.raises(Failed, match="cannot read chunk c/0/0"):
            mask[place : place + 5, 0:9]
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(fail, range(8)))
    assert len(decoded) == 8
