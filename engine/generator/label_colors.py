"""Which colour does each label have?"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.system.native import compiled


def paint_labels(labels: npt.NDArray[np.uint8], colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give each label its colour.

    Parameters
    ----------
    labels
        uint8 [n, h, w].
    colors
        RGB by label, uint8 [256, 3].

    Returns
    -------
    npt.NDArray[np.uint8]
        uint8 [n, h, w, 3].
    """
    if compiled is not None:
        out = np.empty((*labels.shape, 3), np.uint8)
        compiled.paint(out, labels, colors)
        return out
    flat = np.ascontiguousarray(labels).reshape(-1, labels.shape[2])
    return np.asarray(cv2.applyColorMap(flat, colors[:, None]), np.uint8).reshape(*labels.shape, 3)
