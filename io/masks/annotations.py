"""Which pixels lie inside the polygons that a pathologist drew?

QuPath exports annotations as GeoJSON. A pixel takes the label of the last polygon that holds its centre, in the order of
the file or from large to small; this depends on the polygon and the pixel alone, so that blocks of any size give the same
mask:

    row centre  ----+=========+----+===+----    pixels between the 1st and 2nd, 3rd and 4th crossing of the
                    1         2    3   4        polygon's edges are inside (even-odd, so holes stay open)

An edge that ends on a row's centre counts for one of the two rows that it touches, so that neighbours neither overlap nor
leave a gap. cv2.fillPoly would be faster, but it also fills the outline, which grows each shape by a pixel.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, one_line
from safron.io.fields import RGB
from safron.io.files import parse_text
from safron.io.legend import DEFAULT_LABELS, Label

UNCLASSIFIED = "unclassified"
"""Name that QuPath's users see for an object without a class or a name."""

MAX_GEOJSON_BYTES = 256 << 20
"""Largest GeoJSON file, unpacked; parsing takes about ten times as much memory."""

CELL = 2048
"""Side of a cell of the index, in pixels."""

ELLIPSE_SIDES = 720
"""A polygon of so many sides differs from an ellipse of 10,000 px by less than 0.1 px."""


@dataclass(frozen=True)
class Polygon:
    """An outer ring with its holes.

    Attributes
    ----------
    value
        Label of the pixels inside, 0..255.
    edges
        float64 [n, 4], pixels: x, y of the upper end and of the lower end; horizontal edges are left out.
    box
        Y0, x0, y1, x1 of the canvas pixels that it may hold, half-open.
    name
        Of its class, for messages.
    area
        In square pixels, without its holes.
    """

    value: int
    edges: npt.NDArray[np.float64]
    box: tuple[int, int, int, int]
    name: str = ""
    area: float = 0.0


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
                within = inside(polygon.edges, y0, y1, x0, x1)
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


def inside(edges: npt.NDArray[np.float64], y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.bool_]:
    """Find the pixel centres of a region that lie inside a polygon.

    Parameters
    ----------
    edges
        See `Polygon`.
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


def edges_of(rings: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Edges of closed rings, each given as points [n, 2] of x, y; upper end first."""
    parts = []
    for ring in rings:
        points = np.asarray(ring, np.float64)
        parts.append(np.concatenate([points, np.roll(points, -1, axis=0)], axis=1))
    edges = np.concatenate(parts)
    # Oriented alike whichever polygon they belong to, so that a shared edge crosses rows at the same places.
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
    order: Literal["file", "area"] = "file",
    nuclei: int | None = None,
    remedy: str = "add them to the labels, or ignore them",
) -> Drawing:
    """Read annotations that QuPath exported.

    Parameters
    ----------
    path
        A FeatureCollection, a list of features or one feature, as it is or packed by gzip.
    height, width
        Canvas pixels; polygons are cut at the edges.
    labels
        Label value by classification (or name, where there is none), in any case; added to the names of
        `DEFAULT_LABELS`.
    ignore
        Classifications that are not drawn.
    background
        Label of all other pixels.
    downsample
        Pixels of the annotated image along one pixel of the mask.
    order
        "file": later polygons cover earlier ones; "area": smaller ones cover larger ones.
    nuclei
        Label of the nuclei of QuPath's cells, drawn upon their cells; None leaves them out, and they are
        counted.
    remedy
        Ends the message on unknown classifications; the caller knows by which option they can be added.

    Raises
    ------
    BadInput
        The file is missing, is no GeoJSON, or larger than `MAX_GEOJSON_BYTES`; it holds no polygon, or one whose
        classification has no label.
    """
    values = _numbered() | {label.name: label.value for label in DEFAULT_LABELS}
    values |= {name.lower(): value for name, value in labels.items()}
    found = parse_text(
        path,
        lambda text: _read_objects(json.loads(text), {name.lower() for name in ignore}, nuclei is not None),
        kind="GeoJSON",
        remedy="export it from QuPath as GeoJSON",
        max_bytes=MAX_GEOJSON_BYTES,
    )
    unknown = Counter(name for name, kind, _ in found.shapes if kind == "" and name.lower() not in values)
    if unknown:
        raise BadInput(_explain(path, unknown, values, remedy))
    polygons = [
        _polygon(
            values[name.lower()] if kind == "" else nuclei or 0,
            name,
            [ring / downsample for ring in rings],
            height,
            width,
        )
        for name, kind, rings in found.shapes
    ]
    if not polygons:
        raise BadInput(f"{path}: none of its {found.count} objects is a polygon to draw")
    here = [polygon for polygon in polygons if _box_area(polygon.box)]
    if not here:
        raise BadInput(
            f"{path}: all its polygons lie beyond a canvas of {width} x {height} pixels; "
            "check the size, or pass --downsample where the mask is smaller than the annotated image"
        )
    if order == "area":
        here.sort(key=lambda polygon: -polygon.area)
    return Drawing(
        tuple(here),
        background,
        len(polygons) - len(here),
        dict(found.skipped),
        dict(found.planes),
        found.nuclei,
        _legend(found, values, () if labels else DEFAULT_LABELS),
    )


