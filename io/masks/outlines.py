r"""Where do the regions of a piece of a mask end?

A region is a set of pixels of one label that are joined by their sides. Its outlines run along the sides of pixels, with the
region on their right, so that the outer one turns clockwise as seen on screen and holes turn the other way::

    +-->--+        a run is a straight piece along sides of one region, a corner is where runs meet
    | a a |
    ^ a +-<+       where two pixels of a region touch by a corner alone, the outline turns left: a hole may touch
    | a |  b       another hole or the outer outline in a point, and no outline touches itself (as OGC asks of polygons)
    +-<-+

A piece knows the labels around it, but not which regions are joined further away. So its outlines are cut at the corners on
its border, into chains; `link` joins chains as it joins runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
EAST, SOUTH, WEST, NORTH = range(4)


@dataclass(frozen=True)
class Chains:
    """Pieces of outlines, each a row of runs.

    Attributes
    ----------
    points
        int64 [n, 2]: x, y in canvas pixels where each run begins, chain after chain.
    counts
        int64 [c]: runs of each chain.
    region
        int64 [c]: the region on the right.
    begin, end
        int64 [c, 2]: x, y of the corners where it begins and ends; the same for a whole outline.
    leaves, comes
        int64 [c]: directions of its first and of its last run.
    area
        int64 [c]: sum of x dy over its runs; over a whole outline this is the area inside, negative for a hole.
    """

    points: Int64
    counts: Int64
    region: Int64
    begin: Int64
    end: Int64
    leaves: Int64
    comes: Int64
    area: Int64


def regions_of(
    labels: npt.NDArray[Any], left_out: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Number the regions of a piece.

    Parameters
    ----------
    labels
        uint8 [y, x].
    left_out
        bool [256]: labels that are not drawn.

    Returns
    -------
    regions, values
        int32 [y, x]: numbers from 1, 0 where a label is left out, the same whenever it is asked; and the label of each
        number, uint8 [count + 1].
    """
    regions = np.zeros(labels.shape, np.int32)
    values = [np.zeros(1, np.uint8)]
    count = 0
    present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256))
    for value in present[~left_out[present]]:
        if len(present) == 1:
            regions[:] = 1
            return regions, np.array([0, value], np.uint8)
        found, numbers = cv2.connectedComponents((labels == value).view(np.uint8), connectivity=4)
        if count:
            np.add(numbers, count, out=numbers, where=numbers > 0)
        regions += numbers
        values.append(np.full(found - 1, value, np.uint8))
        count += found - 1
    return regions, np.concatenate(values)


def outlines(
    labels: npt.NDArray[Any], regions: npt.NDArray[np.int32], names: Int64, y: int, x: int
) -> Chains:
    """Trace the outlines in a piece.

    Parameters
    ----------
    labels
        int16 [h + 2, w + 2]: the piece and the pixels around it; beyond the canvas any value that is no label.
    regions
        int32 [h, w]: see `regions_of`.
    names
        int64 [n]: by number in `regions`, the number that all pieces of a region share; 0 is not drawn.
    y, x
        Canvas position of the piece's first pixel.
    """
    height, width = regions.shape
    inner = labels[1:-1, 1:-1]
    sides = (
        (EAST, _runs(inner != labels[:-2, 1:-1], regions)),
        (SOUTH, _runs((inner != labels[1:-1, 2:]).T, regions.T)),
        (WEST, _runs(inner != labels[2:, 1:-1], regions)),
        (NORTH, _runs((inner != labels[1:-1, :-2]).T, regions.T)),
    )
    begin, end, region, direction = (
        np.concatenate(parts) for parts in zip(*(_edges(way, *found) for way, found in sides), strict=True)
    )
    known, which = np.unique(names, return_inverse=True)
    if known[0] == 0:  # not drawn
        drawn = np.flatnonzero(names[region])
        begin, end, region, direction = begin[drawn], end[drawn], region[drawn], direction[drawn]
    across = np.array([1, width + 1])
    onward = link(
        begin @ across, end @ across, which.reshape(-1)[region].astype(np.int64), direction, direction
    )
    region = names[region]
    at_border = (end == 0).any(axis=1) | (end == (width, height)).any(axis=1)
    onward[at_border] = -1
    order, counts = _follow(onward)
    first = np.cumsum(counts) - counts
    last = order[first + counts - 1]
    place = np.array([x, y], np.int64)
    begin, end = begin + place, end + place
    steps = begin[:, 0] * (end[:, 1] - begin[:, 1])
    area = np.add.reduceat(steps[order], first) if len(first) else steps
    head = order[first]
    return Chains(
        begin[order], counts, region[head], begin[head], end[last], direction[head], direction[last], area
    )


