"""How much memory does this process take, how many cores may it use, and how does its peak stay level?

glibc hands large arrays back to the system and takes them again, page by page, and its gaps grow with the length
of a render. One heap that is large enough from the start does neither: a render that begins has its memory, and a
small canvas takes as much as a huge one. The heap functions do nothing where the C library is another one.
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

# Where it is, Linux is asked itself: importing psutil would take 7 ms of every start.
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Resident memory of this process now."""
    found = _of_status("VmRSS")
    if found is not None:
        return found
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Most resident memory that this process ever had."""
    # Not getrusage: on Linux its maximum includes the process that started this one, from before exec.
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
    """One line of what Linux tells of this process, in bytes; None where nothing tells it."""
    if not _STATUS.is_file():
        return None
    lines = _STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)


def usable_cores() -> int:
    """Cores that this process may use; a batch system often allows fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# The most that glibc takes; larger arrays are mapped one by one.
LARGEST = 32 << 20
PART = 8 << 20

_ours = False


def keep_one_heap() -> None:
    """Use one heap that is never given back; for a process that is ours alone.

    Our threads allocate little but large arrays, and mostly under Python's lock, so none waits for the heap.
    """
    global _ours
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            libc.mallopt(M_ARENA_MAX, 1)
            libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
            _ours = True


def reserve_heap(nbytes: int) -> None:
    """Take memory now, and leave it to the heap; nothing happens unless `keep_one_heap` was called."""
    if _ours:
        import numpy as np  # not before: the command line is here too, and answers --help without it

        taken = []
        with suppress(MemoryError):  # what is planned is an upper bound: less may do
            for _ in range(nbytes // PART):
                taken.append(np.empty(PART, np.uint8))
        # A page is ours once it is written to; NumPy lets go of Python's lock meanwhile.
        with ThreadPoolExecutor(usable_cores()) as threads:
            for part in taken:
                threads.submit(part[:: mmap.PAGESIZE].fill, 1)
        taken.clear()


def trim_heap() -> None:
    """Give free pages in the middle of the heap back to the system; milliseconds, so call it about once a second."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