def _numbered() -> dict[str, int]:
    """Names of labels that have none, as `safron-mask to-geojson` writes them."""
    return {f"label {value}": value for value in range(256)}


def _legend(found: _Objects, values: Mapping[str, int], usual: Sequence[Label]) -> tuple[Label, ...]:
    """Names and colours of the classes of a file; the first class of each label counts."""
    meanings: dict[int, Label] = {}
    for name, kind, _ in found.shapes:
        value = values.get(name.lower())
        color = found.colors.get(name)
        if kind == "" and value is not None and value not in meanings and color is not None:
            meanings[value] = Label(value, name, color)
    rest = {label.value: label for label in usual}
    return tuple((rest | meanings)[value] for value in sorted({*rest, *meanings}))


@dataclass
class _Objects:
    """The objects of a file.

    Attributes
    ----------
    count
        Number of features.
    shapes
        Name, "" or "nucleus", and rings of each polygon.
    skipped, planes, nuclei
        See `Drawing`.
    colors
        RGB by class, where the file says.
    """

    count: int
    shapes: list[tuple[str, str, list[npt.NDArray[np.float64]]]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    planes: Counter[tuple[int, int]] = field(default_factory=Counter)
    nuclei: int = 0
    colors: dict[str, RGB] = field(default_factory=dict)


def _read_objects(document: Any, ignore: set[str], with_nuclei: bool) -> _Objects:
    if isinstance(document, dict):
        document = document.get("features", [document])
    if not isinstance(document, list) or not all(isinstance(f, dict) and "geometry" in f for f in document):
        raise ValueError("no GeoJSON features in it")
    objects = _Objects(len(document))
    for number, feature in enumerate(document):
        try:
            name = feature_name(feature)
            geometry = feature.get("geometry") or {"type": "no geometry"}
            found, rest = outlines(geometry)
            nucleus, _ = outlines(feature.get("nucleusGeometry") or {"type": "none"})
            plane = geometry.get("plane") or {}
            place = int(plane.get("z", 0)), int(plane.get("t", 0))
        except Exception as error:
            raise ValueError(f"feature {number} has no valid geometry: {one_line(error)}") from error
        objects.skipped.update(rest)
        if name.lower() in ignore or not found:
            continue
        objects.planes[place] += 1
        if (color := _color(feature)) is not None:
            objects.colors.setdefault(name, color)
        objects.shapes += [(name, "", rings) for rings in found]
        if with_nuclei:
            objects.shapes += [(name, "nucleus", rings) for rings in nucleus]
        elif nucleus:
            objects.nuclei += 1
    return objects


def feature_name(feature: Mapping[str, Any]) -> str:
    """Classification, else name, of an object."""
    properties = feature.get("properties") or {}
    classification = properties.get("classification") or {}
    names = classification.get("names")  # of classes within classes
    name = ": ".join(names) if names else classification.get("name")
    return str(name or properties.get("name") or UNCLASSIFIED).strip()


def _color(feature: Mapping[str, Any]) -> RGB | None:
    """Colour of an object's class: three bytes; None where it is written otherwise."""
    properties = feature.get("properties") or {}
    color = (properties.get("classification") or properties).get("color")
    if (
        isinstance(color, list)
        and len(color) == 3
        and all(isinstance(c, int) and 0 <= c <= 255 for c in color)
    ):
        return color[0], color[1], color[2]
    return None


def outlines(geometry: Mapping[str, Any]) -> tuple[list[list[npt.NDArray[np.float64]]], list[str]]:
    """Split a geometry into the rings of its polygons, and the kinds of everything else in it."""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        parts = [outlines(part) for part in geometry["geometries"]]
        return [rings for found, _ in parts for rings in found], [name for _, rest in parts for name in rest]
    if kind not in ("Polygon", "MultiPolygon"):
        return [], [str(kind)]
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


def _polygon(
    value: int, name: str, rings: Sequence[npt.NDArray[np.float64]], height: int, width: int
) -> Polygon:
    size = (width, height)
    x0, y0 = np.clip(np.floor(rings[0].min(axis=0)), 0, size).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(rings[0].max(axis=0)), 0, size).astype(int).tolist()
    areas = [_ring_area(ring) for ring in rings]
    return Polygon(value, edges_of(rings), (y0, x0, y1, x1), name, areas[0] - sum(areas[1:]))


def _ring_area(ring: npt.NDArray[np.float64]) -> float:
    x, y = (ring - ring[0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _box_area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _explain(path: Path, unknown: Counter[str], values: Mapping[str, int], remedy: str) -> str:
    values = {name: value for name, value in values.items() if name not in _numbered()}
    found = ", ".join(f"{name!r} ({count})" for name, count in unknown.most_common(12))
    known = ", ".join(f"{name}={value}" for name, value in values.items())
    return f"{path}: no label is known for {found}; known are {known}; {remedy}"
