"""A local Zarr array is read on the thread that asks, and as Zarr reads it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from safron.io.masks.zarr_inline import read_here

INDICES = [
    (slice(0, 64), slice(0, 64)),
    (slice(13, 97), slice(31, 100)),
    (slice(99, 100), slice(0, 1)),
    (5, slice(None)),
]


@pytest.fixture(params=["zstd", "v2", "sharded"])
def array(request: pytest.FixtureRequest, tmp_path: Path) -> zarr.Array[Any]:
    values = np.random.default_rng(0).integers(0, 255, (100, 100), np.uint8)
    kinds: dict[str, dict[str, Any]] = {
        "zstd": {"chunks": (32, 32)},
        "v2": {"chunks": (32, 32), "zarr_format": 2},
        "sharded": {"chunks": (16, 16), "shards": (64, 64)},
    }
    made = zarr.create_array(tmp_path / "a.zarr", shape=values.shape, dtype="uint8", **kinds[request.param])
    made[:] = values
    return zarr.open_array(tmp_path / "a.zarr", mode="r")


def test_it_gives_what_zarr_gives(array: zarr.Array[Any]) -> None:
    before = {thread.name for thread in threading.enumerate()}
    for index in INDICES:
        np.testing.assert_array_equal(read_here(array, index), array[index])
    own = {thread.name for thread in threading.enumerate()} - before
    assert not any("ThreadPool" in name for name in own), own


def test_it_does_so_on_many_threads_and_where_a_loop_runs_already(
    array: zarr.Array[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = array[:]
    loops: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop

    def recorded() -> asyncio.AbstractEventLoop:
        loops.append(make())
        return loops[-1]

    def read(index: tuple[Any, ...]) -> bool:
        return bool((read_here(array, index) == whole[index]).all())

    with monkeypatch.context() as patch, ThreadPoolExecutor(3) as threads:
        patch.setattr(asyncio, "new_event_loop", recorded)
        assert all(threads.map(read, INDICES * 20))
    assert loops
    assert all(loop.is_closed() for loop in loops), "their threads have ended"

    async def in_a_notebook() -> bool:
        return read(INDICES[1])

    with ThreadPoolExecutor(
        1
    ) as threads:  # not here: it would drop the loop that other tests' libraries left this thread
        assert threads.submit(asyncio.run, in_a_notebook()).result()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_damaged_chunk_fails_and_the_next_read_works(tmp_path: Path, order: Any) -> None:
    options: dict[str, Any] = {} if order == "C" else {"zarr_format": 2, "order": "F"}
    made = zarr.create_array(tmp_path / "a.zarr", shape=(64, 64), chunks=(16, 16), dtype="uint8", **options)
    made[:] = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    (tmp_path / "a.zarr" / ("c/1/2" if order == "C" else "1.2")).write_bytes(b"no zstd")
    array = zarr.open_array(tmp_path / "a.zarr", mode="r")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Zstd"):
            read_here(array, (slice(None), slice(None)))
        np.testing.assert_array_equal(read_here(array, (slice(0, 16), slice(0, 64))), array[:16])
