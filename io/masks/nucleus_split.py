"""Where does one nucleus end and the next begin, if both lie in one piece?

Each pixel of a piece has a height, its distance to the outline, smoothed a little. Pixels climb to their steepest neighbour until none
is higher; those that reach one summit are a basin. This is a watershed that needs no flood, so a pixel's way depends on the pixels
near it alone. Two basins belong to one nucleus if the pass between them is nearly as high as the lower summit::

    heights along a line   0 3 6 9 8 9 6 3 0   one nucleus: the pass, 8, is above 0.85 of the summits
                           0 3 6 9 6 7 6 3 0   one: 6 is above 0.85 of 7
                           0 3 6 9 5 7 6 3 0   two: 5 is below

Heights are whole numbers, and of equal ones the earlier pixel, row by row, is higher; so the result is the same for blocks of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FARTHEST = 16
"""Pixels: distances are clipped there. The radius of a nucleus of 8 um, larger than any known."""

UNIT = 64
"""Height of a pixel's distance."""

KERNEL = np.array([1.0, 4, 6, 4, 1])
"""Smooths heights, along both axes: a Gaussian of 1 pixel, in whole numbers."""

MARGIN = FARTHEST + len(KERNEL) // 2 + 2
"""Pixels around a block from which the ways of its pixels, and of those beside it, follow."""

PASS = 0.85
"""Of the lower summit: basins with a higher pass between them are one nucleus."""

_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


def measure_heights(inside: Flags) -> Integers:
    """Measure the height of each pixel: int64 [y, x], at least 1 inside and 0 outside; exact but for `MARGIN` pixels at the rim."""
    far = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = np.minimum(np.rint(np.square(far)), FARTHEST**2)
    # Whole numbers below 2**53 are exact in float64, in any order of the sums.
    heights = np.rint(np.sqrt(near.astype(np.float64)) * UNIT)
    smooth = cv2.sepFilter2D(heights, cv2.CV_64F, KERNEL, KERNEL, borderType=cv2.BORDER_REPLICATE)
    return np.where(inside, smooth, 0).astype(np.int64)


@dataclass(frozen=True)
class Basins:
    """Basins of a block, as far as they lie in it.

    Attributes
    ----------
    labels
        int32 [y, x]: basin of each pixel from 1, 0 outside nuclei.
    ends
        int64 [basins, 2]: pixel of the block, row and column, at which ways end: a summit, or the first pixel beyond the block.
    tops
        int64 [basins]: height of the summit; 0 if it lies beyond the block.
    passes
        int64 [n, 3]: two basins from 0, and the height of the pass between them.
    beyond
        int64 [n, 4]: a basin, row and column of a pixel right of the block or below it, and the height of the pass there.
    """

    labels: npt.NDArray[np.int32]
    ends: Integers
    tops: Integers
    passes: Integers
    beyond: Integers


def find_basins(inside: Flags, block: tuple[slice, slice]) -> Basins:
    """Find the basins of a block.

    Parameters
    ----------
    inside
        bool [y, x]: pixels of nuclei, of the block and `MARGIN` pixels around it, less where the canvas ends.
    block
        Where the block lies in it.
    """
    rows, cols = ((part.start, part.stop) for part in block)
    ringed = np.pad(measure_heights(inside), 1)[rows[0] : rows[1] + 2, cols[0] : cols[1] + 2]
    own, wide = ringed[1:-1, 1:-1], ringed.shape[1]
    ways = np.arange(ringed.size).reshape(ringed.shape)
    # The pixels of the ring stay where they are; where they climb to is seen from their own block.
    ways[1:-1, 1:-1] = climb(ringed)
    flat = ways.ravel()
    while not np.array_equal(further := flat[flat], flat):
        flat = further
    reached = flat.reshape(ringed.shape)[1:-1, 1:-1]
    found, labels = np.unique(np.where(own > 0, reached, -1), return_inverse=True)
    labels = labels.reshape(own.shape) + (1 if found.size == 0 or found[0] >= 0 else 0)
    found = found[found >= 0]
    ends = np.stack(np.divmod(found, wide), axis=1) - 1
    within = (ends >= 0).all(axis=1) & (ends < own.shape).all(axis=1)
    tops = np.where(within, ringed.ravel()[found], 0)
    passes = highest(np.concatenate([_passes(own, labels, axis) for axis in (0, 1)]))
    return Basins(labels.astype(np.int32), ends, tops, passes, _beyond(ringed, labels))


