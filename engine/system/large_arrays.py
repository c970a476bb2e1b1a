"""Where do large arrays lie, so that a large canvas takes no more memory than a small one?

Outside of the heap. Arrays of many sizes that live for different times leave gaps among small ones, and the heap grows
although much of it is free: by 160 MiB while 16,384 x 16,384 pixels were sampled. Memory that is mapped for one array goes
back to the system with it. What every block needs anew, a thread keeps instead.
"""

from __future__ import annotations

import mmap
import sys
import threading
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

# Smaller arrays find room in the gaps of others.
LARGE = 8 << 20

_memory = threading.local()


def zeros(count: int, dtype: npt.DTypeLike, *, least: int = LARGE, whole: bool = False) -> npt.NDArray[Any]:
    """Return zeros [count], outside of the heap if they have `least` bytes or more.

    What is written from end to end (`whole`) has large pages where there are any, as NumPy's own arrays do.
    """
    nbytes = count * np.dtype(dtype).itemsize
    if nbytes < max(1, least):
        return np.zeros(count, dtype)
    memory = _mapped(nbytes)
    if whole and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype)


def kept(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Values of one block, in memory that this thread keeps; they are what the last block left.

    Fresh pages for every block would cost time.
    """
    size, found = prod(shape), getattr(_memory, name, None)
    if found is None or found.size < size or found.dtype != dtype:
        found = zeros(size, dtype, whole=True)
        setattr(_memory, name, found)
    values: npt.NDArray[Any] = found[:size].reshape(shape)
    return values


def _mapped(nbytes: int) -> mmap.mmap:
    """Memory of this process alone."""
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
