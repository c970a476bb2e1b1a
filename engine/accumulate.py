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
        exact = sums.astype(self.mean_dtype)
        divisor = np.multiply.outer(row_weights, column_weights) << self.bits
        if divisor.min() == divisor.max():
            exact /= exact.dtype.type(divisor[0, 0])
        else:
            exact /= divisor.astype(exact.dtype)[:, :, None]
        return _to_uint8(exact)


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


def _spans(multi: npt.NDArray[np.bool_], packed: npt.NDArray[np.intp], lo: int, hi: int) -> Iterator[_Span]:
    """Split ``[lo, hi)`` where `multi` changes."""
    edges = [lo, *(np.flatnonzero(multi[lo + 1 : hi] != multi[lo : hi - 1]) + lo + 1).tolist(), hi]
    for start, stop in pairwise(edges):
        if stop > start:
            yield _Span(start, stop, int(packed[start]), bool(multi[start]))


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
        grid = blend.grid
        self._row_total, self._column_total = grid.total_weights(blend.taper, window)
        assert self._row_total.all(), "uncovered row"
        assert self._column_total.all(), "uncovered column"
        self._row_multi = grid.rows.count(window.y, window.y_stop) > 1
        self._column_multi = grid.columns.count(window.x, window.x_stop) > 1
        self._row_packed: npt.NDArray[np.intp] = np.cumsum(self._row_multi) - self._row_multi
        self._column_packed: npt.NDArray[np.intp] = np.cumsum(self._column_multi) - self._column_multi
        self._h: Sums = np.zeros((int(self._row_multi.sum()), window.width, 3), blend.sum_dtype)
        self._v: Sums = np.zeros((window.height, int(self._column_multi.sum()), 3), blend.sum_dtype)
        self._weights = blend.weights

    def _pieces(self, part: Window) -> Iterator[tuple[_Span, _Span, slice, slice]]:
        """Cut `part` into single and multi rectangles; the slices are relative to `part`."""
        top, left = part.y - self.window.y, part.x - self.window.x
        columns = list(_spans(self._column_multi, self._column_packed, left, left + part.width))
        for row in _spans(self._row_multi, self._row_packed, top, top + part.height):
            for column in columns:
                yield (
                    row,
                    column,
                    slice(row.start - top, row.stop - top),
                    slice(column.start - left, column.stop - left),
                )

    def _band(self, row: _Span, column: _Span) -> Sums:
        """The sums that hold a multi rectangle."""
        if row.multi:
            return self._h[row.packed : row.packed + row.stop - row.start, column.start : column.stop]
        return self._v[row.start : row.stop, column.packed : column.packed + column.stop - column.start]

    def add(self, fixed: Values, write: Window) -> None:
        """Add one encoded patch [tile, tile, 3] at its write window."""
        part = write.clip(self.window)
        if part.empty:
            return
        cut = fixed[part.slices(write)]
        row_weights = self._weights[part.y - write.y : part.y_stop - write.y]
        column_weights = self._weights[part.x - write.x : part.x_stop - write.x]
        for row, column, rows, columns in self._pieces(part):
            values = cut[rows, columns]
            if not (row.multi or column.multi):
                self.image[row.start : row.stop, column.start : column.stop] = self.blend.decode(values)
            else:
                _add(self._band(row, column), values, row_weights[rows], column_weights[columns])

    def merge(self, sums: Sums, window: Window) -> None:
        """Add weighted sums [h, w, 3] of patches that were run elsewhere, whose writes cover `window`."""
        part = window.clip(self.window)
        if part.empty:
            return
        cut = sums[part.slices(window)]
        for row, column, rows, columns in self._pieces(part):
            values = cut[rows, columns]
            if row.multi or column.multi:
                band = self._band(row, column)
                band += values
            else:
                self.image[row.start : row.stop, column.start : column.stop] = self.blend.mean(
                    values,
                    self._row_total[row.start : row.stop],
                    self._column_total[column.start : column.stop],
                )

    def finalize(self) -> UInt8:
        """Divide the sums by the weights and return the finished image."""
        for row, column, _, _ in self._pieces(self.window):
            if row.multi or column.multi:
                self.image[row.start : row.stop, column.start : column.stop] = self.blend.mean(
                    self._band(row, column),
                    self._row_total[row.start : row.stop],
                    self._column_total[column.start : column.stop],
                )
        return self.image
