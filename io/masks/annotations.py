"""Which pixels lie inside the polygons that a pathologist drew?

QuPath exports annotations as GeoJSON. A pixel takes the label of the last polygon in the file that holds its
centre; the answer depends on the polygon and the pixel alone, so that blocks of any size give the same mask:

    row centre  ----+=========+----+===+----    pixels between the 1st and 2nd, 3rd and 4th crossing of the
                    1         2    3   4        polygon's edges are inside (even-odd, so holes stay open)

An edge that ends on a row's centre counts for one of the two rows it touches, so neighbours neither overlap nor
leave a gap. cv2.fillPoly would be faster, and would also paint the outline, which grows each shape by a pixel.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.legend import DEFAULT_LABELS

UNCLASSIFIED = "unclassified"
"""How QuPath's users know an object that has neither a class nor a name."""

CELL = 2048
"""Side of a cell of the index, in pixels."""

ELLIPSE_SIDES = 720
"""An ellipse of 10,000 px strays from a polygon of so many sides by less than 0.1 px."""


@dataclass(frozen=True)
class Polygon:
    """An outer ring with its holes.

    Attributes
    ----------
    value : label of the pixels inside, 0..255.
    edges : float64 [n, 4], pixels: x, y of the upper end and of the lower end; horizontal edges are left out.
    box : y0, x0, y1, x1 of the canvas pixels that it may hold, half-open.
    """

    value: int
    edges: npt.NDArray[np.float64]
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Drawing:
    """Polygons in the order in which they are drawn, on a background.

    Attributes
    ----------
    polygons : later ones cover earlier ones.
    background : label of all other pixels.
    outside : how many polygons the file held beyond the canvas.
    skipped : how many objects of each kind that has no inside (points, lines) the file held.
    """

    polygons: tuple[Polygon, ...]
    background: int
    outside: int
    skipped: Mapping[str, int]

    def paint(self, rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        """Labels of a region.

        Parameters
        ----------
        rows, cols : the region, in canvas pixels.

        Returns
        -------
        labels : uint8 [y, x]
        """
        labels = np.full((rows.stop - rows.start, cols.stop - cols.start), self.background, np.uint8)
        near: set[int] = set()
        for cell in _cells((rows.start, cols.start, rows.stop, cols.stop)):
            near.update(self._index.get(cell, ()))
        for number in sorted(near):
            polygon = self.polygons[number]
            y0, x0, y1, x1 = polygon.box
            y0, y1 = max(y0, rows.start), min(y1, rows.stop)
            x0, x1 = max(x0, cols.start), min(x1, cols.stop)
            if y0 < y1 and x0 < x1:
                part = labels[y0 - rows.start : y1 - rows.start, x0 - cols.start : x1 - cols.start]
                part[inside(polygon.edges, y0, y1, x0, x1)] = polygon.value
        return labels

    @cached_property
    def _index(self) -> dict[tuple[int, int], list[int]]:
        index: dict[tuple[int, int], list[int]] = {}
        for number, polygon in enumerate(self.polygons):
            for cell in _cells(polygon.box):
                index.setdefault(cell, []).append(number)
        return index


def inside(edges: npt.NDArray[np.float64], y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.bool_]:
    """Tell which pixel centres of a region lie inside a polygon.

    Parameters
    ----------
    edges : see `Polygon`.
    y0, y1, x0, x1 : the region, half-open, in pixels.

    Returns
    -------
    inside : bool [y, x]

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
    # One column more than the region, for what crosses to its right.
    col = np.clip(np.ceil(crossing - 0.5) - x0, 0, width).astype(np.int64)
    flips = np.bincount((row - y0) * (width + 1) + col, minlength=height * (width + 1)).astype(np.uint8)
    odd = flips.reshape(height, width + 1)[:, :width] & 1  # a wrapped count is as odd as the count
    return np.bitwise_xor.accumulate(odd, axis=1).astype(bool)


def edges_of(rings: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Edges of closed rings, each given as points [n, 2] of x, y; upper end first."""
    parts = []
    for ring in rings:
        points = np.asarray(ring, np.float64)
        parts.append(np.concatenate([points, np.roll(points, -1, axis=0)], axis=1))
    edges = np.concatenate(parts)
    # Turned the same way whichever polygon they belong to, so that a shared edge crosses rows at the same spots.
    down = edges[:, 1] <= edges[:, 3]
    edges = np.where(down[:, None], edges, edges[:, [2, 3, 0, 1]])
    return edges[edges[:, 1] < edges[:, 3]]


def _cells(box: tuple[int, int, int, int]) -> Iterator[tuple[int, int]]:
    y0, x0, y1, x1 = box
    for row in range(y0 // CELL, -(-y1 // CELL)):
        for col in range(x0 // CELL, -(-x1 // CELL)):
            yield row, col


def read_geojson(
    path: Path,
    *,
    height: int,
    width: int,
    labels: Mapping[str, int],
    ignore: Sequence[str] = (),
    background: int = 0,
    downsample: float = 1.0,
) -> Drawing:
    """Read the annotations that QuPath exported.

    Parameters
    ----------
    path : a FeatureCollection, a list of features or one feature.
    height, width : canvas pixels; polygons are cut at the edges.
    labels : label value by classification (or name, where there is none), in any case; added to
        the names of `DEFAULT_LABELS`.
    ignore : classifications that are not drawn.
    background : label of all other pixels.
    downsample : pixels of the annotated image along one pixel of the mask.

    Raises
    ------
    BadInput
        The file is missing or no GeoJSON, holds no polygon, or one whose classification has no label.
    """
    features = _features(path)
    values = {label.name: label.value for label in DEFAULT_LABELS} | {
        name.lower(): value for name, value in labels.items()
    }
    skip = {name.lower() for name in ignore}
    polygons: list[Polygon] = []
    skipped: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for number, feature in enumerate(features):
        try:
            name = _name(feature)
            found, rest = _outlines(feature.get("geometry") or {"type": "no geometry"})
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: feature {number} has no valid geometry ({error!r})") from error
        skipped.update(rest)
        if name.lower() in skip or not found:
            continue
        if name.lower() not in values:
            unknown[name] += len(found)
            continue
        value = values[name.lower()]
        polygons += [_polygon(value, rings, height, width) for rings in _scaled(found, downsample)]
    if unknown:
        raise BadInput(_explain(path, unknown, values))
    if not polygons:
        raise BadInput(f"{path}: none of its {len(features)} objects is a polygon to draw")
    here = tuple(polygon for polygon in polygons if _area(polygon.box))
    if not here:
        raise BadInput(
            f"{path}: all its polygons lie beyond a canvas of {width} x {height} pixels; "
            "check the size, or pass --downsample where the mask is smaller than the annotated image"
        )
    return Drawing(here, background, len(polygons) - len(here), dict(skipped))


def _features(path: Path) -> list[Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; pass a GeoJSON file exported from QuPath") from error
    except ValueError as error:
        raise BadInput(
            f"{path}: no JSON ({error}); export it from QuPath as GeoJSON, uncompressed"
        ) from error
    if isinstance(document, dict):
        document = document.get("features", [document])
    if not isinstance(document, list) or not all(isinstance(f, dict) and "geometry" in f for f in document):
        raise BadInput(f"{path}: no GeoJSON features in it; export it from QuPath as GeoJSON")
    return document


def _name(feature: Mapping[str, Any]) -> str:
    """Classification, else name, of an object."""
    properties = feature.get("properties") or {}
    classification = properties.get("classification") or {}
    names = classification.get("names")  # of classes within classes
    name = ": ".join(names) if names else classification.get("name")
    return str(name or properties.get("name") or UNCLASSIFIED).strip()


def _outlines(geometry: Mapping[str, Any]) -> tuple[list[list[npt.NDArray[np.float64]]], list[str]]:
    """Split a geometry into the rings of its polygons and the kinds of all else it holds."""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        parts = [_outlines(part) for part in geometry["geometries"]]
        return [rings for found, _ in parts for rings in found], [name for _, rest in parts for name in rest]
    if kind not in ("Polygon", "MultiPolygon"):
        return [], [kind]
    coordinates = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    polygons = [[_ring(ring) for ring in polygon] for polygon in coordinates if polygon]
    if geometry.get("isEllipse"):  # QuPath's mark: the polygon stands for the ellipse in its bounding box
        polygons = [[_ellipse(rings[0])] for rings in polygons]
    return polygons, []


def _ring(points: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    ring = np.array([point[:2] for point in points], np.float64)
    if ring.shape[1:] != (2,) or not np.isfinite(ring).all():
        raise ValueError("a ring without finite x, y")
    return ring


def _ellipse(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = ring.min(axis=0), ring.max(axis=0)
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_SIDES, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (high - low) / 2 + (low + high) / 2
    return np.asarray(points, np.float64)


def _scaled(
    polygons: Sequence[Sequence[npt.NDArray[np.float64]]], downsample: float
) -> Iterator[list[npt.NDArray[np.float64]]]:
    for rings in polygons:
        yield [ring / downsample for ring in rings]


def _polygon(value: int, rings: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> Polygon:
    size = (width, height)
    x0, y0 = np.clip(np.floor(rings[0].min(axis=0)), 0, size).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(rings[0].max(axis=0)), 0, size).astype(int).tolist()
    return Polygon(value, edges_of(rings), (y0, x0, y1, x1))


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _explain(path: Path, unknown: Counter[str], values: Mapping[str, int]) -> str:
    found = ", ".join(f"{name!r} ({count})" for name, count in unknown.most_common(12))
    first = next(iter(unknown))
    known = ", ".join(f"{name}={value}" for name, value in values.items())
    return (
        f"{path}: no label is known for {found}; known are {known}; pass --label '{first}=2' or "
        f"--ignore '{first}', and so on"
    )
