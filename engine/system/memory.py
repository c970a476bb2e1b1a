"""How much memory does this process take, how many cores may it use, and how does peak memory stay flat?

glibc returns large arrays to the system and requests them again page by page, and its heap fragments during a long
render. One heap that is large enough from the start avoids both: memory is reserved before the first block, and a small
canvas takes as much as a huge one. With other C libraries the heap functions do nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

# Linux is asked directly: importing psutil would add 7 ms to every start.
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    found = _of_status("VmRSS")
    if found is not None:
        return found
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    # Not getrusage: on Linux its maximum includes the parent process before exec.
    found = _of_status("VmHWM")
    if found is not None:
        return found
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return int(memory.peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)


def _of_status(name: str) -> int | None:
    """Return a value of /proc/self/status in bytes; None if it is not there."""
    if not _STATUS.is_file():
        return None
    lines = _STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)


def usable_cores() -> int:
    """Return how many cores this process may use; batch systems often allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Constants of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# The largest threshold that glibc accepts; larger arrays are mapped individually where the heap has no room.
LARGEST = 32 << 20
# Memory is taken in such parts. NumPy asks for large pages in each, and where two meet there are small ones.
PART = 24 << 20
# Arrays of a sampler from which on this is better than to let the heap grow.
SAMPLED = 2 << 20

_ours = False


def keep_one_heap() -> None:
    """Use one heap that is never returned to the system; only for processes that belong to SAFRON alone.

    Threads allocate few, large arrays, mostly while they hold Python's lock, so they do not wait for the heap.
    """
    global _ours
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            libc.mallopt(M_ARENA_MAX, 1)
            libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
            _ours = True


def reserve_memory(heap: int, outside: int, *, largest: int = LARGEST) -> None:
    """Reserve memory before the first block; does nothing unless `keep_one_heap` was called.

    Parameters
    ----------
    heap
        Bytes of heap.
    outside
        Bytes that are made sure of outside of it.
    largest
        From so many bytes on an array for which the heap has no room is mapped outside of it; the heap grows for smaller ones.
    """
    if _ours:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        import numpy as np  # imported late: --help does without it

        from .large_arrays import zeros

        taken = []
        # The plan is an upper bound, and less may be enough.
        with suppress(MemoryError, OSError):
            for size in _parts(heap):
                taken.append(np.empty(size, np.uint8))
            for size in _parts(outside):
                taken.append(zeros(size, np.uint8, whole=True))
        # A page is allocated when it is first written; NumPy releases Python's lock meanwhile.
        with ThreadPoolExecutor(usable_cores()) as threads:
            for part in taken:
                threads.submit(part[:: mmap.PAGESIZE].fill, 1)
        taken.clear()
        libc.mallopt(M_MMAP_THRESHOLD, largest)


def _parts(nbytes: int) -> list[int]:
    return [PART] * (nbytes // PART) + [nbytes % PART]


def trim_heap() -> None:
    """Return free pages in the middle of the heap to the system. Takes milliseconds: call it about once a second."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
