"""How are patches summed so that the order of addition cannot change a pixel?

Patch values are rounded to multiples of ``2 ** -bits`` grey levels and multiplied by integer blend weights. Sums of whole
numbers are exact, so blocks, workers and restarts give the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .grid import AxisGrid, PatchGrid
from .taper import Taper

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Sums = npt.NDArray[np.uint16 | np.int32]
Values = npt.NDArray[Any]

# A generator that returns values beyond this is broken. Sums are sized so that values inside it cannot overflow.
VALUE_LIMIT = 512
# The same for what a sampler averages, which is no picture but of the size of standard normal noise.
PREDICTION_LIMIT = 63


@dataclass(frozen=True)
class Blend:
    """The weights of a patch and the fixed-point grid that its values are taken on.

    Attributes
    ----------
    grid
        Patches of the canvas.
    taper
        Their blend weights.
    bits
        Patch values are rounded to multiples of ``2**-bits`` grey levels.
    channels
        Of a sampler's predictions, which are summed everywhere; 0 of RGB.
    """

    grid: PatchGrid
    taper: Taper
    bits: int
    channels: int = 0

    @property
    def weights(self) -> Int32:
        """Weights of one axis of a patch: int32 [tile]."""
        return self.taper.weights(tile=self.grid.tile, overlap=self.grid.overlap)

    @property
    def sum_dtype(self) -> type[np.uint16 | np.int32]:
        """The smallest type that holds every sum; whole grey levels with flat weights fit into 16 bits."""
        small = self.bits == 0 and 255 * peak_weight(self.grid, self.taper) < 1 << 16
        return np.uint16 if small else np.int32

    @property
    def mean_dtype(self) -> type[np.float32 | np.float64]:
        """A float type that holds every sum exactly and rounds every quotient to the right grey level.

        A quotient that is not a tie is at least 1 / (2 * divisor) away from one. If sums stay below 2**24, the divisor is
        below 2**15, and float32 values below 256 are accurate to 2**-17.
        """
        largest = VALUE_LIMIT * peak_weight(self.grid, self.taper) << self.bits
        return np.float32 if largest <= 1 << 24 else np.float64

    def encode(self, values: Values) -> Values:
        """Convert patch values to fixed point: uint8 is returned as it is, floats as whole numbers in float32 [..., 3]."""
        if values.dtype == np.uint8:
            return values if self.bits == 0 else values * np.float32(1 << self.bits)
        scaled = np.multiply(values, np.float32(1 << self.bits), dtype=np.float32)
        return np.rint(scaled, out=scaled)

    def decode(self, fixed: Values) -> UInt8:
        """Round fixed-point values half to even and clip them to 0..255: uint8 of the same shape."""
        if fixed.dtype == np.uint8:
            return fixed
        return _to_uint8(np.multiply(fixed, np.float32(2.0**-self.bits), dtype=np.float32))

    def mean(self, sums: Sums, row_weights: Int32, column_weights: Int32) -> UInt8:
        """Divide weighted sums [h, w, 3] by the outer product of the total weights [h] and [w]: uint8 [h, w, 3]."""
        if not sums.size:
            return np.empty(sums.shape, np.uint8)
        total = int(row_weights[0] * column_weights[0])
        level = np.ptp(row_weights) == 0 == np.ptp(column_weights)
        if level and sums.dtype == np.uint16 and total.bit_count() == 1:
            # Division by a power of two is exact, and OpenCV rounds half to even.
            return np.asarray(cv2.convertScaleAbs(sums, alpha=1 / total), np.uint8)
        # Flattened to [h, 3 w]: NumPy is slow when the innermost axis has three elements.
        exact: Values = sums.astype(self.mean_dtype).reshape(sums.shape[0], -1)
        divisor = (np.repeat(column_weights, 3) << self.bits).astype(exact.dtype)
        if row_weights.min() == row_weights.max():
            np.divide(exact, divisor * row_weights[0], out=exact)
        else:
            np.divide(exact, np.multiply.outer(row_weights.astype(exact.dtype), divisor), out=exact)
        return _to_uint8(exact).reshape(sums.shape)


@lru_cache(maxsize=64)
def peak_weight(grid: PatchGrid, taper: Taper) -> int:
    """Return the largest total weight that any pixel of any canvas can have."""
    axis = AxisGrid(4 * grid.tile, grid.tile, grid.overlap)
    weights = taper.weights(tile=grid.tile, overlap=grid.overlap)
    return int(axis.total_weight(weights, 0, axis.length).max()) ** 2


def fraction_bits(grid: PatchGrid, taper: Taper) -> int:
    """Return the most fraction bits with which every sum fits into 32 bits; negative if none fits.

    At most 12, with which float32 still holds every scaled value exactly.
    """
    return min(12, 31 - (VALUE_LIMIT * peak_weight(grid, taper) - 1).bit_length())


def prediction_bits(grid: PatchGrid, taper: Taper) -> int:
    """Return the most fraction bits with which every sum of predictions fits into 32 bits, at most 16; see `fraction_bits`."""
    return min(16, 31 - ((PREDICTION_LIMIT + 1) * peak_weight(grid, taper) - 1).bit_length())


def _to_uint8(values: npt.NDArray[np.floating[Any]]) -> UInt8:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
