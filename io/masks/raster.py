"""Which pixels does each of half a million polygons hold?

A pixel belongs to a polygon if its centre does, as in `annotations`, whatever region is drawn. All polygons of a region
are drawn together: each gets a box of its own in one long buffer, and every row of a box one column more than its pixels.

    buffer   |- box of polygon 1 -|--- box of polygon 2 ---|- ...
    row      0 1 0 0 1 0            crossings flip a bit
    inside   0 1 1 1 0 0            the running xor; each row has an even number of crossings, so the next one begins with 0
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .drawing import inside
from .mask import MAX_SIDE
from .polygons import PolygonSet

CELL = 1024
"""Side of a cell of the index, in pixels."""

MOST_PIXELS = 1 << 18
"""Pixels of boxes drawn at a time; larger ones, of tissue, are drawn alone."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """Polygons, and what is written where they are.

    Attributes
    ----------
    polygons
        Later ones cover earlier ones.
    labels
        uint8 [polygons]: their labels.
    numbers
        uint32 [polygons]: their numbers as instances, ascending; or 0 for all of them, which have none.
    canvas
        Height and width of what is drawn, in pixels: no more of a polygon is indexed.
    """

    polygons: PolygonSet
    labels: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint32]
    canvas: tuple[int, int] = (MAX_SIDE, MAX_SIDE)

    def paint(
        self, rows: slice, cols: slice, labels: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint32]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Draw all polygons of a region upon what is there.

        Parameters
        ----------
        rows, cols
            The region, in canvas pixels.
        labels, numbers
            [y, x], contiguous, of the region; they are changed.

        Returns
        -------
        tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
            bool [polygons] each: which of them hold a pixel of the region, and which of those with numbers one that a later one
            holds, too.
        """
        held, covered = np.zeros(len(self.polygons), bool), np.zeros(len(self.polygons), bool)
        flat_labels, flat_numbers = labels.reshape(-1), numbers.reshape(-1)
        region = np.array([rows.start, cols.start, rows.stop, cols.stop])
        near = self._near(rows, cols)
        boxes = self.polygons.boxes[near]
        boxes = np.concatenate(
            [np.maximum(boxes[:, :2], region[:2]), np.minimum(boxes[:, 2:], region[2:])], axis=1
        )
        met = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
        near, boxes = near[met], boxes[met]
        for some in _batches(boxes):
            drawn, part = near[some], boxes[some]
            if len(drawn) == 1:
                y0, x0, y1, x1 = part[0].tolist()
                within = inside(_edges_of_one(self.polygons, int(drawn[0])), y0, y1, x0, x1)
                window = np.s_[y0 - rows.start : y1 - rows.start, x0 - cols.start : x1 - cols.start]
                covered[self._of(numbers[window][within])] = True
                labels[window][within] = self.labels[drawn[0]]
                numbers[window][within] = self.numbers[drawn[0]]
                held[drawn[0]] = within.any()
                continue
            which, row, col = _pixels(self.polygons, drawn, part)
            place = (row - rows.start) * labels.shape[1] + col - cols.start
            own = self.numbers[drawn][which]
            covered[self._of(flat_numbers[place])] = True
            # Of a place that is named twice, NumPy keeps the last value.
            flat_labels[place] = self.labels[drawn][which]
            flat_numbers[place] = own
            covered[self._of(own[flat_numbers[place] != own])] = True
            held[drawn[which]] = True
        return held, covered

    def _of(self, numbers: npt.NDArray[np.uint32]) -> Integers:
        """Which polygons have some numbers, of which 0 is none."""
        return np.asarray(np.searchsorted(self.numbers, numbers[numbers != 0]), np.int64)

    def _near(self, rows: slice, cols: slice) -> Integers:
        """Polygons whose boxes meet a region, ascending, and a few more."""
        cells, order, across = self._index
        wanted = [
            row * across + col
            for row in range(rows.start // CELL, -(-rows.stop // CELL))
            for col in range(cols.start // CELL, min(across, -(-cols.stop // CELL)))
        ]
        starts, stops = (np.searchsorted(cells, wanted, side=side).tolist() for side in ("left", "right"))
        found = [order[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

    @cached_property
    def _index(self) -> tuple[Integers, Integers, int]:
        """Cells that hold polygons, ascending and once for each, these polygons, and cells in a row.

        Cells without any are not in it, since a single polygon may lie a million cells away.
        """
        boxes = np.clip(self.polygons.boxes, 0, self.canvas * 2)
        y0, x0, y1, x1 = (boxes[:, :2] // CELL).T.tolist() + (-(-boxes[:, 2:] // CELL)).T.tolist()
        first, last = np.array([y0, x0]), np.array([y1, x1])
        down, along = np.maximum(last - first, 0)
        across = int(last[1].max(initial=1))
        which, place = _spread(down * along)
        cells = (first[0][which] + place // np.maximum(along[which], 1)) * across
        cells += first[1][which] + place % np.maximum(along[which], 1)
        order = np.argsort(cells, kind="stable")
        return cells[order], which[order], across


def _batches(boxes: Integers) -> Iterator[slice]:
    """Cut boxes [n, 4] into runs of no more than `MOST_PIXELS`, or of one."""
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1] + 1)
    start, total = 0, 0
    for end, size in enumerate(sizes.tolist()):
        if total and total + size > MOST_PIXELS:
            yield slice(start, end)
            start, total = end, 0
        total += size
    if total:
        yield slice(start, len(boxes))


def _spread(counts: Integers) -> tuple[Integers, Integers]:
    """Number `counts[i]` members of each i: which i each member is of, and its number there.

    >>> _spread(np.array([2, 0, 3]))
    (array([0, 0, 2, 2, 2]), array([0, 1, 0, 1, 2]))
    """
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


def _pixels(polygons: PolygonSet, drawn: Integers, boxes: Integers) -> tuple[Integers, Integers, Integers]:
    """Pixels inside polygons: for each which of `drawn` it is of, its row and its column; polygon by polygon.

    Parameters
    ----------
    drawn
        int64 [n]: which polygons.
    boxes
        int64 [n, 4]: y0, x0, y1, x1 of the part of each that is wanted.
    """
    y0, x0, y1, x1 = boxes.T
    wide = x1 - x0 + 1  # one more, for crossings to the right of the box
    area = (y1 - y0) * wide
    base = np.cumsum(area) - area
    owner, upper, lower = _edges(polygons, drawn)
    first = np.maximum(np.ceil(upper[:, 1] - 0.5), y0[owner]).astype(np.int64)
    last = np.minimum(np.ceil(lower[:, 1] - 0.5), y1[owner]).astype(np.int64)
    met = last > first
    owner, upper, lower, first, last = owner[met], upper[met], lower[met], first[met], last[met]
    edge, step = _spread(last - first)
    row, owner = first[edge] + step, owner[edge]
    slope = (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
    crossing = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope[edge]
    col = np.clip(np.ceil(crossing - 0.5).astype(np.int64) - x0[owner], 0, wide[owner] - 1)
    flips = np.bincount(base[owner] + (row - y0[owner]) * wide[owner] + col, minlength=int(area.sum()))
    within = np.bitwise_xor.accumulate((flips & 1).astype(np.uint8))
    place = np.flatnonzero(within)
    which = np.searchsorted(base, place, side="right") - 1
    down, along = np.divmod(place - base[which], wide[which])
    return which, y0[which] + down, x0[which] + along


def _edges_of_one(polygons: PolygonSet, number: int) -> npt.NDArray[np.float64]:
    """Edges of one polygon as `annotations.inside` takes them: float64 [n, 4]."""
    _, upper, lower = _edges(polygons, np.array([number]))
    edges = np.concatenate([upper, lower], axis=1)
    return edges[edges[:, 1] < edges[:, 3]]


def _edges(
    polygons: PolygonSet, drawn: Integers
) -> tuple[Integers, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Edges of polygons: which of `drawn` each is of, and its upper and lower end, float64 [n, 2] x, y in pixels.

    Oriented alike whichever polygon they belong to, so that a shared edge crosses rows at the same places.
    """
    starts, stops = polygons.polygons[drawn], polygons.polygons[drawn + 1]
    of, nth = _spread(stops - starts)
    ring = starts[of] + nth
    begin, size = polygons.rings[ring], np.diff(polygons.rings)[ring]
    in_ring, nth = _spread(size)
    here = begin[in_ring] + nth
    following = begin[in_ring] + (nth + 1) % size[in_ring]
    one, other = polygons.xy[here] / polygons.scale, polygons.xy[following] / polygons.scale
    down = (one[:, 1] <= other[:, 1])[:, None]
    return of[in_ring], np.where(down, one, other), np.where(down, other, one)
