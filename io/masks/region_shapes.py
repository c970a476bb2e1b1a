"""Which polygons are the regions of a whole mask, in memory that does not grow with its pixels?

The mask is read twice, piece by piece. The first time, regions that touch across the border of two pieces are joined; the second
time, their outlines are traced (see `safron.io.masks.outlines`) and their corners appended to a file. What stays in memory is
one piece, some 30 bytes for each region of a piece, and some 100 for each outline or part of one::

    1. number the regions of each piece, join those that touch across borders   -> region of every number
    2. outlines of each piece, cut at its border                                 -> chains, corners on disk
    3. join chains to rings, group them by region, the outer one first           -> polygons, one at a time
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.offsets import read_at

from .mask import LabelMask
from .outlines import Chains, Int64, corner_numbers, link, outlines, regions_of
from .stored import Pieces, pieces_of

PIECE = 2048
"""Side of a piece, in pixels."""

_BEYOND = -1
_POINT = np.dtype("<i8")


@dataclass(frozen=True)
class Shape:
    """One region as a polygon.

    Attributes
    ----------
    value
        Its label.
    area
        Its pixels.
    rings
        Corners int64 [n, 2] of x, y, not closed: the outer ring, then holes; a function that reads them one by one.
    """

    value: int
    area: int
    rings: Callable[[], Iterator[Int64]]


class _Joined:
    """Numbers of the regions of all pieces, and which of them are one."""

    def __init__(self) -> None:
        self.count = 1  # 0 is what is left out
        self.pairs: list[Int64] = []
        self.values: list[npt.NDArray[np.uint8]] = []
        self.areas: list[Int64] = []

    def add(self, regions: npt.NDArray[np.int32], values: npt.NDArray[np.uint8]) -> int:
        """Number the regions of a piece among all; returns what is added to their own numbers."""
        base = self.count - 1
        self.count += len(values) - 1
        self.areas.append(np.bincount(regions.reshape(-1), minlength=len(values))[1:].astype(np.int64))
        self.values.append(values[1:])
        return base

    def touch(self, one: Int64, other: Int64, same: npt.NDArray[np.bool_]) -> None:
        """Join regions along a border: numbers on both sides, where the labels are the same."""
        met = np.stack([one, other], axis=1)[same & (one > 0)]
        if len(met):
            self.pairs.append(np.unique(met, axis=0))

    def roots(self) -> tuple[Int64, Int64, npt.NDArray[np.uint8]]:
        """Smallest number of the region that each number belongs to; area and label by number."""
        parent = list(range(self.count))
        for pairs in self.pairs:
            for one, other in pairs.tolist():
                one, other = _find(parent, one), _find(parent, other)
                parent[max(one, other)] = min(one, other)
        root = np.array(parent, np.int64)
        while (above := root[root] != root).any():
            root[above] = root[root[above]]
        areas = np.zeros(self.count, np.int64)
        np.add.at(areas, root[1:], np.concatenate([*self.areas, np.zeros(0, np.int64)]))
        return root, areas, np.concatenate([np.zeros(1, np.uint8), *self.values])


def _find(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


def shapes(
    mask: LabelMask,
    *,
    left_out: npt.NDArray[np.bool_],
    min_area: int = 0,
    folder: Path | None = None,
    progress: Callable[[int], None] = lambda pixels: None,
    piece: int = PIECE,
) -> Iterator[Shape]:
    """Give the regions of a mask as polygons.

    Parameters
    ----------
    mask
        Read twice.
    left_out
        bool [256]: labels that are not drawn.
    min_area
        Smaller regions and smaller holes are left out, in pixels.
    folder
        Where a file for the corners may lie meanwhile, 16 bytes each.
    progress
        Called with the number of pixels of each piece that was read, and of those that need not be.
    piece
        Side of a piece, in pixels.

    Yields
    ------
    Shape
        In the order of each region's first piece; its rings can be read until the next one is asked for.
    """
    pieces = pieces_of(
        mask,
        (piece, piece),
        remedy="leave out the label of what is not stored, as --background N, or correct its metadata",
        needless=lambda pixel: bool(left_out[mask[pixel][0, 0]]),
    )
    progress(2 * (math.prod(mask.shape) - pieces.pixels))
    joined, bases = _number(mask, pieces, left_out, progress)
    root, areas, values = joined.roots()
    drawn = (areas >= max(1, min_area))[root] & (root > 0)
    number = np.where(drawn, root, 0)
    with tempfile.TemporaryFile(dir=folder) as file:
        found: list[Chains] = []
        for (rows, cols), base in zip(pieces.regions, bases, strict=True):
            around, labels = _around(mask, rows, cols)
            progress(labels.size)
            if (around == around[0, 0]).all():
                continue
            regions, here = regions_of(labels, left_out)
            names = np.append(0, number[base + 1 : base + len(here)])
            chains = outlines(around, regions, names, rows.start, cols.start)
            file.write(chains.points.astype(_POINT).tobytes())
            if len(chains.counts):
                found.append(_without_points(chains))
        file.flush()
        if found:
            yield from _shapes(_Rings.of(found), file, areas, values, min_area)


def _number(
    mask: LabelMask, pieces: Pieces, left_out: npt.NDArray[np.bool_], progress: Callable[[int], None]
) -> tuple[_Joined, list[int]]:
    """Number all regions; also what to add to the numbers of each piece."""
    joined, bases = _Joined(), []
    # By their first column, the last row of the pieces above: where it ends, its labels and regions.
    above: dict[int, tuple[int, npt.NDArray[np.uint8], Int64]] = {}
    beside: tuple[int, int] | None = None
    right: tuple[Any, Any] = (None, None)
    row = -1
    for rows, cols in pieces.regions:
        if rows.start != row:
            row, above = rows.start, {x: last for x, last in above.items() if last[0] == rows.start}
        labels = mask[rows, cols]
        progress(labels.size)
        regions, here = regions_of(labels, left_out)
        base = joined.add(regions, here)
        bases.append(base)
        borders = regions[0], regions[-1], regions[:, 0], regions[:, -1]
        top, bottom, left, last = (np.where(border > 0, border + np.int64(base), 0) for border in borders)
        if cols.start in above:
            _, labels_above, regions_above = above[cols.start]
            joined.touch(regions_above, top, labels_above == labels[0])
        if beside == (rows.start, cols.start):
            joined.touch(right[1], left, right[0] == labels[:, 0])
        above[cols.start] = rows.stop, labels[-1].copy(), bottom
        beside, right = (rows.start, cols.stop), (labels[:, -1].copy(), last)
    return joined, bases


def _around(mask: LabelMask, rows: slice, cols: slice) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Labels of a piece with those around it, and without."""
    height, width = mask.shape
    top, left = max(0, rows.start - 1), max(0, cols.start - 1)
    bottom, right = min(height, rows.stop + 1), min(width, cols.stop + 1)
    around = np.full((rows.stop - rows.start + 2, cols.stop - cols.start + 2), _BEYOND, np.int16)
    read = mask[top:bottom, left:right]
    y, x = top - rows.start + 1, left - cols.start + 1
    around[y : y + read.shape[0], x : x + read.shape[1]] = read
    return around, read[rows.start - top :, cols.start - left :][
        : rows.stop - rows.start, : cols.stop - cols.start
    ]


