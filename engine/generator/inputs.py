"""What does a generator read: the labels under a patch and its context?"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.plan.window import Window

UInt8 = npt.NDArray[np.uint8]


class Labels(Protocol):
    """Labels, or other numbers, of a whole canvas, read where they are sliced."""

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (height, width)."""

    def __getitem__(self, region: tuple[slice, slice]) -> UInt8:
        """Labels of a region: uint8 [y, x]."""


def read_labels(mask: Labels, window: Window, *, outside: int | None) -> UInt8:
    """Read labels where `window` may reach beyond the canvas.

    Parameters
    ----------
    mask
        The canvas.
    window
        Canvas pixels; at least one lies inside.
    outside
        Label beyond the canvas, or None for the nearest canvas label.

    Returns
    -------
    UInt8
        uint8 [window.height, window.width].
    """
    inside = window.clip(Window(0, 0, *mask.shape))
    labels = mask[inside.slices()]
    if inside == window:
        return labels
    margins = (
        (inside.y - window.y, window.y_stop - inside.y_stop),
        (inside.x - window.x, window.x_stop - inside.x_stop),
    )
    if outside is None:
        return np.pad(labels, margins, mode="edge")
    return np.pad(labels, margins, constant_values=outside)


def where_fill(labels: UInt8, is_fill: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which labels [h, w] are glass: bool of the same shape."""
    values = np.flatnonzero(is_fill)
    if len(values) == 1:
        return np.equal(labels, np.uint8(values[0]))
    # OpenCV takes a seventh of the time that `is_fill[labels]` would.
    return np.asarray(cv2.LUT(labels, is_fill.view(np.uint8))).view(np.bool_)
