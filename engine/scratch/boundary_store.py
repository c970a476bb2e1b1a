"""Where do the sums of boundary patches wait until the neighbouring blocks have used them?

Blocks whose tasks run in one process exchange them in memory: most are needed again within a second, and never reach the
disk. They are written when memory runs out, when they took long to make, when they have waited for a while, and when a run
ends. Other processes and hosts read them from disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.blending.accumulator import Accumulator
from safron.engine.blending.dense import DenseSums, new_sums
from safron.engine.plan.estimates import boundary_capacity
from safron.engine.plan.fixed_point import Sums
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.large_arrays import LARGE, zeros

from .chunk_codec import decode_chunk, encode_chunk
from .shared_arrays import Layout, SharedArrays

UInt8 = npt.NDArray[np.uint8]
Index = tuple[int, int]
BoundarySums = tuple[UInt8, Sums]
"""Pixels that one patch writes alone, and weighted sums where several do; see `Accumulator`."""

# Sums that took longer to make are written at once, which takes a hundredth of a second.
SLOW_SECONDS = 0.5
# Sums of a sampler's boundary patches that have so many bytes lie outside of the heap.
_LEAST_MAPPED = 1 << 20


def boundary_layouts(plan: RenderPlan) -> dict[str, Layout]:
    """Return the layouts of the arrays, by name: room for any block, in one chunk or more that are not large."""
    layouts: dict[str, Layout] = {}
    kinds: dict[str, np.dtype[Any]] = {"pixels": np.dtype(np.uint8), "sums": np.dtype(plan.blend.sum_dtype)}
    for (name, dtype), capacity in zip(kinds.items(), boundary_capacity(plan), strict=True):
        chunk = min(capacity, LARGE // dtype.itemsize)
        layouts[f"boundary/{name}"] = ((*plan.block_shape, capacity), (1, 1, chunk), dtype)
    return layouts


def empty_boundary(plan: RenderPlan, index: Index) -> BoundarySums:
    """Return zeros for the boundary patches of a block: pixels uint8 [n], and sums [m]."""
    windows = plan.boundary_windows(index).values()
    pixels = 0 if plan.passes else sum(3 * window.height * window.width for window in windows)
    sums = sum(_sums_of(plan).size(window, plan.blend) for window in windows)
    # A sampler's are larger by far, and stay for a while among arrays of other sizes.
    return np.zeros(pixels, np.uint8), zeros(
        sums, plan.blend.sum_dtype, least=_LEAST_MAPPED if plan.passes else LARGE
    )


def _sums_of(plan: RenderPlan) -> type[Accumulator | DenseSums]:
    return DenseSums if plan.passes else Accumulator


def boundary_parts(
    plan: RenderPlan, index: Index, pixels: UInt8, sums: Sums
) -> dict[str, Accumulator | DenseSums]:
    """Return accumulators for the boundaries of a block, by name.

    Parameters
    ----------
    plan
        The render.
    index
        The block.
    pixels, sums
        From `empty_boundary` or `BoundaryStore.read`; the accumulators share this memory.
    """
    parts: dict[str, Accumulator | DenseSums] = {}
    start = first = 0
    for name, window in plan.boundary_windows(index).items():
        shape = (window.height, window.width, 0 if plan.passes else 3)
        stop = start + prod(shape)
        parts[name] = new_sums(window, plan.blend, pixels[start:stop].reshape(shape), sums[first:])
        start, first = stop, first + parts[name].count
    return parts


class BoundaryStore:
    """The boundary sums of all blocks, in memory and on disk.

    Parameters
    ----------
    arrays
        Where they are stored.
    clock
        Seconds since any moment; measures how long sums have been in memory only.
    """

    def __init__(self, arrays: SharedArrays, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._arrays = arrays
        self._clock = clock
        # By block, in the order they were made: sums in memory; since when they are in memory only; the last one read.
        self._kept: dict[Index, BoundarySums] = {}
        self._unstored: dict[Index, float] = {}
        self._storing: set[Index] = set()
        self._loaded: dict[Index, BoundarySums] = {}
        self._room, self._lazy = 0, False
        self._lock = threading.Lock()

    def keep(self, nbytes: int, *, lazily: bool) -> None:
        """From now on keep so many bytes in memory.

        Parameters
        ----------
        nbytes
            Room in memory.
        lazily
            Write to disk only if there is no room, on `flush`, or if the sums took long to make; for a render
            whose tasks all run in this process.
        """
        self._room, self._lazy = nbytes, lazily

    def write(self, block: Index, pixels: UInt8, sums: Sums, *, seconds: float = 0.0) -> None:
        """Store the boundary sums of a block, replacing those that a crash left.

        Parameters
        ----------
        block
            The block.
        pixels, sums
            From `empty_boundary`.
        seconds
            Time that it took to make them.
        """
        lazily = self._lazy and seconds < SLOW_SECONDS
        if not lazily:
            self._store(block, pixels, sums)
        with self._lock:
            self._kept[block] = pixels, sums
            if lazily:
                self._unstored[block] = self._clock()
        while (oldest := self._evict()) is not None:
            self._move_to_disk(oldest)

    def _evict(self) -> Index | None:
        """Drop the oldest sums until there is room; stop at a block that must be stored first, and return it."""
        with self._lock:
            blocks = [block for block in self._kept if block not in self._storing]
            size = sum(part.nbytes for block in blocks for part in self._kept[block])
            for block in blocks:
                if size <= self._room:
                    break
                if block in self._unstored:
                    self._storing.add(block)
                    return block
                size -= sum(part.nbytes for part in self._kept.pop(block))
        return None

    def flush(self, *, seconds: float = 0.0) -> None:
        """Write what has been in memory only for so many seconds."""
        start = self._clock()
        for block, since in list(self._unstored.items()):
            with self._lock:
                if start - since < seconds or block in self._storing or block not in self._unstored:
                    continue
                self._storing.add(block)
            self._move_to_disk(block)

    def _move_to_disk(self, block: Index) -> None:
        try:
            kept = self._kept.get(block)
            if kept is not None:
                self._store(block, *kept)
        except BaseException:
            self.free(block)  # it may be half written
            raise
        finally:
            with self._lock:
                self._storing.discard(block)
        with self._lock:
            self._unstored.pop(block, None)
            forgotten = block not in self._kept
        if forgotten:  # meanwhile, by a caller to whom it was in memory only
            self.free(block)

    def in_memory_only(self) -> set[Index]:
        """Return the blocks whose boundary sums a crash would lose."""
        with self._lock:
            return set(self._unstored)

    def forget(self, block: Index) -> bool:
        """Drop sums that are no longer needed from memory; return whether they were in memory only."""
        with self._lock:
            self._kept.pop(block, None)
            return self._unstored.pop(block, None) is not None

    def clear(self) -> None:
        """Drop everything from memory."""
        with self._lock:
            for sums in (self._kept, self._unstored, self._loaded):
                sums.clear()

    def _store(self, block: Index, pixels: UInt8, sums: Sums) -> None:
        both: dict[str, npt.NDArray[Any]] = {"pixels": pixels, "sums": sums}
        for name, values in both.items():
            for file, place in self._files(name, block):
                part = values[place]
                if lacks := place.stop - place.start - part.size:
                    part = np.pad(part, (0, lacks))
                self._arrays.write(file, encode_chunk(part))

    def read(self, block: Index) -> BoundarySums:
        """Return what `write` stored, from memory or disk; not to be changed."""
        with self._lock:
            kept = self._kept.get(block) or self._loaded.get(block)
        if kept is None:
            kept = self._load(block)
            # The next block in the row needs it again. Sums made here are worth more, so they stay.
            with self._lock:
                self._loaded = {block: kept}
        return kept

    def _load(self, block: Index) -> BoundarySums:
        pixels, sums = (self._decoded(name, block) for name in ("pixels", "sums"))
        return pixels, sums

    def _decoded(self, name: str, block: Index) -> npt.NDArray[Any]:
        array = self._arrays.open(f"boundary/{name}")
        dtype, files = array.dtype, list(self._files(name, block))
        if len(files) == 1:
            return decode_chunk(self._arrays.read(files[0][0]), dtype)
        made = zeros(array.shape[-1], dtype)
        for file, place in files:
            part = decode_chunk(self._arrays.read(file), dtype)
            if part.any():  # memory that nothing was written to takes no room
                made[place] = part[: made[place].size]
        return made

    def is_whole(self, block: Index) -> bool:
        """Whether the stored sums of a block can be read; a power cut may have torn them."""
        try:
            self._load(block)
        except (OSError, ValueError, RuntimeError):
            return False
        return True

    def free(self, block: Index) -> None:
        """Delete the sums of a block on disk; nothing happens if they are gone."""
        for name in ("pixels", "sums"):
            for file, _ in self._files(name, block):
                self._arrays.delete(file)

    def _files(self, name: str, block: Index) -> Iterator[tuple[str, slice]]:
        """Give the files of a block's chunks, and the values in each; the last one may have room for more than there are."""
        array = self._arrays.open(f"boundary/{name}")
        size = array.chunks[-1]
        for number in range(-(-array.shape[-1] // size)):
            yield (
                f"boundary/{name}/c.{block[0]}.{block[1]}.{number}",
                slice(number * size, (number + 1) * size),
            )

    def stored(self) -> set[Index]:
        """Return the blocks whose sums are on disk, whole or torn."""
        names = (name.split(".") for name in self._arrays.names("boundary"))
        return {(int(name[1]), int(name[2])) for name in names if name[0] == "c" and len(name) == 4}
