"""Numbers of nuclei: chunks of which some rows are unpacked give what Zarr reads, and take less memory than whole ones."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from models import EdgeModel
from safron.engine import render
from safron.engine.generator.card import Edges
from safron.io.errors import Failed
from safron.io.masks.blosc_blocks import BloscChunk
from safron.io.masks.chunk_cache import ChunkCache
from safron.io.masks.open import open_mask
from safron.io.masks.packed_cache import PackedCache
from safron.io.masks.write_nuclei import BLOCK_BYTES, write_nuclei

Region = tuple[slice, slice]

HEIGHT, WIDTH = 2100, 1300
BLOBS = np.repeat(np.repeat(np.arange(1, 88 * 109 + 1).reshape(88, 109), 24, 0), 12, 1)[:HEIGHT, :WIDTH]
NOISE = np.random.default_rng(0).integers(0, 256, 1 << 19).astype(np.uint8)
BYTES = {
    "numbers": (BLOBS[:1000, :500] * np.uint32(7)).reshape(-1).view(np.uint8),
    "numbers whose last block is short": (BLOBS[:1000, :500] * np.uint32(7))
    .reshape(-1)
    .view(np.uint8)[:-999],
    "noise, which is stored as it is": NOISE,
}
PACKED = {
    "as numbers are written": numcodecs.Blosc("lz4hc", 7, numcodecs.Blosc.NOSHUFFLE, BLOCK_BYTES),
    "shuffled": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE, 1 << 16, 4),
    "shuffled by bits": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE, 1 << 16, 2),
    "not by LZ4": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.NOSHUFFLE, 1 << 16),
    "in one block": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.NOSHUFFLE, 1 << 22),
}


def in_another_order(packed: bytes) -> bytes:
    """The same chunk with its blocks written from the last to the first, as threads may do."""
    size, block = struct.unpack_from("<II", packed, 4)
    count = -(-size // block)
    starts = struct.unpack_from(f"<{count}I", packed, 16)
    bodies = [packed[lo:hi] for lo, hi in zip(starts, (*starts[1:], len(packed)), strict=True)]
    ends = np.cumsum([len(body) for body in bodies[::-1]])[::-1]
    moved = [16 + 4 * count + int(end) - len(body) for end, body in zip(ends, bodies, strict=True)]
    return packed[:16] + struct.pack(f"<{count}I", *moved) + b"".join(bodies[::-1])


@pytest.mark.parametrize("codec", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("values", BYTES.values(), ids=BYTES)
def test_any_part_of_a_chunk(values: npt.NDArray[np.uint8], codec: numcodecs.Blosc) -> None:
    packed, size = codec.encode(values), len(values)
    rng = np.random.default_rng(1)
    ranges = [sorted(rng.choice(size + 1, 2, replace=False)) for _ in range(40)]
    versions = [packed]
    if not packed[2] & 2 and BloscChunk(packed, size)._starts:
        versions.append(in_another_order(packed))
        assert bytes(numcodecs.Blosc().decode(versions[1])) == values.tobytes()
    for version in versions:
        chunk = BloscChunk(version, size)
        for start, stop in [*ranges, (0, size), (size - 1, size), (0, 1)]:
            assert chunk.unpack(start, stop) == values[start:stop].tobytes()


@given(st.binary(max_size=80), st.integers(1, 1 << 20))
def test_what_is_no_chunk_is_refused_or_read_as_blosc_does(data: bytes, size: int) -> None:
    with pytest.raises(ValueError, match=r"has \d+ bytes"):
        BloscChunk(data, size)
    broken = struct.pack("<4B3I", 2, 1, 0x20, 1, size, max(1, size // 3), 16 + len(data)) + data
    chunk = BloscChunk(broken, size)
    try:
        found = chunk.unpack(0, size)
    except (RuntimeError, ValueError):
        return
    assert len(found) <= size


def write(path: Path, most: int, numbers: npt.NDArray[Any]) -> Path:
    def paint(rows: slice, cols: slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        part = numbers[rows, cols]
        return (part > 0).astype(np.uint8), part

    write_nuclei(path, paint, height=HEIGHT, width=WIDTH, most=most)
    return path


@pytest.fixture(scope="module", params=[60_000, 600_000], ids=["16 bits", "32 bits"])
def mask(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A mask whose chunk at the lower right holds no number, and its numbers."""
    numbers = BLOBS.astype(np.uint32) + (request.param - int(BLOBS.max()))
    numbers[::3] = 0
    numbers[1024:, 1024:] = 0
    return write(tmp_path_factory.mktemp("mask") / "m.zarr", request.param, numbers), numbers


