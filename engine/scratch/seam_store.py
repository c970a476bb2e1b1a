"""How do the patches that cross the edges of a block lie in its chunks?"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
from safron.engine.blending.accumulator import Accumulator
from safron.engine.plan.fixed_point import Sums
from safron.engine.plan.render_plan import RenderPlan

UInt8 = npt.NDArray[np.uint8]

Index = tuple[int, int]
Seams = tuple[UInt8, Sums]


def empty_seams(plan: RenderPlan, index: Index) -> Seams:
    """Room for what the seam patches of a block leave: pixel values, and sums; zeros."""
    windows = plan.seam_windows(index).values()
    pixels = sum(3 * window.height * window.width for window in windows)
    sums = sum(Accumulator.size(window, plan.blend) for window in windows)
    return np.zeros(pixels, np.uint8), np.zeros(sums, plan.blend.sum_dtype)


def seam_parts(plan: RenderPlan, index: Index, pixels: UInt8, sums: Sums) -> dict[str, Accumulator]:
    """Lay out the seams of a block, by name, in the chunks that hold them.

    Parameters
    ----------
    pixels, sums : of `empty_seams`, or as read; the accumulators share them.
    """
    parts: dict[str, Accumulator] = {}
    start = first = 0
    for name, window in plan.seam_windows(index).items():
        shape = (window.height, window.width, 3)
        stop, last = start + prod(shape), first + Accumulator.size(window, plan.blend)
        parts[name] = Accumulator(window, plan.blend, pixels[start:stop].reshape(shape), sums[first:last])
        start, first = stop, last
    return parts
