"""How do patches that lie side by side go through the generator in one call?

Patches overlap, and so do their contexts: 296 x 296 pixels are read for 236 x 236 new ones. A window of two patches reads 296 x 532 for
236 x 472, a tenth less for each. Every patch is then cut out of what was generated, and blended as if it had been alone. This
changes nothing if each has the same bits in the window, which the warm-up tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from safron.engine.generator.planes import Inputs


def join(inputs: Inputs, part: slice, stride: int, *, top: int = 0, left: int = 0) -> Inputs:
    """Give the inputs of some patches as those of one wide window, in memory of their own.

    Parameters
    ----------
    inputs
        Of patches side by side, views [n, ..., y, x] of what lies under all of them, or [n, channels].
    part
        The patches.
    stride
        Pixels from one patch to the next.
    top, left
        Rows and columns to leave out.
    """
    made, more = {}, (part.stop - part.start - 1) * stride
    for name, values in inputs.items():
        first = values[part.start]
        if values.ndim > 2 and more:
            assert values.strides[0] == stride * values.strides[-1], "patches of one view"
            first = as_strided(
                first, (*first.shape[:-1], first.shape[-1] + more), first.strides, writeable=False
            )
        if values.ndim > 2:
            first = first[..., top:, left:]
        made[name] = np.ascontiguousarray(first[None])
    return made


def cut(image: npt.NDArray[Any], tile: int, stride: int) -> npt.NDArray[Any]:
    """Cut what was generated of a wide window [1, tile, width, channels] into its patches, a view [n, tile, tile, channels]."""
    return sliding_window_view(image[0], tile, axis=1)[:, ::stride].transpose(1, 0, 3, 2)
