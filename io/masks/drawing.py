"""Which pixels lie inside polygons that are drawn one upon another?

A pixel takes the label of the last polygon that holds its centre; this depends on the polygon and the pixel alone, so that blocks
of any size give the same mask:

    row centre  ----+=========+----+===+----    pixels between the 1st and 2nd, 3rd and 4th crossing of the
                    1         2    3   4        polygon's edges are inside (even-odd, so holes stay open)

An edge that ends on a row's centre counts for one of the two rows that it touches, so that neighbours neither overlap nor
leave a gap. cv2.fillPoly would be faster, but it also fills the outline, which grows each shape by a pixel.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import counted
from safron.io.legend import DEFAULT_LABELS, Label

from .geojson import kinds_told, planes_told

CELL = 2048
"""Side of a cell of the index, in pixels."""

MANY = 4096
"""A polygon of more edges is asked for those that meet the rows at hand."""

TALL = 256
"""An edge of more rows is always among them."""


@dataclass(frozen=True)
class Polygon:
    """An outer ring with its holes.

    Attributes
    ----------
    value
        Label of the pixels inside, 0..255.
    edges
        See `edges_of`.
    box
        Y0, x0, y1, x1 of the canvas pixels that it may hold, half-open.
    name
        Of its class, for messages.
    area
        In square pixels, without its holes.
    """

    value: int
    edges: npt.NDArray[Any]
    box: tuple[int, int, int, int]
    name: str = ""
    area: float = 0.0

    def edges_at(self, y0: int, y1: int) -> npt.NDArray[Any]:
        """Edges that may cross the rows from `y0` to `y1`, and a few more."""
        if len(self.edges) <= MANY:
            return self.edges
        tall, reach = self._index
        short = self.edges[tall:]
        first = int(np.searchsorted(reach, y0, side="right"))
        last = bisect_left(range(len(short)), y1, key=lambda at: short[at, 1])
        return np.concatenate([self.edges[:tall], short[first:last]])

    @cached_property
    def _index(self) -> tuple[int, npt.NDArray[Any]]:
        """How many edges are tall, and how far down each of the others or one before it reaches."""
        tall = int(np.count_nonzero(_is_tall(self.edges)))
        return tall, np.maximum.accumulate(self.edges[tall:, 3])


class Coverage:
    """Notes which polygons of a drawing hold a pixel, and which of them can be seen; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawn: set[int] = set()
        self._visible: set[int] = set()

    def add(self, drawn: set[int], visible: set[int]) -> None:
        """Note polygons, by number, that hold a pixel of a region, and those that are not covered there."""
        with self._lock:
            self._drawn |= drawn
            self._visible |= visible

    def lost(self, drawing: Drawing) -> tuple[Counter[str], Counter[str]]:
        """Count polygons by class that have no pixel: those covered wholly by later ones, and those between pixel centres.

        Parameters
        ----------
        drawing
            Of which all regions were painted.
        """
        covered, between = Counter[str](), Counter[str]()
        for number, polygon in enumerate(drawing.polygons):
            if number not in self._drawn:
                between[polygon.name] += 1
            elif number not in self._visible:
                covered[polygon.name] += 1
        return covered, between