def _without_points(chains: Chains) -> Chains:
    return Chains(np.zeros((0, 2), np.int64), *(getattr(chains, name) for name in _FIELDS))


_FIELDS = ("counts", "region", "begin", "end", "leaves", "comes", "area")


@dataclass(frozen=True)
class _Rings:
    """Chains of the whole mask, in the order in which they make rings.

    Attributes
    ----------
    offset, count
        int64 [c]: where a chain's corners lie in the file, and how many there are.
    straight
        bool [c]: its first corner is none, for the chain before it leads straight on.
    bounds
        int64 [r + 1]: of the chains of each ring.
    region, area
        int64 [r].
    """

    offset: Int64
    count: Int64
    straight: npt.NDArray[np.bool_]
    bounds: Int64
    region: Int64
    area: Int64

    @classmethod
    def of(cls, parts: list[Chains]) -> _Rings:
        counts, region, begin, end, leaves, comes, area = (
            np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS
        )
        parts.clear()
        small = np.unique(region, return_inverse=True)[1].reshape(-1)
        from_corner, to_corner = corner_numbers(begin, end)
        onward = link(from_corner, to_corner, small, leaves, comes)
        before = np.empty_like(onward)
        before[onward] = np.arange(len(onward))
        straight = comes[before] == leaves
        order, size = _cycles(onward)
        first = np.cumsum(size) - size
        offset = np.cumsum(counts) - counts
        rings = np.add.reduceat(area[order], first)
        # By region, the outer ring before the holes.
        by_region = np.lexsort((rings < 0, region[order[first]]))
        chosen = np.concatenate(
            [order[f : f + n] for f, n in zip(first[by_region], size[by_region], strict=True)]
        )
        bounds = np.append(0, np.cumsum(size[by_region]))
        return cls(
            offset[chosen],
            counts[chosen],
            straight[chosen],
            bounds,
            region[order[first]][by_region],
            rings[by_region],
        )


def _cycles(onward: Int64) -> tuple[Int64, Int64]:
    """Chains in the order in which they follow each other; number of chains in each ring."""
    assert (onward >= 0).all(), "an outline does not close"
    following, seen = onward.tolist(), bytearray(len(onward))
    order: list[int] = []
    bounds = [0]
    for head in range(len(following)):
        while not seen[head]:
            seen[head] = 1
            order.append(head)
            head = following[head]
        if len(order) > bounds[-1]:
            bounds.append(len(order))
    starts = np.array(bounds, np.int64)
    return np.array(order, np.int64), starts[1:] - starts[:-1]


def _shapes(
    rings: _Rings, file: Any, areas: Int64, values: npt.NDArray[np.uint8], min_area: int
) -> Iterator[Shape]:
    firsts = np.append(np.flatnonzero(np.diff(rings.region, prepend=-1)), len(rings.region))
    for first, last in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        assert rings.area[first] > 0, "a region without an outer outline"
        assert (rings.area[first + 1 : last] < 0).all(), "a region with two outer outlines"
        kept = [first, *(ring for ring in range(first + 1, last) if -rings.area[ring] >= min_area)]

        def read(kept: list[int] = kept) -> Iterator[Int64]:
            for ring in kept:
                yield _corners(file.fileno(), rings, ring)

        region = int(rings.region[first])
        yield Shape(int(values[region]), int(areas[region]), read)


def _corners(file: int, rings: _Rings, ring: int) -> Int64:
    """Read the corners of a ring; not by mapping the file, whose pages would count as this process's memory."""
    parts = []
    for chain in range(int(rings.bounds[ring]), int(rings.bounds[ring + 1])):
        count, offset = int(rings.count[chain]), int(rings.offset[chain])
        data = read_at(file, 2 * _POINT.itemsize * count, 2 * _POINT.itemsize * offset)
        parts.append(np.frombuffer(data, _POINT).reshape(-1, 2)[int(rings.straight[chain]) :])
    return np.concatenate(parts).astype(np.int64)
