"""How do overlapping patches become one image, the same whatever the order?

Each pixel is ``sum(w * p) / sum(w)`` over the patches that cover it, rounded half to even and clipped once. Patch values
are multiples of ``2**-bits`` grey levels and weights are integers, so sums are exact: the order of patches, blocks and
workers cannot change a bit. The divisor depends on the grid alone and is separable, so it is computed, not summed.

Most pixels are covered by one patch and go straight into the image. Sums exist only in the bands where patches overlap::

    columns   single   multi  single          H: rows where patches overlap, full width
            +--------+------+--------+        V: columns where patches overlap, other rows
    single  | image  |  V   | image  |
    multi   |   H    |  H   |   H    |
    single  | image  |  V   | image  |
            +--------+------+--------+

The C extension (``engine/system/_native.c``) does the same in one pass and without Python's lock. The NumPy code here
defines what it must do, and is used where it was not compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from safron.engine.plan.fixed_point import Blend, Int32, Sums, UInt8, Values
from safron.engine.plan.grid import AxisGrid
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.engine.system.native import compiled


@dataclass(frozen=True)
class _Span:
    """Pixels ``[start, stop)`` along a patch, all covered by one patch, or all by several (`multi`)."""

    start: int
    stop: int
    multi: bool


@dataclass(frozen=True)
class _Pieces:
    """Pixels ``[left, right)`` of each of several neighbouring `patches`, which are one stride apart."""

    patches: slice
    left: int
    right: int
    multi: bool


class _Axis:
    """Coverage along one axis of a window: which pixels do several patches write?

    Attributes
    ----------
    total
        int32 [length], total weight of each pixel.
    packed
        int32 [length + 1], number of pixels before each that several patches write; bands hold these alone.
    """

    def __init__(self, axis: AxisGrid, weights: Int32, start: int, stop: int) -> None:
        self.total = axis.total_weight(weights, start, stop)
        assert self.total.all(), "uncovered pixel"
        self.multi = axis.count(start, stop) > 1
        self.packed = np.concatenate([[0], np.cumsum(self.multi)]).astype(np.int32)
        self._tile, self._stride = axis.tile, axis.stride
        self._pieces: dict[tuple[int, int], list[_Pieces]] = {}

    def __len__(self) -> int:
        return len(self.total)

    def band(self, part: slice) -> slice:
        """Return where the multi pixels of `part` lie in a band."""
        return slice(int(self.packed[part.start]), int(self.packed[part.stop]))

    def runs(self) -> list[slice]:
        """Return the runs of multi pixels."""
        changes = np.flatnonzero(np.diff(self.multi, prepend=False, append=False)).tolist()
        return [slice(start, stop) for start, stop in zip(changes[::2], changes[1::2], strict=True)]

    def spans(self, origin: int) -> list[_Span]:
        """Cut the visible part of the patch at `origin` where coverage changes; positions count from `origin`."""
        lo, hi = max(origin, 0), min(origin + self._tile, len(self))
        if lo >= hi:
            return []
        changes = np.flatnonzero(self.multi[lo + 1 : hi] != self.multi[lo : hi - 1]) + lo + 1
        return [
            _Span(start - origin, stop - origin, bool(self.multi[start]))
            for start, stop in pairwise([lo, *changes.tolist(), hi])
        ]

    def pieces(self, origin: int, count: int) -> list[_Pieces]:
        """Cut a row of `count` patches, the first at `origin`, into pieces that the patches have in common.

        A piece is at most one stride long, so pieces of neighbours do not overlap. Every row of patches has the same
        pieces, so they are cached.
        """
        if (origin, count) not in self._pieces:
            self._pieces[origin, count] = list(self._cut(origin, count))
        return self._pieces[origin, count]

    def _cut(self, origin: int, count: int) -> Iterator[_Pieces]:
        cuts = [self.spans(origin + index * self._stride) for index in range(count)]
        first = 0
        for spans, alike in groupby(cuts):
            stop = first + len(list(alike))
            for span in spans:
                for left in range(span.start, span.stop, self._stride):
                    yield _Pieces(slice(first, stop), left, min(left + self._stride, span.stop), span.multi)
            first = stop


@lru_cache(maxsize=64)
def _axis(axis: AxisGrid, taper: Taper, start: int, stop: int) -> _Axis:
    return _Axis(axis, taper.weights(tile=axis.tile, overlap=axis.overlap), start, stop)


@lru_cache(maxsize=256)
def weights_side_by_side(blend: Blend, length: int) -> Int32:
    """Sum of the weights of patches a stride apart that together write so many pixels."""
    tile, stride = blend.grid.tile, blend.grid.rows.stride
    total = np.zeros(length, np.int32)
    for start in range(0, length - tile + 1, stride):
        total[start : start + tile] += blend.weights
    return total


class Accumulator:
    """The image of one window: add patches, merge other accumulators, finalize.

    Before `finalize` it holds pixels where one patch writes and weighted sums where several do. Boundary patches are kept
    in scratch in this form.

    Parameters
    ----------
    window
        Pixels to make.
    blend
        Patch grid, blend weights and fixed point.
    image
        Memory for the pixels, uint8 [height, width, 3]; zeros by default.
    sums
        Memory for at least `size` sums of `blend.sum_dtype`; zeros by default.

    Attributes
    ----------
    count
        How many of them it uses.
    """

    def __init__(
        self, window: Window, blend: Blend, image: UInt8 | None = None, sums: Sums | None = None
    ) -> None:
        shape = (window.height, window.width, 3)
        self.window = window
        self.blend = blend
        self.image = np.zeros(shape, np.uint8) if image is None else image
        assert self.image.shape == shape, (self.image.shape, window)
        grid, self._weights = blend.grid, blend.weights
        self._flat = bool(self._weights.max() == 1)
        self._rows = _axis(grid.rows, blend.taper, window.y, window.y_stop)
        self._columns = _axis(grid.columns, blend.taper, window.x, window.x_stop)
        across = (int(self._rows.packed[-1]), window.width, 3)
        down = (window.height, int(self._columns.packed[-1]), 3)
        cut, size = prod(across), prod(across) + prod(down)
        if sums is None:
            sums = np.zeros(size, blend.sum_dtype)
        self.count = size
        self._h: Sums = sums[:cut].reshape(across)
        self._v: Sums = sums[cut:size].reshape(down)

    @staticmethod
    def size(window: Window, blend: Blend) -> int:
        """Return the number of sums that a window needs."""
        rows = int(_axis(blend.grid.rows, blend.taper, window.y, window.y_stop).packed[-1])
        columns = int(_axis(blend.grid.columns, blend.taper, window.x, window.x_stop).packed[-1])
        return 3 * (rows * window.width + window.height * columns)

    def add(self, patches: Values, first: Window) -> None:
        """Add patches that lie side by side in one row.

        Parameters
        ----------
        patches
            Output of the generator, RGB 0..255, uint8, float16 or float32 [n, tile, tile, 3].
        first
            Write window of the first patch; each next one lies one stride to the right.
        """
        y, x = first.y - self.window.y, first.x - self.window.x
        if compiled is not None and (patches.dtype == np.uint8 or self.blend.sum_dtype == np.int32):
            dense = np.ascontiguousarray(patches, np.uint8 if patches.dtype == np.uint8 else np.float32)
            stride = self.blend.grid.columns.stride
            compiled.add(*self._parts(), dense, self._weights, y, x, stride, self.blend.bits)
        else:
            self._add(self.blend.encode(patches), y, x)

    def paint(self, labels: UInt8, colors: UInt8, first: Window) -> None:
        """Add rows of patches that give each label its colour: where they overlap they are alike, so they are one large one.

        Parameters
        ----------
        labels
            uint8 [height, width], of all pixels that the patches write.
        colors
            RGB by label, uint8 [256, 3].
        first
            Write window of the first patch; the next ones lie a stride to its right, and below it.
        """
        y, x = first.y - self.window.y, first.x - self.window.x
        height, width = labels.shape
        rows, columns = (weights_side_by_side(self.blend, length) for length in (height, width))
        if compiled is not None:
            compiled.add_labels(*self._parts(), labels, colors, rows, columns, y, x, self.blend.bits)
            return
        tile, stride = self.blend.grid.tile, self.blend.grid.columns.stride
        for row in range(0, height - tile + 1, stride):
            windows = sliding_window_view(labels[row : row + tile], (tile, tile))[0, ::stride]
            self.add(colors[windows], first.shift(row, 0))

    def _parts(self) -> tuple[Values, ...]:
        """Return the arguments that describe the window to the C extension."""
        return self.image, self._h, self._v, self._rows.packed, self._columns.packed

    def _add(self, fixed: Values, y: int, x: int) -> None:
        """Add fixed-point patches [n, tile, tile, 3]: the reference for the C extension."""
        for row in self._rows.spans(y):
            inside = slice(row.start, row.stop)
            rows = slice(y + row.start, y + row.stop)
            for piece in self._columns.pieces(x, len(fixed)):
                values = fixed[piece.patches, inside, piece.left : piece.right]
                column = x + piece.left + piece.patches.start * self.blend.grid.columns.stride
                if row.multi:
                    target: Values = self._spread(self._h[self._rows.band(rows)], column, values)
                elif piece.multi:
                    target = self._spread(self._v[rows], column, values, self._columns.packed)
                else:
                    self._spread(self.image[rows], column, values)[:] = self.blend.decode(values)
                    continue
                if not self._flat:
                    row_weights, column_weights = (
                        self._weights[inside],
                        self._weights[piece.left : piece.right],
                    )
                    values = values * np.multiply.outer(row_weights, column_weights)[:, :, None]
                # Values and weights are whole numbers, so the cast is exact.
                np.add(target, values, out=target, casting="unsafe")

    def _spread(
        self, strip: Values, column: int, values: Values, packed: npt.NDArray[Any] | None = None
    ) -> Values:
        """Return a view of the pixels of `strip` that `values` [n, h, w, 3] are added to, one stride apart from `column`."""
        count, height, width, _ = values.shape
        after = column + self.blend.grid.columns.stride
        if packed is not None:
            column, after = int(packed[column]), int(packed[after]) if count > 1 else 0
        first = strip[:, column : column + width]
        if count == 1:
            return first[None]
        step = (after - column) * strip.strides[1]
        return as_strided(first, (count, height, width, 3), (step, *strip.strides))

    def merge(self, other: Accumulator) -> None:
        """Add what the patches of another window wrote into this one."""
        part = other.window.clip(self.window)
        if part.empty:
            return
        mine, theirs = part.slices(self.window), part.slices(other.window)
        # Where several patches write, this copies pixels that `finalize` replaces.
        self.image[mine] = other.image[theirs]
        self._h[self._rows.band(mine[0]), mine[1]] += other._h[other._rows.band(theirs[0]), theirs[1]]
        self._v[mine[0], self._columns.band(mine[1])] += other._v[theirs[0], other._columns.band(theirs[1])]

    def finalize(self) -> UInt8:
        """Divide the sums by the total weights and return the finished image: uint8 [height, width, 3]."""
        if compiled is not None:
            blend, totals = self.blend, (self._rows.total, self._columns.total)
            compiled.divide(*self._parts(), *totals, blend.bits, blend.mean_dtype == np.float32)
        else:
            self._divide()
        return self.image

    def _divide(self) -> None:
        alone = self._rows.total[~self._rows.multi]
        # Weights are constant where one patch writes alone. Rows that several patches write get their right pixels below.
        down = (
            self._rows.total if not alone.size or np.ptp(alone) else np.full_like(self._rows.total, alone[0])
        )
        across = self.blend.mean(self._v, down, self._columns.total[self._columns.multi])
        for columns in self._columns.runs():
            self.image[:, columns] = across[:, self._columns.band(columns)]
        below = self.blend.mean(self._h, self._rows.total[self._rows.multi], self._columns.total)
        for rows in self._rows.runs():
            self.image[rows] = below[self._rows.band(rows)]
