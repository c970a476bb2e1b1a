"""Masks with areas as large as tissue has them, and of nuclei."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt


def blobs(height: int, width: int, *, seed: int = 0, labels: int = 3, cell: int = 37) -> np.ndarray[Any, Any]:
    """A mask of large smooth-edged areas, some glass."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // cell + 4, width // cell + 4)).astype(np.float32)
    fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)[:height, :width]
    return np.clip((fine * labels).astype(np.int64), 0, labels - 1).astype(np.uint8)


def cells(seed: int, side: int = 96) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Types and numbers of discs, which end where the next one begins."""
    rng = np.random.default_rng(seed)
    centres, radii = rng.uniform(0, side, (40, 2)), rng.uniform(4, 9, 40)
    y, x = np.mgrid[:side, :side]
    far = np.hypot(y - centres[:, 0, None, None], x - centres[:, 1, None, None])
    nearest = far.argmin(axis=0)
    numbers = np.where(far.min(axis=0) < radii[nearest], nearest + 1, 0).astype(np.uint32)
    types = np.append(0, rng.integers(1, 7, 40))[numbers].astype(np.uint8)
    return types, numbers
