"""How does peak memory stay level? glibc keeps what is freed; these two calls make it give pages back.

Both do nothing where the C library is another one.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

M_ARENA_MAX = -8  # of glibc's malloc.h


def keep_one_heap() -> None:
    """Use one heap instead of several a thread, whose gaps would make peak memory creep up.

    Our threads allocate little but large arrays, and mostly under Python's lock, so none waits for the heap.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Give free pages in the middle of the heap back to the system; milliseconds, so call it about once a second."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
