"""How do drawn pixels become pixels of the slide if the two have different sizes?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from safron.engine.plan.scale import WEIGHT_BITS, Scale
from safron.engine.plan.window import Window

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# Rows of the slide that are made together, so that their sums stay in the core's cache.
STRIP = 64
# Added before the sums of both axes are shifted back to grey levels: halves are rounded up.
HALF = 1 << (2 * WEIGHT_BITS - 1)


def resample(
    drawing: UInt8, drawn: Window, out: UInt8, window: Window, scale: Scale, *, canvas: Window
) -> None:
    """Make a window of the slide from the drawn pixels around it.

    Parameters
    ----------
    drawing
        RGB of the drawn pixels, uint8 [y, x, 3]; `Scale.reach` says which are needed.
    drawn
        Their window.
    out
        Memory for the window, uint8 [window.height, window.width, 3].
    window
        Pixels of the slide's canvas.
    scale
        Drawn pixels for each of the canvas.
    canvas
        All pixels of the mask; nothing is drawn beyond.
    """
    rows, row_weights = _taps(window.y, window.y_stop, scale, canvas.height, drawn.y, drawn.height)
    columns, column_weights = _taps(window.x, window.x_stop, scale, canvas.width, drawn.x, drawn.width)
    flat = drawing.reshape(drawn.height, -1)
    for top in range(0, window.height, STRIP):
        part = slice(top, top + STRIP)
        down = sum(
            np.multiply(flat[index], weight[:, None], dtype=np.int32)
            for index, weight in zip(rows[part].T, row_weights[part].T, strict=True)
        )
        pixels = np.asarray(down).reshape(-1, drawn.width, 3)
        sums = sum(
            pixels[:, index] * weight[None, :, None]
            for index, weight in zip(columns.T, column_weights.T, strict=True)
        )
        out[part] = (np.asarray(sums) + HALF) >> (2 * WEIGHT_BITS)


def _taps(start: int, stop: int, scale: Scale, length: int, origin: int, count: int) -> tuple[Int64, Int32]:
    """Return the drawn pixels that each pixel of the slide is made of, and their weights: [n, taps] each."""
    first, weights = scale.weights(start, stop, length=length)
    index = np.clip(first[:, None] + np.arange(weights.shape[1]), 0, scale.drawn(length) - 1) - origin
    # Pixels with weight 0 may lie outside the window.
    return np.clip(index, 0, count - 1), weights
