"""How does peak memory stay level? The heap gets what a render will need at its start, and keeps it.

glibc hands large arrays back to the system and takes them again, page by page, and its gaps grow with the length
of a render. One heap that is large enough from the start does neither: a render that begins has its memory, and a
small canvas takes as much as a huge one. All of this does nothing where the C library is another one.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

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

        from .memory import usable_cores

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