def climb(heights: Integers) -> Integers:
    """Find the neighbour that each pixel climbs to, for all but the pixels of the rim.

    Parameters
    ----------
    heights
        int64 [y, x], see `measure_heights`.

    Returns
    -------
    npt.NDArray[np.int64]
        int64 [y - 2, x - 2]: place in `heights`, row by row; a summit's own.
    """
    rows, cols = (side - 2 for side in heights.shape)
    own, wide = heights[1:-1, 1:-1], heights.shape[1]
    way, steepest = np.zeros(own.shape, np.int64), np.full(own.shape, -1, np.int64)
    for down, right in _NEIGHBOURS:
        rise = heights[1 + down : 1 + down + rows, 1 + right : 1 + right + cols] - own
        step = down * wide + right
        higher = (rise >= 0) if step < 0 else (rise > 0)
        if down and right:  # not through a corner that two others share
            higher &= (heights[1 + down : 1 + down + rows, 1:-1] > 0) | (
                heights[1:-1, 1 + right : 1 + right + cols] > 0
            )
        # The square root of 2 is nearly 7 / 5.
        slope = rise * (5 if down and right else 7)
        higher &= (slope > steepest) & (own > 0)
        np.copyto(way, step, where=higher)
        np.copyto(steepest, slope, where=higher)
    return way + np.arange(heights.size).reshape(heights.shape)[1:-1, 1:-1]


def _passes(heights: Integers, labels: npt.NDArray[Any], axis: int) -> Integers:
    """Two basins, and the lower of two heights, where neighbours along an axis differ: int64 [n, 3]."""
    (low, high), (one, other) = (
        (np.moveaxis(part, axis, 0)[:-1], np.moveaxis(part, axis, 0)[1:]) for part in (heights, labels)
    )
    met = (one != other) & (one > 0) & (other > 0)
    return np.stack([one[met] - 1, other[met] - 1, np.minimum(low, high)[met]], axis=1).astype(np.int64)


def _beyond(ringed: Integers, labels: npt.NDArray[Any]) -> Integers:
    """See `Basins`."""
    height, width = labels.shape
    found: list[Integers] = []
    for rim, own, other in (
        (labels[-1], ringed[-2, 1:-1], ringed[-1, 1:-1]),
        (labels[:, -1], ringed[1:-1, -2], ringed[1:-1, -1]),
    ):
        at = np.flatnonzero((own > 0) & (other > 0))
        row, col = (np.full(len(at), height), at) if not found else (at, np.full(len(at), width))
        found.append(np.stack([rim[at] - 1, row, col, np.minimum(own, other)[at]], axis=1).astype(np.int64))
    return np.concatenate(found)


def highest(passes: Integers) -> Integers:
    """Keep the highest pass between each two basins, in the order of basins: int64 [n, 3], the lower number first."""
    pairs, heights = np.sort(passes[:, :2], axis=1), passes[:, 2]
    order = np.lexsort((-heights, pairs[:, 1], pairs[:, 0]))
    pairs, heights = pairs[order], heights[order]
    first = np.append(True, (pairs[1:] != pairs[:-1]).any(axis=1))[: len(pairs)]
    return np.concatenate([pairs[first], heights[first, None]], axis=1)


def join_basins(tops: Sequence[int], passes: Integers) -> Integers:
    """Join basins that are one nucleus, from the highest pass to the lowest.

    Parameters
    ----------
    tops
        Heights of the summits, in an order of basins that does not depend on blocks.
    passes
        See `highest`.

    Returns
    -------
    npt.NDArray[np.int64]
        int64 [basins]: a number that basins of one nucleus share.
    """
    tops, parent = list(tops), list(range(len(tops)))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = basin = parent[parent[basin]]
        return basin

    for one, other, height in passes[np.argsort(-passes[:, 2], kind="stable")].tolist():
        higher, lower = root(one), root(other)
        if tops[higher] < tops[lower]:
            higher, lower = lower, higher
        if higher != lower and height > PASS * tops[lower]:
            parent[lower] = higher
    return np.array([root(basin) for basin in range(len(tops))], np.int64)