@dataclass(frozen=True)
class Drawing:
    """Polygons in the order in which they are drawn, on a background.

    Attributes
    ----------
    polygons
        Later ones cover earlier ones.
    background
        Label of all other pixels.
    outside
        Number of polygons in the file that lie beyond the canvas.
    skipped
        Number of objects in the file of each kind that has no inside (points, lines).
    planes
        Number of objects in each plane (z, t) of the image; one entry where all lie in one plane.
    nuclei
        Number of nuclei of cells that are left out.
    legend
        What the labels mean: names and colours of the file's classes, and those of `DEFAULT_LABELS`.
    """

    polygons: tuple[Polygon, ...]
    background: int
    outside: int
    skipped: Mapping[str, int]
    planes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    nuclei: int = 0
    legend: tuple[Label, ...] = DEFAULT_LABELS

    def losses(self) -> list[str]:
        """Say what the file holds and no pixel will show, as far as that is known before anything is drawn."""
        losses = kinds_told(self.skipped)
        if self.outside:
            lie = "polygons lie" if self.outside > 1 else "polygon lies"
            losses.append(f"{self.outside} {lie} beyond the canvas")
        losses += planes_told(self.planes)
        if self.nuclei:
            losses.append(
                f"{counted(self.nuclei, 'nucleus', 'nuclei')} of cells left out; safron-mask from-geojson --nuclei VALUE draws them"
            )
        return losses

    def paint(self, rows: slice, cols: slice, coverage: Coverage | None = None) -> npt.NDArray[np.uint8]:
        """Labels of a region.

        Parameters
        ----------
        rows, cols
            The region, in canvas pixels.
        coverage
            Where to note which polygons have pixels in the region.

        Returns
        -------
        npt.NDArray[np.uint8]
            uint8 [y, x].
        """
        labels = np.full((rows.stop - rows.start, cols.stop - cols.start), self.background, np.uint8)
        # Which polygon each pixel shows, numbered from 1 in this region.
        shown = None if coverage is None else np.zeros(labels.shape, np.int32)
        near: set[int] = set()
        for cell in _cells((rows.start, cols.start, rows.stop, cols.stop)):
            near.update(self._index.get(cell, ()))
        drawn = sorted(near)
        held: set[int] = set()
        for place, number in enumerate(drawn, 1):
            polygon = self.polygons[number]
            y0, x0, y1, x1 = polygon.box
            y0, y1 = max(y0, rows.start), min(y1, rows.stop)
            x0, x1 = max(x0, cols.start), min(x1, cols.stop)
            if y0 < y1 and x0 < x1:
                part = np.s_[y0 - rows.start : y1 - rows.start, x0 - cols.start : x1 - cols.start]
                within = inside(polygon.edges_at(y0, y1), y0, y1, x0, x1)
                labels[part][within] = polygon.value
                if shown is not None and within.any():
                    shown[part][within] = place
                    held.add(number)
        if coverage is not None and shown is not None:
            seen = np.flatnonzero(np.bincount(shown.reshape(-1), minlength=len(drawn) + 1)[1:])
            coverage.add(held, {drawn[place] for place in seen})
        return labels

    @cached_property
    def _index(self) -> dict[tuple[int, int], list[int]]:
        index: dict[tuple[int, int], list[int]] = {}
        for number, polygon in enumerate(self.polygons):
            for cell in _cells(polygon.box):
                index.setdefault(cell, []).append(number)
        return index


def inside(edges: npt.NDArray[Any], y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.bool_]:
    """Find the pixel centres of a region that lie inside a polygon.

    Parameters
    ----------
    edges
        See `edges_of`.
    y0, y1, x0, x1
        The region, half-open, in pixels.

    Returns
    -------
    npt.NDArray[np.bool_]
        bool [y, x].

    Examples
    --------
    >>> square = edges_of([np.array([[1, 0], [3, 0], [3, 2], [1, 2]])])
    >>> inside(square, 0, 3, 0, 4).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    height, width = y1 - y0, x1 - x0
    first = np.maximum(np.ceil(edges[:, 1] - 0.5), y0)
    last = np.minimum(np.ceil(edges[:, 3] - 0.5), y1)
    met = last > first
    first, counts = first[met].astype(np.int64), (last[met] - first[met]).astype(np.int64)
    xa, ya, xb, yb = np.repeat(edges[met], counts, axis=0).T
    row = np.repeat(first, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    crossing = xa + (row + 0.5 - ya) * ((xb - xa) / (yb - ya))
    # One more column than the region, for crossings to its right.
    col = np.clip(np.ceil(crossing - 0.5) - x0, 0, width).astype(np.int64)
    flips = np.bincount((row - y0) * (width + 1) + col, minlength=height * (width + 1)).astype(np.uint8)
    odd = flips.reshape(height, width + 1)[:, :width] & 1  # a count that wrapped around keeps its parity
    return np.bitwise_xor.accumulate(odd, axis=1).astype(bool)


def edges_of(rings: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """List the edges of closed rings.

    Parameters
    ----------
    rings
        Each float64 or int32 [n, 2]: x, y in pixels.

    Returns
    -------
    npt.NDArray[Any]
        [n, 4] of the same type, without horizontal edges: x, y of the upper end and of the lower end. The tall ones come
        first, the others from top to bottom.
    """
    parts = []
    for ring in rings:
        points = np.asarray(ring)
        edges = np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)
        edges = edges[edges[:, 1] != edges[:, 3]]
        # Oriented alike whichever polygon they belong to, so that a shared edge crosses rows at the same places.
        up = edges[:, 1] > edges[:, 3]
        edges[up] = edges[up][:, [2, 3, 0, 1]]
        parts.append(edges)
    together = np.concatenate(parts)
    return together[np.lexsort((together[:, 1], ~_is_tall(together)))]


def _is_tall(edges: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    tall: npt.NDArray[np.bool_] = edges[:, 3] - edges[:, 1] > TALL
    return tall


def _cells(box: tuple[int, int, int, int]) -> Iterator[tuple[int, int]]:
    y0, x0, y1, x1 = box
    for row in range(y0 // CELL, -(-y1 // CELL)):
        for col in range(x0 // CELL, -(-x1 // CELL)):
            yield row, col
