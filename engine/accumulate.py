"""How do overlapping patches become one image, the same whatever the order?

Truth 1: each canvas pixel is ``sum(w * p) / sum(w)`` over the patches that cover it, rounded half to
even and clipped once. Patch values are taken on a fixed-point grid of ``2**-bits`` grey levels and
weights are integers, so the sums are exact integers: no order of patches, blocks or workers can
change a bit. The divisor follows from the grid alone and is separable, so it is never summed.

Most pixels are covered by one patch. They go straight to the image; only the bands where patches
overlap hold 32-bit sums::

    columns   single   multi  single          H: rows where patches overlap, full width
            +--------+------+--------+        V: columns where patches overlap, other rows
    single  | image  |  V   | image  |
    multi   |   H    |  H   |   H    |
    single  | image  |  V   | image  |
            +--------+------+--------+
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .grid import AxisGrid, PatchGrid
from .taper import Taper
from .window import Window

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Sums = npt.NDArray[np.uint16 | np.int32]
Values = npt.NDArray[Any]

# Outputs beyond this are a broken generator; the sums are sized so that anything inside cannot overflow.
VALUE_LIMIT = 512


@dataclass(frozen=True)
class Blend:
    """The weights of a patch and the fixed-point grid that its values are taken on.

    Attributes
    ----------
    grid : the patches of the canvas.
    taper : their weights.
    bits : values are multiples of ``2**-bits`` grey levels.
    """

    grid: PatchGrid
    taper: Taper
    bits: int

    @property
    def weights(self) -> Int32:
        """Weights of one axis of a patch: int32 [tile]."""
        return self.taper.weights(tile=self.grid.tile, overlap=self.grid.overlap)

    @property
    def sum_dtype(self) -> type[np.uint16 | np.int32]:
        """The smallest type that holds any sum; whole grey levels under flat weights fit 16 bits."""
        small = self.bits == 0 and 255 * peak_weight(self.grid, self.taper) < 1 << 16
        return np.uint16 if small else np.int32

    @property
    def mean_dtype(self) -> type[np.float32 | np.float64]:
        """A float type that holds every sum exactly and rounds every quotient to the right grey level.

        A quotient that is no tie lies at least 1 / (2 * divisor) from one. Where sums stay below 2**24 the
        divisor is below 2**15, and half the last place of a float32 below 256 is 2**-17.
        """
        largest = VALUE_LIMIT * peak_weight(self.grid, self.taper) << self.bits
        return np.float32 if largest <= 1 << 24 else np.float64

    def encode(self, values: Values) -> Values:
        """Put model output on the fixed-point grid: uint8 stays, floats become integral float32 [..., 3]."""
        if values.dtype == np.uint8:
            return values if self.bits == 0 else values * np.float32(1 << self.bits)
        scaled = np.multiply(values, np.float32(1 << self.bits), dtype=np.float32)
        return np.rint(scaled, out=scaled)

    def decode(self, fixed: Values) -> UInt8:
        """Round single values half to even and clip them: uint8 of the same shape."""
        if fixed.dtype == np.uint8:
            return fixed
        return _to_uint8(np.multiply(fixed, np.float32(2.0**-self.bits), dtype=np.float32))

    def mean(self, sums: Sums, row_weights: Int32, column_weights: Int32) -> UInt8:
        """Divide weighted sums [h, w, 3] by the outer product of total weights [h] and [w]: uint8."""
        # Flattened to [h, 3 w], since NumPy is slow over an innermost axis of three.
        exact: Values = sums.astype(self.mean_dtype).reshape(sums.shape[0], -1)
        divisor = (np.repeat(column_weights, 3) << self.bits).astype(exact.dtype)
        if row_weights.min() == row_weights.max():
            np.divide(exact, divisor * row_weights[0], out=exact)
        else:
            np.divide(exact, np.multiply.outer(row_weights.astype(exact.dtype), divisor), out=exact)
        return _to_uint8(exact).reshape(sums.shape)


@lru_cache(maxsize=64)
def peak_weight(grid: PatchGrid, taper: Taper) -> int:
    """Largest total weight that any pixel can have, wherever it lies."""
    axis = AxisGrid(4 * grid.tile, grid.tile, grid.overlap)
    weights = taper.weights(tile=grid.tile, overlap=grid.overlap)
    return int(axis.total_weight(weights, 0, axis.length).max()) ** 2


def fraction_bits(grid: PatchGrid, taper: Taper) -> int:
    """Finest fixed-point grid whose sums fit 32 bits; negative when nothing fits.

    At most 12: float32 then still holds each scaled value exactly.
    """
    return min(12, 31 - (VALUE_LIMIT * peak_weight(grid, taper) - 1).bit_length())


def _to_uint8(values: npt.NDArray[np.floating[Any]]) -> UInt8:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _add(target: Sums, values: Values, row_weights: Int32, column_weights: Int32) -> None:
    """Add encoded values times weights; both are whole numbers, so the cast drops nothing."""
    if row_weights.max() > 1 or column_weights.max() > 1:
        values = values * np.multiply.outer(row_weights, column_weights)[:, :, None]
    np.add(target, values, out=target, casting="unsafe")


class SeamSums:
    """Weighted sums of some patches over a dense window, to be merged elsewhere."""

    def __init__(self, window: Window, blend: Blend) -> None:
        self.window = window
        self.sums: Sums = np.zeros((window.height, window.width, 3), blend.sum_dtype)
        self._weights = blend.weights

    def add(self, fixed: Values, write: Window) -> None:
        """Add one encoded patch [tile, tile, 3] at its write window."""
        inside = write.clip(self.window)
        rows, columns = inside.slices(write)
        _add(
            self.sums[inside.slices(self.window)],
            fixed[rows, columns],
            self._weights[rows],
            self._weights[columns],
        )


@dataclass(frozen=True)
class _Span:
    """A run of pixels along one axis that are all single or all multi; `packed` counts multi ones only."""

    start: int
    stop: int
    packed: int
    multi: bool


class _Axis:
    """Which pixels along one axis of a window do several patches cover?"""

    def __init__(self, axis: AxisGrid, weights: Int32, start: int, stop: int) -> None:
        self.total = axis.total_weight(weights, start, stop)
        assert self.total.all(), "uncovered pixel"
        self.multi = axis.count(start, stop) > 1
        self.packed = np.concatenate([[0], np.cumsum(self.multi)])
        self._spans: dict[tuple[int, int], list[_Span]] = {}

    def spans(self, lo: int, hi: int) -> list[_Span]:
        """Split ``[lo, hi)`` where coverage changes; the same cuts come again for every patch of a row."""
        if (lo, hi) not in self._spans:
            changes = np.flatnonzero(self.multi[lo + 1 : hi] != self.multi[lo : hi - 1]) + lo + 1
            self._spans[lo, hi] = [
                _Span(start, stop, int(self.packed[start]), bool(self.multi[start]))
                for start, stop in pairwise([lo, *changes.tolist(), hi])
            ]
        return self._spans[lo, hi]


class Accumulator:
    """The image of one window: add every patch that touches it once, merge seams, finalize.

    Parameters
    ----------
    window : the part of the canvas to make.
    blend : grid, taper and fixed point.
    image : uint8 [height, width, 3] that receives the pixels.
    """

    def __init__(self, window: Window, blend: Blend, image: UInt8) -> None:
        assert image.shape == (window.height, window.width, 3), (image.shape, window)
        self.window = window
        self.blend = blend
        self.image = image
        grid, self._weights = blend.grid, blend.weights
        self._rows = _Axis(grid.rows, self._weights, window.y, window.y_stop)
        self._columns = _Axis(grid.columns, self._weights, window.x, window.x_stop)
        self._h: Sums = np.zeros((int(self._rows.packed[-1]), window.width, 3), blend.sum_dtype)
        self._v: Sums = np.zeros((window.height, int(self._columns.packed[-1]), 3), blend.sum_dtype)

    def _pieces(self, part: Window) -> Iterator[tuple[tuple[slice, slice], Sums | None]]:
        """Cut `part` into rectangles; give their slices in the image, and the sums of multi ones."""
        top, left = part.y - self.window.y, part.x - self.window.x
        columns = self._columns.spans(left, left + part.width)
        for row in self._rows.spans(top, top + part.height):
            rows = slice(row.start, row.stop)
            if row.multi:
                packed = slice(row.packed, row.packed + row.stop - row.start)
                across = slice(left, left + part.width)
                yield (rows, across), self._h[packed, across]
                continue
            for column in columns:
                packed = slice(column.packed, column.packed + column.stop - column.start)
                yield (
                    (rows, slice(column.start, column.stop)),
                    self._v[rows, packed] if column.multi else None,
                )

    def add(self, fixed: Values, write: Window) -> None:
        """Add one encoded patch [tile, tile, 3] at its write window."""
        part = write.clip(self.window)
        if part.empty:
            return
        dy, dx = self.window.y - write.y, self.window.x - write.x
        for (rows, columns), sums in self._pieces(part):
            inner_rows = slice(rows.start + dy, rows.stop + dy)
            inner_columns = slice(columns.start + dx, columns.stop + dx)
            values = fixed[inner_rows, inner_columns]
            if sums is None:
                self.image[rows, columns] = self.blend.decode(values)
            else:
                _add(sums, values, self._weights[inner_rows], self._weights[inner_columns])

    def merge(self, sums: Sums, window: Window) -> None:
        """Add weighted sums [h, w, 3] of patches that were run elsewhere, whose writes cover `window`."""
        part = window.clip(self.window)
        if part.empty:
            return
        dy, dx = self.window.y - window.y, self.window.x - window.x
        for (rows, columns), target in self._pieces(part):
            values = sums[rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
            if target is None:
                self._divide(rows, columns, values)
            else:
                target += values

    def finalize(self) -> UInt8:
        """Divide the sums by the weights and return the finished image."""
        for (rows, columns), sums in self._pieces(self.window):
            if sums is not None:
                self._divide(rows, columns, sums)
        return self.image

    def _divide(self, rows: slice, columns: slice, sums: Sums) -> None:
        self.image[rows, columns] = self.blend.mean(
            sums, self._rows.total[rows], self._columns.total[columns]
        )
