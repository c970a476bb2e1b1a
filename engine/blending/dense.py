"""How are the predictions of overlapping patches averaged, the same whatever the order?

As `safron.engine.blending.accumulator` does for pictures: predictions are rounded to multiples of ``2**-bits`` and weights
are whole numbers, so sums are exact. But a mean of predictions must keep its fraction, so there is a sum for every pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided
from safron.engine.plan.fixed_point import Blend, Int32, Sums, UInt8, Values
from safron.engine.plan.window import Window
from safron.engine.system.native import compiled

from .accumulator import Accumulator, weights_side_by_side

Float32 = npt.NDArray[np.float32]

# The most fraction bits that the C extension scales by.
_COMPILED_BITS = 12


class DenseSums:
    """Weighted sums of predictions in one window: add patches, merge other sums, divide.

    Parameters
    ----------
    window
        Pixels to make.
    blend
        Patch grid, blend weights, fixed point and channels.
    sums
        Memory for at least `size` sums; zeros by default.

    Attributes
    ----------
    count
        How many of them it uses.
    """

    def __init__(self, window: Window, blend: Blend, sums: Sums | None = None) -> None:
        shape = (window.height, window.width, blend.channels)
        self.window = window
        self.blend = blend
        self.count = self.size(window, blend)
        self.sums: Int32 = (
            np.zeros(shape, np.int32) if sums is None else sums[: self.count].reshape(shape)  # type: ignore[assignment]
        )
        self._weights = blend.weights

    @staticmethod
    def size(window: Window, blend: Blend) -> int:
        """Return the number of sums that a window needs."""
        return window.height * window.width * blend.channels

    def add(self, patches: Values, first: Window) -> None:
        """Add patches that lie side by side in one row.

        Parameters
        ----------
        patches
            Predictions, float32 [n, tile, tile, channels].
        first
            Write window of the first patch; each next one lies one stride to the right.
        """
        stride = self.blend.grid.columns.stride
        if compiled is not None and self.blend.channels == 3:
            self._add_compiled(patches, first)
            return
        for index, patch in enumerate(patches):
            self._add(patch, first.shift(0, index * stride), self._weights, self._weights)

    def add_sheet(self, values: Float32, first: Window, start: int) -> None:
        """Add rows of patches that lie side by side and agree wherever they overlap, as those of one large patch.

        Parameters
        ----------
        values
            float32 [rows, width, channels], of all pixels that the patches write.
        first
            Write window of the first patch.
        start
            First of the rows in it.
        """
        rows = self._weights[start : start + len(values)]
        self._add(values, first.shift(start, 0), rows, weights_side_by_side(self.blend, values.shape[1]))

    def _add(self, values: Float32, first: Window, rows: Int32, columns: Int32) -> None:
        """Add one patch of any size, float32 [h, w, channels], whose weights are `rows` [h] and `columns` [w]."""
        height, width = values.shape[:2]
        inside = Window(first.y, first.x, height, width).clip(self.window)
        if inside.empty:
            return
        part = inside.slices(first)
        fixed = np.rint(values[part] * np.float32(1 << self.blend.bits)).astype(np.int32)
        weights = np.multiply.outer(rows[part[0]], columns[part[1]])
        self.sums[inside.slices(self.window)] += fixed * weights[:, :, None]

    def _add_compiled(self, patches: Values, first: Window) -> None:
        """Let the C extension add, to which all rows look as if several patches wrote them."""
        height, width = self.window.height, self.window.width
        # It looks at the shape of this picture, and writes nothing into it.
        picture = as_strided(np.zeros((1, width, 3), np.uint8), (height, width, 3), (0, 3, 1))
        more = max(0, self.blend.bits - _COMPILED_BITS)
        compiled.add(
            picture,
            self.sums,
            np.zeros((height, 0, 3), np.int32),
            np.arange(height + 1, dtype=np.int32),
            np.zeros(width + 1, np.int32),
            np.multiply(patches, np.float32(1 << more), dtype=np.float32, order="C"),
            self._weights,
            first.y - self.window.y,
            first.x - self.window.x,
            self.blend.grid.columns.stride,
            self.blend.bits - more,
        )

    def merge(self, other: DenseSums) -> None:
        """Add what the patches of another window wrote into this one."""
        part = other.window.clip(self.window)
        if not part.empty:
            self.sums[part.slices(self.window)] += other.sums[part.slices(other.window)]

    def means(self, part: Window) -> Float32:
        """Divide the sums of some pixels by their total weights: float32 [channels, part.height, part.width]."""
        grid, weights = self.blend.grid, self.blend.weights
        rows = grid.rows.total_weight(weights, part.y, part.y_stop).astype(np.float64)
        columns = grid.columns.total_weight(weights, part.x, part.x_stop).astype(np.float64)
        assert rows.all(), part
        assert columns.all(), part
        divisor = np.multiply.outer(rows * (1 << self.blend.bits), columns)
        return np.divide(self.sums[part.slices(self.window)].transpose(2, 0, 1), divisor).astype(np.float32)


def new_sums(
    window: Window, blend: Blend, image: UInt8 | None = None, sums: Any = None
) -> Accumulator | DenseSums:
    """Return what adds up the patches of a window: of pictures, or of predictions.

    Parameters
    ----------
    window, blend, image, sums
        See `Accumulator` and `DenseSums`.
    """
    return DenseSums(window, blend, sums) if blend.channels else Accumulator(window, blend, image, sums)


def merge_sums(target: Accumulator | DenseSums, other: Accumulator | DenseSums) -> None:
    """Add what the patches of another window wrote into this one; both are of one kind."""
    if isinstance(target, DenseSums):
        assert isinstance(other, DenseSums)
        target.merge(other)
    else:
        assert isinstance(other, Accumulator)
        target.merge(other)
