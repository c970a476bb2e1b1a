"""How is a Zarr array read without passing the work to other threads?

Zarr reads on one thread with an event loop, which passes each file and each codec to further threads. When all cores
are busy, every such step waits for its turn: reading a block's labels that way took twice the CPU time of reading them
on the calling thread. Plain chunks skip Zarr's pipeline as well, which halves it again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import zarr
from zarr.storage import LocalStore

from .zarr_chunks import ChunkFiles


class _Inline(ThreadPoolExecutor):
    """Runs each call immediately, on the thread that submits it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the call and return a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Loop:
    """The event loop of one thread, closed when the thread ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Inline(max_workers=1))

    def run(self, reading: Coroutine[Any, Any, Any]) -> Any:
        """Wait for a coroutine; if it fails, cancel everything that it started."""
        try:
            return self.loop.run_until_complete(reading)
        except BaseException:
            started = asyncio.all_tasks(self.loop)
            for task in started:
                task.cancel()
            if started:  # given nothing, `gather` would look for a running loop
                self.loop.run_until_complete(asyncio.gather(*started, return_exceptions=True))
            raise

    def __del__(self) -> None:
        self.loop.close()


_local = threading.local()


def read_here(array: zarr.Array[Any], index: tuple[Any, ...]) -> Any:
    """Read part of an array as ``array[index]`` does, on the calling thread where its chunks are local files.

    Parameters
    ----------
    array
        Any Zarr array. Those of other stores are read by Zarr, since their connections belong to Zarr's
        thread.
    index
        A slice without step, or an integer, for every axis.
    """
    files = ChunkFiles.of(array)
    if files is not None and all(isinstance(part, slice) for part in index):
        bounds = (part.indices(length) for part, length in zip(index, array.shape, strict=True))
        return files.read_region(tuple(slice(lo, max(lo, hi)) for lo, hi, _ in bounds))
    if not isinstance(array.store, LocalStore) or _loop_runs():
        return array[index]
    if not hasattr(_local, "own"):
        _local.own = _Loop()
    return _local.own.run(array.async_array.getitem(index))


def _loop_runs() -> bool:
    """Whether this thread already runs an event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
