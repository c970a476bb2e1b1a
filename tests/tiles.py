"""Makes tiles that look like H&E, as far as colours are concerned."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def tissue(side: int = 160, *, seed: int = 0, nuclei: int = 60) -> npt.NDArray[np.uint8]:
    """An H&E-like tile: pink with grain, and dark discs."""
    rng = np.random.default_rng(seed)
    eosin = 0.5 + 0.1 * cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 1.5)
    haematoxylin = np.full((side, side), 0.05)
    for y, x in rng.integers(0, side, (nuclei, 2)).tolist():
        cv2.circle(haematoxylin, (x, y), 6, 1.2, -1)
    density = eosin[..., None] * [0.07, 0.99, 0.11] + haematoxylin[..., None] * [0.65, 0.70, 0.29]
    return np.rint(255 * np.exp(-density)).astype(np.uint8)
