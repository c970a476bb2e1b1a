"""Masks with areas as large as tissue has them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


def blobs(height: int, width: int, *, seed: int = 0, labels: int = 3, cell: int = 37) -> np.ndarray[Any, Any]:
    """A mask of large smooth-edged areas, some glass."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // cell + 4, width // cell + 4)).astype(np.float32)
    fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)[:height, :width]
    return np.clip((fine * labels).astype(np.int64), 0, labels - 1).astype(np.uint8)