def test_plain_zarr_reads_what_was_written(mask: tuple[Path, Any]) -> None:
    path, numbers = mask
    array = zarr.open_array(path / "labels/instance/0", mode="r")
    assert [codec.to_dict()["name"] for codec in array.metadata.codecs] == ["bytes", "blosc"]
    np.testing.assert_array_equal(array[:], numbers)
    packed = (path / "labels/instance/0/c/0/0").read_bytes()
    assert struct.unpack_from("<I", packed, 8) == (BLOCK_BYTES,)
    assert len(packed) < 1024 * 1024 * array.dtype.itemsize / 20


def windows(count: int) -> list[Region]:
    rng = np.random.default_rng(2)
    pairs = [
        [sorted(rng.choice(size + 1, 2, replace=False)) for size in (HEIGHT, WIDTH)] for _ in range(count)
    ]
    return [(slice(*map(int, rows)), slice(*map(int, cols))) for rows, cols in pairs]


def test_any_window_by_many_threads(mask: tuple[Path, Any]) -> None:
    path, numbers = mask
    opened = open_mask(path)
    beside = opened.beside["instances"]
    opened.keep_chunks(block=512, workers=2)
    assert isinstance(beside._cache, PackedCache)
    places = windows(40)
    with ThreadPoolExecutor(4) as threads:
        for place, found in zip(places, threads.map(beside.__getitem__, places), strict=True):
            assert found.dtype == (np.uint16 if numbers.max() < 1 << 16 else np.uint32)
            np.testing.assert_array_equal(found, numbers[place])


def test_rows_are_read_of_a_chunk_that_is_damaged_elsewhere(mask: tuple[Path, Any], tmp_path: Path) -> None:
    """So no more is unpacked than is needed; and what is damaged is named."""
    numbers = np.array(mask[1])
    path = write(tmp_path / "m.zarr", int(numbers.max()), numbers)
    file = path / "labels/instance/0/c/0/0"
    data = bytearray(file.read_bytes())
    second, third = struct.unpack_from("<2I", data, 20)
    data[second:third] = b"\xff" * (third - second)
    file.write_bytes(data)
    opened = open_mask(path)
    opened.keep_chunks(block=512, workers=1)
    rows = BLOCK_BYTES // (1024 * opened.beside["instances"].plane.dtype.itemsize)
    above = slice(0, rows), slice(3, 1200)
    below = slice(2 * rows, 700), slice(3, 1200)
    for place in (above, below):
        np.testing.assert_array_equal(opened.beside["instances"][place], numbers[place])
    with pytest.raises(Failed, match=r"instances: cannot read chunk c/0/0: "):
        opened.beside["instances"][rows - 1 : rows + 1, 3:1200]


def test_memory_is_bounded_whatever_is_read(tmp_path: Path) -> None:
    """Numbers that cannot be packed are kept, too, but not many of them."""
    numbers = np.random.default_rng(0).integers(1, 1 << 32, (HEIGHT, WIDTH), dtype=np.uint32)
    opened = open_mask(write(tmp_path / "m.zarr", (1 << 32) - 1, numbers))
    opened.keep_chunks(block=512, workers=1)
    cache = opened.beside["instances"]._cache
    assert isinstance(cache, PackedCache)
    for place in windows(12):
        np.testing.assert_array_equal(opened.beside["instances"][place], numbers[place])
    held = sum(len(chunk.data) for chunk in cache._kept.values() if chunk is not None)
    assert 0 < held <= 9 << 20 < cache.nbytes


def test_masks_in_one_block_are_read_as_before(mask: tuple[Path, Any], tmp_path: Path) -> None:
    """As they were written until they had blocks of some rows: other bytes, the same slide."""
    path, numbers = mask
    old = write(tmp_path / "m.zarr", int(numbers.max()), numbers)
    one_block = zarr.codecs.BloscCodec(cname="lz4hc", clevel=7, shuffle="noshuffle", blocksize=4 << 20)
    array = zarr.open_array(old / "labels/instance/0", mode="r+")
    store, kind = array.store, array.dtype
    zarr.create_array(
        store, data=numbers.astype(kind), chunks=(1024, 1024), compressors=one_block, overwrite=True
    )
    opened = open_mask(old)
    opened.keep_chunks(block=512, workers=1)
    assert isinstance(opened.beside["instances"]._cache, ChunkCache)
    for place in windows(5):
        np.testing.assert_array_equal(opened.beside["instances"][place], numbers[place])
    model = EdgeModel(outside=0)
    model.card = replace(model.card, edges=Edges("instances", (1,)))
    digests = {
        render(each, tmp_path / f"{index}.tiff", model=model, overlap=20, block=1024).digest
        for index, each in enumerate((path, old))
    }
    assert len(digests) == 1