def link(begin: Int64, end: Int64, region: Int64, leaves: Int64, comes: Int64) -> Int64:
    """Find what follows each run or chain: that of the same region which begins where it ends.

    Parameters
    ----------
    begin, end
        int64 [n]: numbers of its corners.
    region
        int64 [n]: small numbers; the product with those of corners stays below 2 ** 61.
    leaves, comes
        int64 [n]: directions at its beginning and at its end.

    Returns
    -------
    Int64
        int64 [n]: number of the next one, -1 where nothing begins.
    """
    count = len(begin)
    if not count:
        return np.zeros(0, np.int64)
    among = int(region.max()) + 1
    starts = (begin * among + region) * 4 + leaves
    wanted = (end * among + region) * 4
    order = np.argsort(starts)  # no two are equal
    starts = np.append(starts[order], [-4, -4])
    found = np.searchsorted(starts[:count], wanted)
    exists, two = (starts[found + more] >> 2 == wanted >> 2 for more in (0, 1))
    # Where the region touches itself by a corner two begin, and the one to the left follows.
    found[two] = np.searchsorted(starts[:count], wanted[two] + (comes[two] - 1) % 4)
    found[~exists] = 0
    return np.where(exists, order[found], -1)


def corner_numbers(*corners: Int64) -> list[Int64]:
    """Number corners, each array int64 [n, 2] of x, y, so that equal ones have equal numbers."""
    together = np.concatenate(corners)
    lines = _dense(together[:, 1])
    numbers = _dense(lines * (int(together[:, 0].max(initial=0)) + 1) + together[:, 0])
    return np.split(numbers, np.cumsum([len(one) for one in corners])[:-1])


def _runs(side: npt.NDArray[np.bool_], regions: npt.NDArray[np.int32]) -> tuple[Int64, Int64, Int64, Int64]:
    """Line, first and last (exclusive) pixel, and region of each straight piece of sides, line by line."""
    width = side.shape[1]
    flat = np.flatnonzero(side)
    line, at = np.divmod(flat, width)
    region = regions[line, at].astype(np.int64)
    if not region.all():
        kept = np.flatnonzero(region)
        flat, line, at, region = flat[kept], line[kept], at[kept], region[kept]
    new = np.ones(len(flat), bool)
    new[1:] = (np.diff(flat) != 1) | (at[1:] == 0) | (region[1:] != region[:-1])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(flat))[: len(first)] - 1
    return line[first], at[first], at[last] + 1, region[first]


def _edges(
    direction: int, line: Int64, first: Int64, last: Int64, region: Int64
) -> tuple[Int64, Int64, Int64, Int64]:
    """Corners (x, y) where runs begin and end, their regions and directions."""
    line = line + (direction in (SOUTH, WEST))  # the far side of its pixels
    start, stop = (first, last) if direction in (EAST, SOUTH) else (last, first)
    axes = (0, 1) if direction in (EAST, WEST) else (1, 0)
    begin, end = (np.stack([at, line], axis=1)[:, axes] for at in (start, stop))
    return begin, end, region, np.full(len(line), direction, np.int64)


def _follow(onward: Int64) -> tuple[Int64, Int64]:
    """Put runs in the order in which they follow each other; also the number of runs in each chain."""
    is_head = np.ones(len(onward), bool)
    is_head[onward[onward >= 0]] = False
    following = onward.tolist()
    order: list[int] = []
    bounds = [0]
    for head in np.flatnonzero(is_head).tolist():
        while head >= 0:
            order.append(head)
            head = following[head]
        bounds.append(len(order))
    seen = np.zeros(len(onward), bool)
    seen[order] = True
    rest = bytearray(seen.tobytes())
    for head in np.flatnonzero(~seen).tolist():
        if rest[head]:
            continue
        while not rest[head]:
            rest[head] = 1
            order.append(head)
            head = following[head]
        bounds.append(len(order))
    starts = np.array(bounds, np.int64)
    return np.array(order, np.int64), starts[1:] - starts[:-1]


def _dense(values: Int64) -> Int64:
    """Number values by their rank."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
