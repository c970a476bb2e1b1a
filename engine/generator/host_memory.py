"""In which memory of the host do batches lie on their way to a GPU and back?

Fresh memory costs a page fault for every page that is written first. What a GPU copies from or to ordinary memory, the driver
copies once more on a core. So memory is kept, and locked to its place ("pinned") where the driver does that.
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.system.gpus import kind_of, pin

# Bytes. ONNX Runtime aligns every tensor that it makes itself to this; a GPU copies whole pages.
ALIGNMENT, PAGE = 64, 4096


def aligned(nbytes: int, alignment: int = ALIGNMENT) -> npt.NDArray[np.uint8]:
    """Return fresh memory that begins where ONNX Runtime's own would: some kernels round by the place in memory."""
    memory = np.empty(nbytes + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + nbytes]


class _Lease:
    """Holds a piece of memory as long as an array lies in it."""

    def __init__(self, piece: npt.NDArray[np.uint8]) -> None:
        self.__array_interface__ = piece.__array_interface__
        self._piece = piece


class HostMemory:
    """Memory for arrays of a few sizes, again and again.

    Parameters
    ----------
    device
        Where the generator runs; memory is pinned for a GPU.
    """

    def __init__(self, device: str) -> None:
        self._gpu = int(device.partition(":")[2] or 0) if kind_of(device) == "cuda" else None
        self._idle: defaultdict[int, deque[npt.NDArray[np.uint8]]] = defaultdict(deque)

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array of any content; its memory is used again when the array and all views of it are gone."""
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        idle = self._idle[nbytes]
        try:
            piece = idle.pop()
        except IndexError:
            piece = self._fresh(nbytes)
        lease = _Lease(piece)
        weakref.finalize(lease, idle.append, piece).atexit = False
        return np.asarray(lease).view(dtype).reshape(shape)

    def _fresh(self, nbytes: int) -> npt.NDArray[np.uint8]:
        piece = aligned(nbytes, PAGE)
        release = None if self._gpu is None or not nbytes else pin(piece.ctypes.data, nbytes, self._gpu)
        if release is not None:
            weakref.finalize(piece, release).atexit = False
        return piece
